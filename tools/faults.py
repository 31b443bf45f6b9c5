#!/usr/bin/env python3
"""Are the simulator's checks sharp enough? Plants one fault in a right kernel at a time, and asks whether it is found.

    tools/faults.py --count 40            a sample of all faults that can be planted, some 20 s each
    tools/faults.py --only moe_gate       those of one folder
    tools/faults.py --asynchronous        those that only asynchronous kernels can have: waits, phases, arrivals, fences, ...

A fault is one of: a barrier, a wait, a fence, an arrival or a commit left out, a phase or a swizzle that is another one, an
atomic update made of a plain read and a plain write, a loop or a guard that runs one too far (<= for <), a lane that is not
the first (== 1 for == 0). Only the file with the fault is compiled again; the op
that uses it runs its small cases (and the products' own tests run), and is expected to be stopped with a sentence or to
answer wrongly. Survivors are printed with their place. Build libdsa_simulated.so, dsa-simulated, test_linear and
test_weight_gradient first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "golden"))

from optimized.bench.check_level import checked  # noqa: E402
from optimized.bench.receipts import included, ladders  # noqa: E402
from touchstone import cases, check  # noqa: E402
from touchstone.plugins import Limits, Worker  # noqa: E402

TREE = REPOSITORY / "optimized"
BUILD = REPOSITORY / "build"
SHARED = ("hopper", "simulator", "support", "tool", "bench", "python")

# What no op asks by itself, or only at sizes that no small case has, a program of tests/optimized does.
TESTS = {"linear": "test_linear", "weight_gradient": "test_weight_gradient"}
TEST_PROGRAMS = BUILD / "tests" / "optimized"

# kind -> (what, what it becomes)
FAULTS = {
    "barrier left out": (r"__sync(?:threads|warp)\(\);", r";"),
    "plain add": (r"atomicAdd\(&([^;]+), ([^;,]+)\);", r"{ auto& to = \1; to = to + (\2); }"),
    "plain minimum": (r"atomicMin\(&([^;]+), ([^;]+)\);", r"{ auto& to = \1; to = min(to, \2); }"),
    "plain or": (r"atomicOr\(&([^;]+), ([^;]+)\);", r"{ auto& to = \1; to = to | (\2); }"),
    "one too far": (r"(for \([^;\n]*; [^;\n]*?) < ", r"\1 <= "),
    "guard one too far": (r"(if \((?:[^()\n]|\([^()\n]*\))*?) < ", r"\1 <= "),
    "mbarrier not waited for": (r"mbarrier_wait(?:_in_block)?\([^;{}]*\);", r";"),
    "phase swapped": (r"(mbarrier_wait(?:_in_block)?\([^;{}]*)\);", r"\1 ^ 1);"),
    "arrival left out": (r"mbarrier_arrive(?:_at|_expect)?\([^;{}]*\);", r";"),
    "fence left out": (r"(?:fence_\w+|wgmma_fence)\(\);", r";"),
    "commit left out": (r"(?:wgmma|cp_async|bulk)_commit\(\);", r";"),
    "group not waited for": (r"(?:wgmma|cp_async|bulk)_wait(?:_read)?<\w+>\(\);", r";"),
    "named barrier left out": (r"(?:barrier_sync\([^;{}]*\)|cluster_sync\(\)|cluster_wait\(\));", r";"),
    "swizzle shifted": (r"(swizzled\w*\([^;]*?, )(Swizzle::bytes_\d+|wide)\)", r"\1\2) ^ 16"),
    "another lane": (r"(lane_id\(\)|warp_id\(\)|threadIdx\.x) == 0\)", r"\1 == 1)"),
}


SYNCHRONOUS = {"barrier left out", "plain add", "plain minimum", "plain or", "one too far", "guard one too far", "another lane"}


@dataclass
class Fault:
    kind: str
    path: Path  # of the file that gets it
    line: int
    text: str  # of the whole file with it
    before: str  # the line as it was

    def __str__(self) -> str:
        return f"{self.kind}: {self.path.relative_to(TREE)}:{self.line}: {self.before.strip()}"


def faults(only: str | None) -> list[Fault]:
    """Every fault that can be planted."""
    found = []
    for path in sorted([*TREE.glob("*/*.cu"), *TREE.glob("*/*.cuh")]):
        if path.parent.name in SHARED or (only and path.parent.name != only):
            continue
        text = path.read_text(encoding="utf-8")
        for kind, (pattern, instead) in FAULTS.items():
            for match in re.finditer(pattern, text):
                start = text.rfind("\n", 0, match.end()) + 1
                line = text[start : text.find("\n", match.end())]
                if "constexpr" in line or line.lstrip().startswith(("//", "while")):
                    continue
                whole = text[: match.start()] + match.expand(instead) + text[match.end() :]
                found.append(Fault(kind, path, text.count("\n", 0, match.end()) + 1, whole, line))
    return found


def compiled_by(path: Path) -> list[Path]:
    """The .cu files into which `path` is compiled."""
    return [source for source in sorted(TREE.glob("*/*.cu")) if path in included(source, set()) and path.suffix != ".cu"] or [path]


def users(source: Path, programs: dict[str, list[int]]) -> list[tuple[str, int]]:
    """(op, level) that run the kernels of `source`, of the source's own folder first."""
    named = re.match(r"level_(\d+)", source.name)
    own = source.parent.name
    if own in programs and named:
        return [(own, int(named.group(1)))]
    # A file without a level belongs to every level of its folder's op, and of the ops that include its header.
    ops = [own] if own in programs else []
    named_alike = source.with_suffix(".h")
    headers = {named_alike} if named_alike.exists() else set((TREE / own).glob("*.h"))
    for op in programs:
        files: set[Path] = set()
        for file in [*(TREE / op).glob("*.cu"), *(TREE / op).glob("*.cpp")]:
            included(file, files)
        if headers & files and op not in ops:
            ops.append(op)
    return [(op, level) for op in ops for level in reversed(programs[op])]


class Workshop:
    """Compiles a file with a fault, and links a library around it."""

    def __init__(self, folder: Path):
        self.folder = folder
        entries = json.loads((BUILD / "compile_commands.json").read_text(encoding="utf-8"))
        self.commands = {Path(e["file"]).resolve(): e for e in entries if "/simulated/" in e["file"]}
        command = ["ninja", "-C", BUILD, "-t", "commands", "libdsa_simulated.so"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        self.link = next(line for line in reversed(lines) if "-shared" in line)

    def library(self, fault: Fault, sources: list[Path]) -> Path | None:
        """The library with the fault; None where it does not compile."""
        overlay = self.folder / "overlay"
        target = overlay / fault.path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(fault.text, encoding="utf-8")
        link = self.link
        try:
            for i, source in enumerate(sources):
                name = source.relative_to(TREE)
                entry = self.commands[BUILD / "optimized" / "simulated" / f"{name}.cpp"]
                words = [w for w in shlex.split(entry["command"]) if not w.startswith("-Werror")]
                if "-include" in words:  # the precompiled headers, which would come before one with a fault
                    at = words.index("-include")
                    del words[at : at + 2]
                place = words.index("-o") + 1
                old, new = words[place], str(self.folder / f"{i}.o")
                words[place] = new
                compiler = 1 if "ccache" in words[0] else 0
                words.insert(compiler + 1, f"-I{overlay}")
                if subprocess.run([*words, "-w"], cwd=entry["directory"], capture_output=True).returncode != 0:
                    return None
                assert old in link, old
                # First in the line: of an inline function that several files have, the linker takes the first.
                link = link.replace(f" {old} ", " ").replace(" -o libdsa_simulated.so ", f" -o libdsa_simulated.so {new} ")
        finally:
            target.unlink()
        out = self.folder / "libdsa_simulated.so"  # the name under which a test looks for it
        link = link.replace(" -o libdsa_simulated.so ", f" -o {out} ")
        subprocess.run(link, shell=True, cwd=BUILD, check=True, capture_output=True)
        return out


def verdict(library: Path, runs: list[tuple[str, int]]) -> str:
    """How the fault was found; empty if it was not."""
    for op, level in runs:
        os.environ["DSA_LEVEL"] = str(level)
        worker = Worker("lib", str(library), Limits(seconds=120))
        try:
            for case in cases.choose([op], "small"):
                result = checked(case, worker.run, check.Options(private=0, runs=1))
                if result.state not in ("right", "not implemented"):
                    return f"{op} {level}: {result.state}: {result.sentence}"
        finally:
            worker.close()
    return ""


def verdict_of_tests(library: Path, name: str) -> str:
    """How a program of tests/optimized found the fault; empty if it did not."""
    program = TEST_PROGRAMS / name
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent)}
    try:
        run = subprocess.run([program], env=environment, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return f"{name}: deadlocked, or without an end"
    if run.returncode == 0:
        return ""
    said = [line.strip() for line in run.stdout.splitlines() if "block (" in line or "ERROR" in line]
    return f"{name}: " + (next((line for line in said if "block (" in line), "") or "".join(said[:1]) or f"stopped by {-run.returncode}")


def how(found: str) -> str:
    """The column of the table."""
    if not found:
        return "survived"
    for sign, name in {
        "write after": "race", "read after": "race", "nobody has written": "unwritten", "beyond": "out of bounds", "launched with": "out of bounds",
        "deadlocked": "deadlock", "wrote beyond": "out of bounds", "stopped by": "crash", "launch_failed": "other fault", ": block (": "other fault",
    }.items():  # fmt: skip
        if sign in found:
            return name
    return "wrong answer"


def main() -> int:
    """Prints a line a fault and a table at the end; 1 if one survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, help="a sample of so many")
    parser.add_argument("--seed", type=int, default=1, help="which sample")
    parser.add_argument("--only", help="a folder of optimized/")
    parser.add_argument("--kind", action="append", choices=FAULTS, help="only this kind; may be repeated")
    parser.add_argument("--asynchronous", action="store_true", help="only the kinds that only asynchronous kernels can have")
    parser.add_argument("--seconds", type=float, help="no further fault after so many")
    parser.add_argument("--list", action="store_true", help="only list them")
    args = parser.parse_args()
    kinds = set(args.kind or FAULTS) - (SYNCHRONOUS if args.asynchronous else set())
    chosen = [f for f in faults(args.only) if f.kind in kinds]
    total = len(chosen)
    random.Random(args.seed).shuffle(chosen)
    chosen = chosen[: args.count]
    if args.list:
        print(*chosen, sep="\n")
        return 0
    asked = {TESTS[f.path.parent.name] for f in chosen if f.path.parent.name in TESTS}
    if missing := sorted(name for name in asked if not (TEST_PROGRAMS / name).exists()):
        parser.error(f"{' and '.join(missing)} not built: run `cmake --build build --target {' '.join(missing)}`")
    programs = ladders(BUILD / "dsa-simulated")
    counts: dict[str, dict[str, int]] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        workshop = Workshop(Path(folder))
        for fault in chosen:
            if args.seconds and time.monotonic() - begin > args.seconds:
                break
            sources = [s for s in compiled_by(fault.path) if users(s, programs)]
            # Of those that include a header: the folder's own kernels, or the first of the others.
            sources = [s for s in sources if s.parent == fault.path.parent] or sources[:1]
            library = workshop.library(fault, sources) if sources else None
            if library is None:
                print(f"not compiled     {fault}", flush=True)
                continue
            runs = users(sources[0], programs)[:2] if len(sources) == 1 else [run for s in sources for run in users(s, programs)]
            test = TESTS.get(fault.path.parent.name)
            found = (verdict_of_tests(library, test) if test else "") or verdict(library, list(dict.fromkeys(runs)))
            result = how(found)
            row = counts.setdefault(fault.kind, {})
            row[result] = row.get(result, 0) + 1
            print(f"{result:16} {fault}\n                 {found[:300]}", flush=True)
    columns = sorted({c for row in counts.values() for c in row})
    print("\n| fault | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for kind, row in sorted(counts.items()):
        print(f"| {kind} | " + " | ".join(str(row.get(c, "")) for c in columns) + " |")
    done = sum(sum(row.values()) for row in counts.values())
    survived = sum(row.get("survived", 0) for row in counts.values())
    print(f"\n{done - survived} of {done} caught, of {total} that can be planted.")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
