#!/usr/bin/env python3
"""Are the peers right? Each adapter over the real system, where it is installed, on small and V3.2-sized cases.

    PYTHONPATH=golden python tests/golden/outside_peers.py [--seconds 150] [--peer flashmla] [--report FILE.json]

Needs a GPU, PyTorch, dsa-reference (TOUCHSTONE_REFERENCE, or build/), and whichever peers there are: a missing one is
named in a sentence. Each op of a peer runs in a process of its own, all at once, so that one that crashes, hangs or
compiles for long spoils no other; what was not asked when the time was up is counted as such. Not part of `make test`.

Exit codes: 0 if all that ran is right, 1 if something is wrong, 2 if nothing ran.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from touchstone import Refusal, cases, choices, make
from touchstone.check import Checked, Options, check_case, described, questions, write_inputs
from touchstone.mistakes import diagnose
from touchstone.plugins import Limits, Worker
from touchstone.report import as_dict
from touchstone.telling.inputs import Inputs

MODULES = ("flashmla", "deepgemm", "flashinfer", "vllm", "sglang", "transformers")
DISTRIBUTIONS = ("torch", "sgl-flash-mla", "flash-mla", "sgl-deep-gemm", "deep-gemm", "flashinfer-python", "vllm", "sglang",
                 "sglang-kernel", "sgl-kernel", "transformers")  # fmt: skip
ONE_CALL = 120.0  # seconds: a peer may compile its kernels in the first
ALIKE = 3  # so many failures in a row in the same words are the peer's or the machine's, not the cases'
SEED = "outside_peers"
one_large_at_a_time = threading.Lock()  # the answers of full cases need gigabytes


class TimeIsUp(Exception):
    """The rest is not asked."""


@dataclass
class Row:
    """An op of a peer, and what became of it."""

    module: str  # of touchstone.adapters
    entry: str  # the adapter's name there: its op, or its op and which entry of the peer
    op: str
    results: list[Checked] = field(default_factory=list)
    asked: int = 0
    why_not_more: str = ""

    def count(self, *states: str) -> int:
        return sum(r.state in states for r in self.results)

    @property
    def ran(self) -> int:
        return self.count("right", "wrong")


def all_cases() -> list[cases.Case]:
    """Every case but those of gigabytes, read without the schema: the tests hold the files to that."""
    families = [json.loads(path.read_text()) for path in sorted(cases.CASES.glob("*.json")) if path.name != "schema.json"]
    return [cases.Case(f["op"], entry) for f in families for entry in f["cases"] if "huge" not in entry["flags"]]


def rows_of(modules: list[str]) -> list[Row]:
    """Every op of every adapter."""
    ops = sorted({case.op for case in all_cases()}, key=len, reverse=True)
    found = []
    for name in modules:
        for function in vars(importlib.import_module(f"touchstone.adapters.{name}")):
            if function.startswith("plugin_"):
                entry = function.removeprefix("plugin_")
                found.append(Row(name, entry, next(op for op in ops if entry.startswith(op))))
    return found


def ask(row: Row, deadline: float) -> None:
    """Every case of the row's op: public ones, V3.2's sizes, then such as nobody has seen."""
    conventions = importlib.import_module(f"touchstone.adapters.{row.module}").conventions[row.entry]
    options = Options(conventions=conventions, private_seed=SEED)
    own = [case for case in all_cases() if case.op == row.op]
    asked = sorted(questions(own, options), key=lambda case: ("@" in case.name or "random" in case.flags, case.size == "full"))
    if row.module == "transformers":
        asked = [case for case in own if case.size == "small"]
    worker = Worker("python", f"touchstone.adapters.{row.module}:plugin_{row.entry}", Limits(), "numpy", "cuda")

    def run(op: str, in_dir: Path, out_dir: Path):
        left = deadline - time.monotonic()
        if left < 1:
            raise TimeIsUp
        worker.limits = Limits(min(ONE_CALL, left), 64 << 30)
        ran = worker.run(op, in_dir, out_dir)
        if ran.state == "failed":
            worker.close()  # after an error of CUDA a process is good for nothing
        return ran

    row.asked = len(asked)
    judged = selection_of_transformers if row.module == "transformers" else check_case
    try:
        for case in asked:
            if case.size == "full":
                with one_large_at_a_time:
                    row.results.append(judged(case, run, options))
            else:
                row.results.append(judged(case, run, options))
            last = row.results[-ALIKE:]
            if len(last) == ALIKE and all(r.state == "failed" and r.sentence == last[0].sentence for r in last):
                row.why_not_more = last[0].sentence
                break
    except TimeIsUp:
        row.why_not_more = "the time was up"
    except Refusal as refusal:
        row.why_not_more = str(refusal)
    except Exception as error:  # noqa: BLE001 - the table must be printed whatever a peer does
        row.why_not_more = f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        worker.close()


def selection_of_transformers(case: cases.Case, run, options: Options) -> Checked:
    """The stage topk_indices, judged by the exact tier's own logits: transformers rounds nothing to bf16 on the way.

    The bound is that of the longest chain of float32 sums, D + R_q products of numbers as large as the largest logit.
    """
    description = described(case, options)
    with tempfile.TemporaryDirectory(prefix="touchstone_") as scratch:
        home = Path(scratch)
        write_inputs(case, description, home / "in")
        (home / "out").mkdir()
        ran = run(case.op, home / "in", home / "out")
        if ran.state != "ran":
            return Checked(case, ran.state, ran.sentence, seconds=ran.seconds, description=description)
        command = [options.reference, "op", case.op, home / "in", home / "exact", "--tier", "exact", "--stages"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        indices, logits = np.load(home / "out" / "topk_indices.npy"), np.load(home / "exact" / "indexer_logits.npy")
        inputs = Inputs(description["tensors"], description["seed"])
        start = inputs.integers("start") if inputs.has("start") else np.zeros(len(logits), int)
    products = sum(description["tensors"]["W_dq"]["shape"])
    bound = products * 2.0**-24 * np.abs(logits[np.isfinite(logits)]).max()
    for t, row in enumerate(indices):
        scores = logits[t, start[t] : t + 1]
        must, must_not = choices.must_and_must_not(scores, np.full(scores.shape, bound), indices.shape[1])
        used = row[row != -1] - start[t]
        chosen = np.isin(np.arange(len(scores)), used)
        if not (len(used) == chosen.sum() == min(indices.shape[1], len(scores)) and not (must & ~chosen).any() and not (must_not & chosen).any()):
            return Checked(case, "wrong", f"row {t} has {sorted(row.tolist())}, which its scores do not allow", seconds=ran.seconds, description=description)
    return Checked(case, "right", seconds=ran.seconds, description=description)


def find_libraries() -> None:
    """CUDA's compiler and libraries, where the processes of the peers look for them."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    os.environ.setdefault("CUDA_HOME", str(Path(nvcc).resolve().parents[1]))
    wheels = [str(folder) for entry in sys.path for folder in Path(entry or ".").glob("nvidia/*/lib")]
    paths = [*wheels, os.environ["CUDA_HOME"] + "/lib64", os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(p for p in paths if p)


def versions() -> str:
    """Of what is installed."""
    found = []
    for name in DISTRIBUTIONS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def tell(rows: list[Row]) -> None:
    """The table, and what is wrong in words."""
    print("| peer | adapter | right | wrong | failed | not implemented | not asked | worst error / bound |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        if row.ran:
            ratio = max((v.ratio for r in row.results if r.state == "right" for v in r.verdicts), default=0.0)
            print(f"| {row.module} | {row.entry} | {row.count('right')} | {row.count('wrong')} | {row.count('failed')} "
                  f"| {row.count('not implemented')} | {row.asked - len(row.results)} | {ratio:.2g} |")  # fmt: skip
    print()
    for row in rows:
        name = f"{row.module}.{row.entry}"
        if row.why_not_more:
            print(f"{name}: {'asked no further' if row.ran else 'not run'}: {row.why_not_more}")
        for state in ("wrong", "failed", "not implemented"):
            told = {r.sentence: r for r in reversed(row.results) if r.state == state and r.sentence != row.why_not_more}
            for sentence, result in list(reversed(told.items()))[:4]:
                print(f"{name}: {state} {result.case.name}: {sentence}")
        if row.module != "transformers" and (known := diagnose([r for r in row.results if r.case.size == "small"])):
            print(f"{name}: {known}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150.0, help="after which no case is asked any more")
    parser.add_argument("--peer", action="append", choices=MODULES, help="only this one; may be repeated")
    parser.add_argument("--report", type=Path, help="everything, as JSON")
    arguments = parser.parse_args()
    try:
        make.reference_program()
    except Refusal as refusal:
        print(refusal)
        return 2
    find_libraries()
    print(versions(), flush=True)
    rows = rows_of(arguments.peer or list(MODULES))
    deadline = time.monotonic() + arguments.seconds
    with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
        list(pool.map(lambda row: ask(row, deadline), rows))
    tell(rows)
    if arguments.report:
        told = [{"adapter": f"{r.module}.{r.entry}", "why_not_more": r.why_not_more, **as_dict(r.results, Options(private_seed=SEED), "")} for r in rows]
        arguments.report.write_text(json.dumps(told, indent=1) + "\n")
    if not any(row.ran for row in rows):
        return 2
    return 1 if any(row.count("wrong") or (row.ran and row.count("failed")) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
