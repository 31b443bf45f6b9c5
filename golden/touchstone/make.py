"""Writes goldens: each case through the reference, its inputs checked against NumPy's, its files hashed."""

from __future__ import annotations

import concurrent.futures
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Refusal, cases, fill, require
from .cases import Case, read_json, write_in_dir
from .files import (
    hashes_of,
    lock_entry,
    read_lock,
    sha256,
    shapes_and_dtypes,
    write_json,
)

REPOSITORY = cases.PACKAGE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "touchstone"
# Where goldens are: beside the sources, or in the user's cache where the package is installed.
DEFAULT = REPOSITORY / "build" / "golden" if cases.IN_REPOSITORY else CACHE / "golden"
# Inputs up to this size are generated a second time, by NumPy, and must be the same bytes.
CHECKED_ELEMENTS = 1 << 16


def reference_program(given: str | None = None) -> Path:
    """dsa-reference: as given, from TOUCHSTONE_REFERENCE, from build/, or the one that was installed with the package."""
    own = REPOSITORY / "build" / "dsa-reference" if cases.IN_REPOSITORY else cases.PACKAGE / "bin" / "dsa-reference"
    path = Path(given or os.environ.get("TOUCHSTONE_REFERENCE") or own)
    require(path.is_file(), f"the reference {path} is not built: run `make reference`, or name one with --reference")
    return path.resolve()


@dataclass
class Made:
    """What became of one case."""

    case: Case
    seconds: float
    fresh: bool  # made now, rather than found as it should be
    problems: list[str]


def check_inputs(case: Case, folder: Path) -> None:
    """The inputs that C++ generated are, byte for byte, the ones that NumPy generates."""
    for name, entry in case.entry["tensors"].items():
        path = folder / "inputs" / f"{name}.npy"
        if not path.exists() or int(np.prod(entry["shape"], dtype=np.int64)) > CHECKED_ELEMENTS:
            continue
        ours = fill.materialise(entry, name, case.entry["seed"])
        theirs = np.load(path, allow_pickle=False)
        same = ours.shape == theirs.shape and ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()
        require(same, f"the input {name} of {case.name} differs between C++ and NumPy: one of the two generators is wrong")


def is_current(case: Case, folder: Path, program_hash: str) -> bool:
    """Whether a golden is there, of this very case and program, with every file as it was written."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return False
    try:
        known = read_json(manifest)
    except Refusal:
        return False
    hashes = hashes_of(folder)
    as_made = known.get("case") == case.description() and known.get("program") == program_hash and known.get("files") == hashes
    # What the lock contradicts is made again: either it comes out right, or the difference is real.
    return as_made and read_lock().get(case.name, lock_entry(hashes)) == lock_entry(hashes)


def make_one(case: Case, out: Path, program: Path, program_hash: str) -> Made:
    """One golden, whole or not at all, in out/<op>/<case>."""
    begin = time.monotonic()
    folder = out / case.op / case.entry["name"]
    if is_current(case, folder, program_hash):
        return Made(case, time.monotonic() - begin, False, [])
    folder.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    with tempfile.TemporaryDirectory(prefix=".making_", dir=out) as scratch:
        inputs, unfinished = Path(scratch) / "in", Path(scratch) / "out"
        write_in_dir(case, inputs)
        run = subprocess.run([program, "golden", inputs, unfinished], capture_output=True, text=True, check=False)
        if run.returncode == 1:
            problems.append(f"{case.name}: {run.stderr.strip()}")
        elif run.returncode != 0:
            raise Refusal(f"{case.name}: {run.stderr.strip() or f'the reference stopped with status {run.returncode}'}")
        check_inputs(case, unfinished)
        golden = read_json(unfinished / "golden.json")
        hashes = hashes_of(unfinished)
        write_json(
            unfinished / "manifest.json",
            {
                "version": 1,
                "case": case.description(),
                "conventions": golden["conventions"],
                "exact_given": golden["exact_given"],
                "outputs": golden["outputs"],
                "tensors": golden["tensors"],
                "arrays": shapes_and_dtypes(unfinished),
                "files": hashes,
                "provenance": "dsa-reference golden, from the case alone",
                "program": program_hash,
            },
        )
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    return Made(case, time.monotonic() - begin, True, problems)


def make(cases: list[Case], out: Path, program: Path, jobs: int, report) -> list[Made]:
    """All goldens, `jobs` at a time; full-size ones one after the other, for memory. report(Made, done, total)."""
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".making_*"):  # of a run that was interrupted
        shutil.rmtree(leftover)
    program_hash = sha256(program)
    done: list[Made] = []
    one_large_at_a_time = threading.Lock()

    def work(case: Case) -> Made:
        if case.size == "small":
            return make_one(case, out, program, program_hash)
        with one_large_at_a_time:
            return make_one(case, out, program, program_hash)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        # Full-size cases first: the small ones fill the gaps beside them.
        futures = [pool.submit(work, case) for case in sorted(cases, key=lambda c: c.size)]
        try:
            for future in concurrent.futures.as_completed(futures):
                done.append(future.result())
                report(done[-1], len(done), len(cases))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return done


def lock_problems(folder: Path, name: str, locked: dict) -> list[str]:
    """Which tiers of a golden are not the ones that lock.json knows."""
    if name not in locked:
        return [f"{name} is not in golden/tensors/lock.json: if it is new, run `touchstone make --update-lock`"]
    now = lock_entry(hashes_of(folder))
    return [
        f"{name}: the {tier} tier is not the one in golden/tensors/lock.json: this machine, compiler or change of code"
        " gives other bytes; find out why before you run `touchstone make --update-lock`"
        for tier in sorted(set(now) | set(locked[name]))
        if now.get(tier) != locked[name].get(tier)
    ]


def peak_memory_of_children() -> int:
    """Bytes, of the largest process that was run."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


__all__ = ["Made", "check_inputs", "is_current", "lock_problems", "make", "make_one", "read_lock", "reference_program"]
