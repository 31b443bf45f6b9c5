"""Is this kernel right? Runs a plug-in over cases and judges what it gives.

The order matters: a plug-in runs first, in a folder of its own, and the answer is fetched or computed afterwards, where
it cannot have looked. Beside the public cases it gets private ones: the same with another seed, and random ones.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np

from . import Missing, Refusal, arrays, cases, contract, dtypes, judge, make, recipes, require
from .cases import Case
from .diff import place_of
from .files import hashes_of
from .plugins import Limits, Ran, read_outputs
from .telling.inputs import Inputs
from .verdict import Golden, Verdict

KEPT_ELEMENTS = 1 << 22
LARGEST_INPUT = 1 << 32  # bytes; larger tensors are left to be generated from their fill


@dataclass
class Options:
    """How a check is done."""

    private: int = 1  # random cases an op; 0 leaves out the reseeded ones too
    private_seed: str = ""  # drawn afresh where it is empty; printed, so that a failure can be repeated
    runs: int = 2  # the same bits are expected from each
    unsteady: bool = False  # whether floats may differ from run to run, within their bounds
    tier: str = "deployed"
    against: str = "both"
    claims: tuple = ()
    conventions: object = None  # what the plug-in follows: a preset in place of each case's, or switches over it
    sample: int = 0  # judge at most this many rows, drawn by the private seed; 0: all
    limits: Limits = field(default_factory=Limits)
    goldens: Path | None = None  # made ones, to save time
    reference: Path | None = None

    def __post_init__(self):
        self.private_seed = self.private_seed or secrets.token_hex(8)
        self.reference = self.reference or make.reference_program()


@dataclass
class Checked:
    """What became of one case."""

    case: Case
    state: str  # right, wrong, failed, not implemented
    sentence: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0
    outputs: dict[str, np.ndarray] = field(default_factory=dict)  # of a case that is not large, for a diagnosis
    description: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict, repr=False)  # what the diagnosis has computed

    @property
    def first_wrong(self) -> Verdict | None:
        return next((v for v in self.verdicts if not v.right), None)


def write_inputs(case: Case, description: dict, folder: Path) -> None:
    """case.json and one .npy a tensor, for a plug-in."""
    folder.mkdir(parents=True)
    inputs = Inputs(description["tensors"], description["seed"])
    for name, entry in description["tensors"].items():
        if int(np.prod(entry["shape"], dtype=np.int64)) * dtypes.storage(entry["dtype"]).itemsize <= LARGEST_INPUT:
            np.save(folder / f"{name}.npy", inputs.stored(name), allow_pickle=False)
    (folder / "case.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def golden_of(description: dict, in_dir: Path, out_dir: Path, options: Options, follow: Path | None = None) -> Golden:
    """The answer to a case, computed now."""
    command = [options.reference, "golden", in_dir, out_dir, *(["--follow", follow] if follow else [])]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    require(run.returncode in (0, 1) and (out_dir / "golden.json").exists(),
            f"{description['name']}: {run.stderr.strip() or 'the reference gave no answer'}")  # fmt: skip
    return Golden(out_dir)


def made_golden(case: Case, options: Options) -> Golden | None:
    """The answer to a public case, if it was made before, as it was locked."""
    folder = (options.goldens or make.DEFAULT) / case.name
    if options.conventions is not None or not (folder / "manifest.json").exists():
        return None
    return Golden(folder) if cases.read_json(folder / "manifest.json").get("case") == case.description() else None


def described(case: Case, options: Options) -> dict:
    """case.json's content for a plug-in, in the tier and by the conventions that it follows."""
    description = case.description() | {"tier": options.tier}
    if options.conventions is not None:
        own, given = ({"preset": c} if isinstance(c, str) else dict(c) for c in (case.entry["conventions"], options.conventions))
        description["conventions"] = given if "preset" in given else own | given
    return description


def check_case(case: Case, run: Callable[[str, Path, Path], Ran], options: Options) -> Checked:
    """One case: run, run again, judge. run(op, in_dir, out_dir) calls the plug-in."""
    description = described(case, options)
    with tempfile.TemporaryDirectory(prefix="touchstone_") as scratch:
        home = Path(scratch)
        rows = sampled_rows(case, options)
        results = []
        seconds = 0.0
        write_inputs(case, description, home / "inputs")
        before = hashes_of(home / "inputs")
        for number in range(max(1, options.runs)):
            out_dir = home / secrets.token_hex(8)
            out_dir.mkdir()
            ran = run(case.op, home / "inputs", out_dir)
            seconds += ran.seconds
            if ran.state != "ran":
                state = "not implemented" if ran.state == "not implemented" else "failed"
                return Checked(case, state, ran.sentence, seconds=seconds, description=description)
            if hashes_of(home / "inputs") != before:
                return Checked(case, "wrong", "the plug-in changed its inputs' folder: inputs are read-only", seconds=seconds, description=description)
            results.append(out_dir)
        checked = judged(case, description, results, home / "inputs", home, options, rows)
        checked.seconds = seconds / len(results)
        if sum(array.size for array in checked.outputs.values()) > KEPT_ELEMENTS:
            checked.outputs = {}
        checked.description = description
        return checked


def judged(case: Case, description: dict, results: list[Path], question: Path, home: Path, options: Options, rows) -> Checked:
    """The verdict on the runs' outputs."""
    op = contract.OPS[case.op]
    shapes = {name: tuple(entry["shape"]) for name, entry in description["tensors"].items()}
    own = contract.output_shapes(op, shapes, description["parameters"])
    golden = whole_chain = None
    if rows is not None:
        description, question = sampled_question(description, question, home / "sampled", op, rows)
    elif not case.name.endswith("@private") and "random" not in case.flags:
        golden = made_golden(case, options)
    golden = golden or golden_of(description, question, home / "golden", options)
    expected = {name: golden.stored("deployed", name).shape for name in golden.names}
    if rows is not None:
        expected = own
    read = [read_outputs(folder, expected) for folder in results]
    for outputs, complaints in read:
        if complaints:
            return Checked(case, "wrong", complaints[0])
    outputs = read[0][0]

    def in_tier(name: str) -> bool:
        """A quantiser's scale is no number of the exact tier."""
        return options.tier == "deployed" or golden.stored("exact", name) is not None

    missing = [t.name for t in op.outputs if in_tier(t.name) and t.name not in outputs]
    if missing:
        written = ", ".join(sorted(p.name for p in results[0].iterdir())) or "nothing"
        return Checked(case, "wrong", f"the output {missing[0]}.npy is missing; the plug-in wrote {written}")
    if op.staged:
        require(options.tier == "deployed", f"{op.name} is judged in the deployed tier, stage by stage; check single ops with --tier exact")
        choices = [n for n in golden.names if golden.dtype(n) == "int32"]
        for name in choices:
            if name not in outputs:
                return Checked(case, "wrong", f"{name}.npy is missing: an op of many stages must show its choices ({', '.join(choices)}), "
                               "since what follows depends on them; each further stage that it shows is judged too", outputs=outputs)  # fmt: skip
        shown = [n for n in golden.names if n in outputs]
        if all(outputs[n].shape == expected[n] and outputs[n].dtype == golden.stored("deployed", n).dtype for n in shown):
            golden = golden_of(description, question, home / "followed", options, results[0])
            chosen = home / "chosen"
            chosen.mkdir()
            for name in choices:
                shutil.copy(results[0] / f"{name}.npy", chosen)
            whole_chain = golden_of(description, question, home / "end_to_end", options, chosen)
    if rows is not None:
        read = [(cut_rows(o, op, rows, own), c) for o, c in read]
        outputs = read[0][0]
    all_verdicts: list[Verdict] = []
    for number, (outputs_of_run, _) in enumerate(read):
        names = sorted((name for name in golden.names if name in outputs_of_run and in_tier(name)), key=place_of)
        verdicts = judge.judge(golden, outputs_of_run, names, options.tier, options.against, options.claims)
        if judge.right(verdicts) and whole_chain is not None:
            verdicts += [v for v in judge.judge_end_to_end(whole_chain, outputs_of_run, names) if not v.right]
        if number == 0 or not judge.right(verdicts):
            all_verdicts = verdicts
        if not judge.right(verdicts):
            which = f" in run {number + 1}" if number else ""
            wrong = next(v for v in verdicts if not v.right)
            return Checked(case, "wrong", wrong.sentence + which, all_verdicts, outputs=outputs_of_run)
    unsteady = steadiness(read, golden, options)
    if unsteady:
        return Checked(case, "wrong", unsteady, all_verdicts, outputs=outputs)
    return Checked(case, "right", "", all_verdicts, outputs=outputs)


def steadiness(read: list, golden: Golden, options: Options) -> str:
    """The first output that differs from run to run, in one sentence."""
    first = read[0][0]
    for number, (other, _) in enumerate(read[1:], start=2):
        for name in first:
            if name not in other or first[name].tobytes() != other[name].tobytes():
                if not (options.unsteady and golden.dtype(name) not in ("int32", "uint8")):
                    return (f"{name} differs between run 1 and run {number} on the same inputs: "
                            "a kernel gives the same bits each time (--unsteady allows floats to differ)")  # fmt: skip
    return ""


# Sampled rows


def sampled_rows(case: Case, options: Options) -> np.ndarray | None:
    """Which rows of a large case are judged; None for all."""
    op = contract.OPS[case.op]
    if not options.sample or not op.rows:
        return None
    extent = next(case.entry["tensors"][t.name]["shape"][0] for t in op.inputs if t.axes[0] == op.rows)
    if extent <= options.sample:
        return None
    draw = np.random.default_rng(int.from_bytes(f"{options.private_seed}/{case.name}".encode(), "little"))
    inner = draw.choice(np.arange(1, extent - 1), options.sample - 2, replace=False) if options.sample > 2 else []
    return np.unique(np.concatenate([[0, extent - 1], inner]).astype(int)[: max(1, options.sample)])


def sampled_question(description: dict, inputs: Path, folder: Path, op: contract.Op, rows: np.ndarray) -> tuple[dict, Path]:
    """The same case with these rows only: rows of such ops do not depend on each other."""
    shutil.copytree(inputs, folder)
    small = json.loads(json.dumps(description))
    for tensor in op.inputs:
        entry = small["tensors"].get(tensor.name)
        if entry is None or tensor.axes[0] != op.rows:
            continue
        array = np.load(folder / f"{tensor.name}.npy", allow_pickle=False)[rows]
        entry |= {"shape": list(array.shape)}
        for key in ("fill", "set", "set_rows"):
            entry.pop(key, None)
        np.save(folder / f"{tensor.name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    (folder / "case.json").write_text(json.dumps(small), encoding="utf-8")
    return small, folder


def cut_rows(outputs: dict, op: contract.Op, rows: np.ndarray, shapes: dict) -> dict:
    """The sampled rows of outputs that have the right shape; others stay, to be complained of."""
    by_row = {t.name for t in op.outputs if t.axes[0] == op.rows}
    return {n: a[rows] if n in by_row and a.shape == shapes[n] else a for n, a in outputs.items()}


# Whole checks


def questions(chosen: list[Case], options: Options) -> list[Case]:
    """The public cases, each small one with a private seed too, and random ones."""
    asked = []
    for case in chosen:
        asked.append(case)
        if options.private and case.size == "small" and not case.is_stored:  # a seed would change nothing
            asked.append(recipes.reseeded(case, options.private_seed))
    for op in dict.fromkeys(case.op for case in chosen):
        if op in contract.OPS:
            asked += [recipes.random_case(op, options.private_seed, number) for number in range(options.private)]
    return asked


def check_all(chosen: list[Case], run: Callable[[str, Path, Path], Ran] | Sequence[Callable[[str, Path, Path], Ran]],
              options: Options, report: Callable[[Checked, int, int], None] | None = None) -> list[Checked]:  # fmt: skip
    """Every question, in their order. An op that a plug-in does not implement is asked no more once that is known.

    run: calls the plug-in; several ask it as many cases at once, each from a thread of its own.
    report(checked, done, all): called after each case, by one thread at a time.
    """
    runs = list(run) if isinstance(run, Sequence) else [run]
    asked = questions(chosen, options)
    results: list[Checked | None] = [None] * len(asked)
    absent: dict[str, str] = {}
    answered: set[str] = set()
    waiting = iter(enumerate(asked))
    lock = threading.Lock()
    done = 0

    def ask_until_none_is_left(run) -> None:
        nonlocal done
        while True:
            with lock:
                number, case = next(waiting, (None, None))
                known = absent.get(case.op) if case else None
            if case is None:
                return
            if known is not None:
                checked = Checked(case, "not implemented", known)
            elif case.op not in contract.OPS:
                checked = Checked(case, "not implemented", "goldens of whole models are for `touchstone diff`")
            else:
                checked = check_case(case, run, options)
            with lock:
                results[number] = checked
                done += 1
                if checked.state != "not implemented":
                    answered.add(case.op)
                elif case.op not in answered:
                    absent[case.op] = checked.sentence
                if report:
                    report(checked, done, len(asked))

    if len(runs) == 1:
        ask_until_none_is_left(runs[0])
        return results
    with ThreadPoolExecutor(len(runs)) as pool:
        try:
            for future in as_completed([pool.submit(ask_until_none_is_left, run) for run in runs]):
                future.result()
        finally:  # after a refusal or Ctrl-C, the other threads end with the case that they are at
            waiting = iter(())
    return results


def status(results: list[Checked]) -> int:
    """0: everything that ran is right. 1: something is wrong. 2: nothing was judged at all."""
    if any(r.state in ("wrong", "failed") for r in results):
        return 1
    return 0 if any(r.state == "right" for r in results) else 2


def function_runner(function, library: str = "numpy", device: str = "cpu"):
    """run(op, in_dir, out_dir) for a Python function in this process: a debugger works, limits do not."""
    from .worker import call_python, raised

    def run(op: str, in_dir: Path, out_dir: Path) -> Ran:
        description = json.loads((in_dir / "case.json").read_text(encoding="utf-8"))
        begin = time.monotonic()
        try:
            outputs = call_python(function, op, description, Inputs.of_case(description, in_dir), library, device)
        except NotImplementedError as reason:
            return Ran("not implemented", str(reason))
        except Missing:
            raise
        except Refusal as refusal:
            return Ran("failed", str(refusal), time.monotonic() - begin)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            return Ran("failed", raised(error), time.monotonic() - begin)
        for name, array in outputs.items():
            np.save(out_dir / f"{name}.npy", arrays.taken(array, name), allow_pickle=False)
        return Ran("ran", "", time.monotonic() - begin)

    return run


class WrongKernel(AssertionError):
    """A kernel that is not right; the text says where and how."""


def check(op: str, function, *, case: str | None = None, size: str = "small", arrays: str = "numpy",
          device: str = "cpu", **options) -> list[Checked]:  # fmt: skip
    """Judges a Python function as an implementation of `op`; raises WrongKernel with the first error.

    function: takes the op's tensors and parameters by name, returns its outputs: one array, a tuple in the contract's
    order, or a dict. arrays: numpy, torch, cupy or jax. Other options are those of `Options`.
    """
    chosen = cases.choose([f"{op}/{case}" if case else op], size if not case else "all")
    settings = Options(**options)
    results = check_all(chosen, function_runner(function, arrays, device), settings)
    wrong = [r for r in results if r.state in ("wrong", "failed")]
    if wrong:
        from .mistakes import diagnose

        known = diagnose(results)
        raise WrongKernel(
            f"{len(wrong)} of {len(results)} cases are wrong. {wrong[0].case.name}: {wrong[0].sentence}"
            + (f"\n{known}" if known else "")
            + f"\n(private seed {settings.private_seed})"
        )
    require(status(results) == 0, f"{op}: nothing was judged; the function implements none of {len(results)} cases")
    return results
