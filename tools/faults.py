#!/usr/bin/env python3
"""Are the simulator's checks sharp enough? Plants one fault in a right kernel at a time, and asks whether it is found.

    tools/faults.py --count 40            a sample of all faults that can be planted, some 10 s each
    tools/faults.py --only moe_gate       those of one folder
    tools/faults.py --asynchronous        those that only asynchronous kernels can have: waits, phases, arrivals, fences, ...

A fault is one of: a barrier, a wait, a fence, an arrival or a commit left out, a phase or a swizzle that is another one, an
atomic update made of a plain read and a plain write, a loop or a guard that runs one too far (<= for <), a lane that is not
the first (== 1 for == 0). The files with the fault are compiled again, one after the other, until one is found out: the op
that uses it runs its small cases (and the products' own tests run), and is expected to be stopped with a sentence or to
answer wrongly; what survives is asked of the longer tests of tests/optimized too. Survivors are printed with their place;
those that break nothing stand in equivalent_faults.json, with the reason. Build libdsa_simulated.so, dsa-simulated, dsa-reference, test_linear and
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
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
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
SLOW_TESTS = {"so many blocks that level 3 takes its wider tiles", "rows in groups, as experts have them"}
A_CALL = 300.0  # seconds at most
# What small cases do not come to, several items a block and rings that go round, these ask: folder -> file, and which of its tests.
LONGER_TESTS = {
    "dense_attention": [("test_attention.py", "dense or own_heads")],
    "sparse_prefill": [("test_attention.py", "sparse_prefill or latents_agree_on_wgmma and not dense or items_of_one_tile"), ("test_few_heads.py", "prefill")],
    "sparse_decode": [("test_few_heads.py", "decod"), ("test_sparse_decode.py", "not default and not says")],
    "indexer_project": [("test_rings.py", "projections")],
    "indexer_logits": [("test_selection.py", "fused")],
    "indexer_top_k": [("test_selection.py", "fused")],
    "top_k": [("test_selection.py", "top_k and not fused and not declines")],
}

# Faults that break nothing which must hold: each with the reason why not.
EQUIVALENT = {e["fault"]: e["why"] for e in json.loads(Path(__file__).with_name("equivalent_faults.json").read_text(encoding="utf-8"))}

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
    "swizzle shifted": (r"(swizzled\w*\([^;]*?, )(Swizzle::bytes_\d+|wide)\)", r"(\1\2) ^ 16)"),
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
    number: int  # of those of one kind in this file whose lines are alike

    def key(self) -> str:
        """Its name in equivalent_faults.json, which stays when lines above it come and go."""
        return f"{self.kind}: {self.path.relative_to(TREE)}: {self.before.strip()}" + (f" [{self.number}]" if self.number > 1 else "")

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
                number = 1 + sum((f.kind, f.path, f.before) == (kind, path, line) for f in found)
                found.append(Fault(kind, path, text.count("\n", 0, match.end()) + 1, whole, line, number))
    return found


@cache
def files_of(source: Path) -> frozenset[Path]:
    """The source and what it includes, at any remove."""
    return frozenset(included(source, set()))


def compiled_by(path: Path) -> list[Path]:
    """The .cu files into which `path` is compiled."""
    return [source for source in sorted(TREE.glob("*/*.cu")) if path.suffix != ".cu" and path in files_of(source)] or [path]


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
        if op not in ops and any(headers & files_of(file) for file in [*(TREE / op).glob("*.cu"), *(TREE / op).glob("*.cpp")]):
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

    def library(self, fault: Fault, source: Path) -> Path | None:
        """The library with the fault as `source` has it; None where that does not compile."""
        overlay = self.folder / "overlay"
        target = overlay / fault.path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(fault.text, encoding="utf-8")
        entry = self.commands[BUILD / "optimized" / "simulated" / f"{source.relative_to(TREE)}.cpp"]
        # The precompiled headers stay: what they hold is of SHARED.
        words = [w for w in shlex.split(entry["command"]) if not w.startswith("-Werror")]
        place = words.index("-o") + 1
        old, new = words[place], str(self.folder / "fault.o")
        words[place] = new
        words.insert(2 if "ccache" in words[0] else 1, f"-I{overlay}")
        compiled = subprocess.run([*words, "-w"], cwd=entry["directory"], capture_output=True, check=False)
        target.unlink()
        if compiled.returncode != 0:
            return None
        assert old in self.link, old
        out = self.folder / "libdsa_simulated.so"  # the name under which a test looks for it
        # First in the line: of an inline function that several files have, the linker takes the first.
        link = self.link.replace(f" {old} ", " ").replace(" -o libdsa_simulated.so ", f" -o {out} {new} ")
        subprocess.run(link, shell=True, cwd=BUILD, check=True, capture_output=True)
        return out


def found_by_cases(library: Path, op: str, level: int) -> str:
    """How the small cases of a level found the fault; empty if they did not."""
    os.environ["DSA_LEVEL"] = str(level)
    worker = Worker("lib", str(library), Limits(seconds=A_CALL))
    try:
        for case in cases.choose([op], "small"):
            result = checked(case, worker.run, check.Options(private=0, runs=1))
            if result.state not in ("right", "not implemented"):
                return f"{op} {level}: {case.name}: {result.state}: {result.sentence}"
    finally:
        worker.close()
    return ""


@cache
def tests_of(program: Path) -> list[str]:
    """The names of its tests, the slow ones last."""
    listed = subprocess.run([program, "--list-test-cases", "--no-colors"], capture_output=True, text=True, check=True).stdout
    names = [line for line in listed.splitlines() if line and not line.startswith(("[doctest]", "="))]
    return sorted(names, key=lambda name: name in SLOW_TESTS)


def found_by_tests(library: Path, name: str) -> str:
    """How a program of tests/optimized found the fault, test by test; empty if it did not."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent)}
    for test in tests_of(TEST_PROGRAMS / name):
        one = "--test-case=" + test.replace(",", "?")  # a comma would begin another pattern
        try:
            run = subprocess.run([TEST_PROGRAMS / name, one], env=environment, capture_output=True, text=True, check=False, timeout=A_CALL)
        except subprocess.TimeoutExpired:
            return f"{name}: {test}: it took longer than the limit of {A_CALL:g} s"
        if run.returncode != 0:
            said = [line.strip() for line in run.stdout.splitlines() if "block (" in line or "ERROR" in line]
            return f"{name}: {test}: " + (next((line for line in said if "block (" in line), "") or "".join(said[:1]) or f"stopped by {-run.returncode}")
    return ""


def found_by_longer_tests(library: Path, file: str, which: str) -> str:
    """How a file of tests/optimized in Python found the fault; empty if it did not."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent), "TOUCHSTONE_SIMULATED_LIBRARY": str(library)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/optimized/{file}", "-k", which]
    try:
        run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=A_CALL)
    except subprocess.TimeoutExpired:
        return f"{file}: it took longer than the limit of {A_CALL:g} s"
    if run.returncode == 0:
        return ""
    if run.returncode != 1:  # pytest says so of a failing test only
        raise RuntimeError(f"{' '.join(command)}: {run.stdout[-500:]}{run.stderr[-500:]}")
    said = [line.strip() for line in run.stdout.splitlines() if line.startswith("E ")]
    return f"{file}: " + (next((line for line in said if "block (" in line), "") or " ".join(said[:4]))


def planted(fault: Fault) -> tuple[str, str]:
    """How it is found, in a word and in a sentence: one file after the other that has it, until one of its users tells."""
    if time.time() > deadline:
        return "", ""
    sources = [s for s in compiled_by(fault.path) if users(s, programs) or s.parent.name in TESTS]
    sources.sort(key=lambda s: s.parent != fault.path.parent)  # the folder's own first
    compiled = False
    for source in sources:
        library = workshop.library(fault, source)
        if library is None:
            continue
        compiled = True
        if source.parent.name in TESTS and (found := found_by_tests(library, TESTS[source.parent.name])):
            return how(found), found
        for op, level in users(source, programs)[:2]:
            if found := found_by_cases(library, op, level):
                return how(found), found
        for file, which in LONGER_TESTS.get(source.parent.name, []) if longer else []:
            if found := found_by_longer_tests(library, file, which):
                return how(found), found
    return ("survived", "") if compiled else ("not compiled", "")


def start(folder: str, until: float, with_longer_tests: bool) -> None:
    """Gives a process what `planted` needs: a folder and a library of its own."""
    global workshop, programs, deadline, longer  # of one process of the pool
    programs = ladders(BUILD / "dsa-simulated")
    workshop = Workshop(Path(tempfile.mkdtemp(dir=folder)))
    deadline, longer = until, with_longer_tests


# A run without an end may be a slow machine's.
NOT_CAUGHT = ("survived", "without an end")


def how(found: str) -> str:
    """The column of the table."""
    if not found:
        return "survived"
    for sign, name in {
        "write after": "race", "read after": "race", "nobody has written": "unwritten", "beyond": "out of bounds", "launched with": "out of bounds",
        "deadlocked": "deadlock", "longer than the limit": "without an end", "wrote beyond": "out of bounds", "stopped by": "crash", "launch_failed": "other fault", ": block (": "other fault",
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
    parser.add_argument("--these", type=Path, help="only those that stand in this file, as --list prints them")
    parser.add_argument("--short", action="store_true", help="without the longer tests, which what survives the small cases is asked of")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="so many at once")
    parser.add_argument("--list", action="store_true", help="only list them")
    args = parser.parse_args()
    kinds = set(args.kind or FAULTS) - (SYNCHRONOUS if args.asynchronous else set())
    chosen = [f for f in faults(args.only) if f.kind in kinds]
    total = len(chosen)
    if args.these:
        wanted = set(args.these.read_text(encoding="utf-8").splitlines())
        chosen = [f for f in chosen if str(f) in wanted]
    random.Random(args.seed).shuffle(chosen)
    chosen = chosen[: args.count]
    if args.list:
        print(*chosen, sep="\n")
        return 0
    needed = {TESTS[f.path.parent.name] for f in chosen if f.path.parent.name in TESTS}
    if missing := sorted(name for name in needed if not (TEST_PROGRAMS / name).exists()):
        parser.error(f"{' and '.join(missing)} not built: run `cmake --build build --target {' '.join(missing)}`")
    counts: dict[str, dict[str, int]] = {}
    results: list[tuple[Fault, str]] = []
    until = time.time() + args.seconds if args.seconds else float("inf")
    with (
        tempfile.TemporaryDirectory(dir=BUILD) as folder,
        ProcessPoolExecutor(args.jobs, initializer=start, initargs=(folder, until, not args.short)) as pool,
    ):
        asked = {pool.submit(planted, fault): fault for fault in chosen}
        for done in as_completed(asked):
            fault = asked[done]
            result, found = ("not asked", str(error)) if (error := done.exception()) else done.result()
            if not result:
                continue
            results.append((fault, result))
            if result not in ("not compiled", "not asked"):
                row = counts.setdefault(fault.kind, {})
                row[result] = row.get(result, 0) + 1
            print(f"{result:16} {fault}\n                 {found[:300]}", flush=True)
    columns = sorted({c for row in counts.values() for c in row})
    print("\n| fault | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for kind, row in sorted(counts.items()):
        print(f"| {kind} | " + " | ".join(str(row.get(c, "")) for c in columns) + " |")
    done = sum(sum(row.values()) for row in counts.values())
    uncaught = [f for f, result in results if result in NOT_CAUGHT]
    known = [f for f in uncaught if f.key() in EQUIVALENT]
    print(f"\n{done - len(uncaught)} of {done} caught, of {total} that can be planted.", end=" ")
    print(f"Without {len(known)} that are known to break nothing: {done - len(uncaught)} of {done - len(known)}.")
    stale = EQUIVALENT.keys() - {f.key() for f in faults(None)}
    for key in [f.key() for f, result in results if result not in NOT_CAUGHT and f.key() in EQUIVALENT] + sorted(stale):
        print(f"equivalent_faults.json has {key}: it is " + ("no longer in the tree" if key in stale else "caught"))
    return 1 if len(uncaught) > len(known) else 0


if __name__ == "__main__":
    sys.exit(main())
