"""`make device`: checks every level against the goldens on the GPU, runs the sanitizers, times, writes the receipt.

    python -m optimized.bench.device --build build [--only OP...] [--no-full | --full-only | --times-only] [--no-sanitizers] [--no-times] [--no-peers] [--seconds N]

Needs PyTorch with CUDA, and what touchstone needs. Where time runs out, what was not reached is said and not written.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from touchstone import cases, check

from . import conformance, full_size, peers, receipts
from .check_level import HOPPER_SUMS, OPS_WITH_FP8_SUMS
from .library import Call, Library
from .questions import questions
from .timing import Ceiling, Clock, ceiling_calls, ceilings

SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZER_SECONDS = 120  # of one run
RERUNS = 20
RERUN_CASES = 6
CAPPED = 3e-4  # seconds that a call's work takes at its ceiling, from which on the cap on power is felt (chapter 18)
CHOOSE = ("indexer_logits", "indexer_top_k", "top_k")  # their fastest level is not the highest everywhere
SANITIZERS_ERROR = 9  # the exit code of a sanitizer that complains
DECLINED = 77  # the program's exit code where a level does not take a case
# Here one lane arrives at an mbarrier for its warp, after __syncwarp, and the warp's earlier reads or writes are ordered by
# that. racecheck does not follow it: it calls the smallest such kernel a race (conformance, "arrival_for_a_warp"). The
# simulator's own account of races does.
ONE_LANE_ARRIVES = {"dense_attention": (3,), "moe": (3,), "sparse_prefill": (3, 4, 5, 6, 7, 8, 9), "sparse_decode": (4, 5, 6, 7, 10),
                    "training_step": (2,)}  # fmt: skip
# Here a barrier has phases that nobody waits for, since a wait for another barrier says as much: of three pieces of a tile
# only the last is waited for (level 8), and that an item's first tile is multiplied need nobody know (level 4). synccheck
# calls the next arrival a missing wait. (It says the same of one thread that arrives twice, with __syncthreads between.)
PHASES_UNHEARD = {"sparse_prefill": (4, 8)}
PRESET = {"preset": "deepseek-v3.2-exp"}


def say(text: str) -> None:
    """A line at once."""
    print(text, flush=True)


def checked(op: str, level: int, build: Path, size: str = "small") -> dict:
    """touchstone check of one level, in a process of its own: all cases of a size, and once more under a private seed."""
    command = [sys.executable, "-m", "optimized.bench.check_level", op, str(build / "libdsa_optimized.so"), size]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"DSA_LEVEL": str(level)})
    for line in done.stderr.strip().splitlines()[:5]:
        say(f"  {op}, level {level}: {line}")
    if done.returncode not in (0, 1):
        return {"cases": 1, "right": 0, "declined": 0, "worst_ratio": 0.0}
    return json.loads(done.stdout.splitlines()[-1])


class SmallCases:
    """An op's small cases as files, each written when first asked for; with Hopper's sums, which every level may answer."""

    def __init__(self, op: str):
        self.cases = cases.choose([op], "small")
        self.options = check.Options(conventions=HOPPER_SUMS if op in OPS_WITH_FP8_SUMS else None)
        self.home = Path(tempfile.mkdtemp(prefix="dsa_device_"))
        self.lock = threading.Lock()

    def folder(self, i: int) -> Path:
        """The folder of case i."""
        where = self.home / self.cases[i].name.replace("/", "_")
        with self.lock:
            if not where.exists():
                check.write_inputs(self.cases[i], check.described(self.cases[i], self.options), where)
        return where


def taken(op: str, level: int, build: Path, small: SmallCases, most: int) -> list[Path]:
    """The first small cases that the level does not decline: a program that declines has done nothing to be asked about."""
    found = []
    for i in range(len(small.cases)):
        if len(found) == most:
            break
        command = program(build, op, small.folder(i), level)
        if subprocess.run(command, capture_output=True, check=False).returncode != DECLINED:
            found.append(small.folder(i))
    return found


def program(build: Path, op: str, folder: Path, level: int, *more: str) -> list[str]:
    """The command line of one run on files. Levels run side by side: each has its own folder for outputs."""
    return [str(build / "dsa-optimized"), "op", op, str(folder), f"{folder}.out_{level}", "--level", str(level), *more]


def rerun(op: str, level: int, build: Path, folders: list[Path]) -> bool:
    """Whether RERUNS runs of each give the same bits."""
    for folder in folders:
        done = subprocess.run(program(build, op, folder, level, "--runs", str(RERUNS)), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            say(f"  {op}, level {level}, run again on {folder.name}: {done.stderr.strip() or f'it exited with {done.returncode}'}")
            return False
    return True


def sanitized(op: str, level: int, build: Path, folders: list[Path]) -> dict[str, str]:
    """sanitizer -> "clean" or its complaint"""
    said = {}
    for tool in SANITIZERS:
        if tool == "racecheck" and level in ONE_LANE_ARRIVES.get(op, ()):
            said[tool] = "not asked: one lane arrives for its warp, which racecheck does not follow"
            continue
        for folder in folders:
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(SANITIZERS_ERROR), *program(build, op, folder, level)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SANITIZER_SECONDS)
            except subprocess.TimeoutExpired:
                said[tool] = f"did not finish in {SANITIZER_SECONDS} s"
                say(f"  {op}, level {level}, {tool}: {said[tool]}")
                continue
            if done.returncode == 0:
                said.setdefault(tool, "clean")
                continue
            lines = [line for line in done.stdout.splitlines() if "=====" in line]
            errors = [line for line in lines if "error detected" in line]
            unheard = tool == "synccheck" and level in PHASES_UNHEARD.get(op, ()) and done.returncode == SANITIZERS_ERROR
            unheard = unheard and bool(errors) and all("Missing wait" in e for e in errors)
            if unheard and said.get(tool, "clean") == "clean":
                said[tool] = "clean, but for phases that nobody waits for"
            elif not unheard:
                said[tool] = " ".join(lines[:4])[:400] or done.stderr.strip()[-400:]
                say(f"  {op}, level {level}, {tool}: {said[tool]}")
    return said


def called(library: Library, op: str, level: int, x: dict, parameters: dict | None, with_sums: tuple = OPS_WITH_FP8_SUMS):
    """A call at this level, 0: as the op chooses; RuntimeError where it declines. with_sums: ops that add as Hopper's FP8 tensor cores do."""
    library.library.dsa_choose_level(level)
    return library.call(op, x, parameters, PRESET | (HOPPER_SUMS if op in with_sums else {}))


def at_level(library: Library, level: int, call: Call) -> Callable[[], None]:
    """The call at this level, whichever was chosen last."""

    def run() -> None:
        library.library.dsa_choose_level(level)
        call.run()

    return run


def takes(library: Library, op: str, level: int, x: dict, *how) -> bool:
    """Whether this level takes what `called` would ask it."""
    try:
        called(library, op, level, x, *how)
    except RuntimeError:
        return False
    return True


def timed(library: Library, op: str, level: int, clock: Clock, by: dict[str, Ceiling], ceiling: dict, above: list[int] | None) -> list[dict]:
    """The timings of one level. Peers take turns with the highest level that takes a question: none of `above` does. None: no peers.
    `by`: what shares are of; `ceiling`: how fast it was at the run's begin. A call of so much work that the card comes to its cap
    on power is timed in turns with the product that its share is of; others alone, and once more in turns with peers."""
    found = []
    for question in questions():
        if question.op != op or level < question.from_level:
            continue
        sets = [question.make() for _ in range(2)]
        with_peers = above is not None and not any(takes(library, op, n, sets[0], question.parameters) for n in above)
        try:
            calls = [called(library, op, level, x, question.parameters) for x in sets]
        except RuntimeError as refusal:
            say(f"  {op}, level {level}, {question.shape}: {refusal}")
            continue
        others, absent = peers.calls(question, sets) if with_peers else ({}, {})
        if others and op in CHOOSE:
            others = {"as the op chooses": [at_level(library, 0, c) for c in calls]} | others
        of, work = by[question.ceiling], question.flops if question.ceiling != "copy" else question.moved
        beside = question.ceiling != "copy" and work / ceiling[of.name] > CAPPED
        own = [at_level(library, level, c) for c in calls]
        turns = clock.in_turns([own, *others.values(), *[[of.run]] * beside]) if beside or others else []
        took = turns[0] if beside else clock.time(own)
        reached = of.work / (turns[-1].median * 1e-6) if beside else ceiling[of.name]
        entry = {"shape": question.shape, "median_us": took.median, "spread_us": took.spread, "replays": took.replays,
                 "ceiling": question.ceiling, "share": work / (took.median * 1e-6) / reached}  # fmt: skip
        if beside:
            entry["ceiling_in_turns"] = reached
        if others:
            entry["in_turns_us"] = turns[0].median
        if with_peers:
            entry["peers"] = [{"name": n, "median_us": t.median} for n, t in zip(others, turns[1:])]
            entry["peers_absent"] = absent
        found.append(entry)
        told = "".join(f", {p['name']} {p['median_us']:.1f}" for p in entry.get("peers", []))
        say(f"  {op}, level {level}, {question.shape}: {took.median:.1f} us, {entry['share']:.2f} of {question.ceiling}{told}")
        del sets, calls, own, others
        torch.cuda.empty_cache()
    return found


def full_size_of(ops: dict[str, list[int]], build: Path) -> dict[str, dict]:
    """op -> what became of its cases of V3.2's sizes and beyond, at the levels that the op chooses for them."""
    chosen = {op: found for op in ops if (found := cases.choose([op], "full"))}
    aside = concurrent.futures.ThreadPoolExecutor(4)
    answers = full_size.answers([c for found in chosen.values() for c in found], aside)

    def one(op: str) -> dict:
        for case in chosen[op]:
            if case.name in answers:
                answers[case.name].result()
        said = checked(op, 0, build, "full") | {"sources": receipts.sources_of_all(op, ops[op])}
        say(f"{op}, full size: {said['right']} of {said['cases']} right, {said['declined']} declined, worst {said['worst_ratio']:.2f} of the bound")
        return said

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip(chosen, pool.map(one, chosen)))


def time_levels(library: Library, receipt: dict, ops: dict[str, list[int]], clock: Clock, ceiling: dict, with_peers: bool, until: float) -> None:
    """The times of all levels of these ops, into the receipt, which is written after each. until: of time.monotonic()."""
    by = ceiling_calls()
    for op, level in [(op, level) for op, levels in ops.items() for level in levels]:
        if time.monotonic() > until:
            say(f"no time left for the times of {op}, level {level}: they are not in the receipt")
            continue
        above = [n for n in ops[op] if n > level] if with_peers else None
        receipt["ops"][op]["levels"][str(level)]["times"] = timed(library, op, level, clock, by, ceiling, above)
        receipts.write(receipt)


def times_again(library: Library, receipt: dict, ops: dict[str, list[int]], with_peers: bool, until: float = float("inf")) -> int:
    """New times into a receipt whose answers are of these sources."""
    for op, levels in ops.items():
        known = receipt.get("ops", {}).get(op, {"levels": {}})["levels"]
        changed = [n for n in levels if known.get(str(n), {}).get("sources") != receipts.sources_hash(op, n)]
        if changed:
            say(f"--times-only keeps a receipt's answers, which are not of the sources that are here for {op}, levels {changed}: run make device without it")
            return 2
    clock = Clock()
    reached = ceilings(clock)
    say(", ".join(f"{n} {v:.3g}" for n, v in reached.items()))
    time_levels(library, receipt, ops, clock, reached, with_peers, until)
    return 0


def machine() -> dict:
    """What the receipt says of the GPU."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return {"gpu": torch.cuda.get_device_name(), "driver": driver[0] if driver else "unknown", "toolkit": torch.version.cuda,
            "made": datetime.date.today().isoformat(), "ops": {}}  # fmt: skip


def main() -> int:
    """0: everything that was asked is right and clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--no-sanitizers", action="store_true")
    parser.add_argument("--sanitized-cases", type=int, default=2, help="of each op")
    full = parser.add_mutually_exclusive_group()
    full.add_argument("--no-full", action="store_true", help="no full-size cases: those of the last receipt stay")
    full.add_argument("--full-only", action="store_true", help="only them, into the receipt that is there")
    full.add_argument("--times-only", action="store_true", help="the receipt that is there stays, but for its times; its sources must be those that are here")
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--seconds", type=float, default=1e9, help="time no further level after this")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        say("make device needs a GPU of compute capability 9.0 that PyTorch sees; there is none")
        return 2
    gpu = torch.cuda.get_device_name()
    old = next((r for r in receipts.load() if r["gpu"] == gpu), {})
    if options.full_only and not old:
        say(f"--full-only adds to an earlier receipt, and {receipts.RECEIPTS} has none of {gpu}: run make device without it first")
        return 2
    begin = time.monotonic()
    library = Library(options.build / "libdsa_optimized.so")
    receipt = machine()
    ladders = receipts.ladders(options.build / "dsa-optimized")
    chosen = {op: levels for op, levels in ladders.items() if not options.only or op in options.only}
    if options.times_only:
        return times_again(library, old, chosen, not options.no_peers, begin + options.seconds)
    receipt["full_size"] = old.get("full_size", {}) | ({} if options.no_full else full_size_of(chosen, options.build))
    right_in_full = all(c["cases"] == c["right"] for c in receipt["full_size"].values())
    if options.full_only:
        receipts.write(old | {"full_size": receipt["full_size"]})
        return 0 if right_in_full else 1
    if options.only:  # the other ops' rows stay as they were
        receipt["ops"] = old.get("ops", {})
    receipt["conformance"] = conformance.answers(options.build / "conformance-device")
    failed = {name: why for name, why in receipt["conformance"].items() if len(why) != 64}
    say(f"conformance: {len(receipt['conformance']) - len(failed)} of {len(receipt['conformance'])} experiments gave bytes")
    for name, why in failed.items():
        say(f"  {name}: {why}")
    clock = Clock()
    receipt["ceilings"] = ceilings(clock)
    receipt["overhead_us"] = clock.overhead
    say(f"{receipt['gpu']}: " + ", ".join(f"{n} {v:.3g}" for n, v in receipt["ceilings"].items()))
    todo = []
    for op, levels in chosen.items():
        small = SmallCases(op)
        todo += [(op, level, small) for level in levels]

    def correctness(item) -> dict:
        op, level, small = item
        folders = taken(op, level, options.build, small, RERUN_CASES)
        one = {"sources": receipts.sources_hash(op, level), "checks": checked(op, level, options.build)}
        one["same_bits_in_runs"] = RERUNS if folders and rerun(op, level, options.build, folders) else 0
        if not options.no_sanitizers:
            one["sanitizers"] = sanitized(op, level, options.build, folders[: options.sanitized_cases])
        c = one["checks"]
        say(f"{op}, level {level}: {c['right']} of {c['cases']} right, {c['declined']} declined, worst {c['worst_ratio']:.2f} of the bound")
        return one | {"times": []}

    good = not failed and right_in_full
    with concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 2)) as pool:
        for (op, level, _), one in zip(todo, pool.map(correctness, todo)):
            receipt["ops"].setdefault(op, {"levels": {}})["levels"][str(level)] = one
            clean = all(v.startswith(("clean", "not asked")) for v in one.get("sanitizers", {}).values())
            right = one["checks"]["cases"] == one["checks"]["right"]
            good = good and right and one["same_bits_in_runs"] > 0 and clean
    command = [sys.executable, "-m", "optimized.bench.trained_model", str(options.build / "libdsa_optimized.so")]
    model = subprocess.run(command, capture_output=True, text=True, check=False)
    good = good and model.returncode == 0
    if model.stdout.strip():
        receipt["trained_model"] = json.loads(model.stdout.splitlines()[-1])
        receipt["trained_model_sources"] = receipts.sources_hash(receipts.WHOLE, max(ladders[receipts.WHOLE]))
        for p in receipt["trained_model"]:
            say(f"{p['passage']}: {'the same' if p['same'] else 'NOT THE SAME'} {p['tokens']} tokens as the reference: {p['text']!r}")
    else:
        say(f"the trained model did not run: {model.stderr.strip().splitlines()[-1:]}")
        receipt |= {name: old[name] for name in ("trained_model", "trained_model_sources") if name in old}  # tells of which sources it is
    receipts.write(receipt)  # what is known so far stays, whatever happens next
    say(f"checked in {time.monotonic() - begin:.0f} s; now the clock has the GPU for itself")
    if not options.no_times:
        time_levels(library, receipt, chosen, clock, receipt["ceilings"], not options.no_peers, begin + options.seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
