"""What do single instructions do? Each experiment of tests/optimized/conformance in a process of its own, as a hash.

    python -m optimized.bench.conformance PROGRAM

PROGRAM is conformance-device or conformance-simulated. Prints JSON: experiment -> SHA-256 of its bytes, or the sentence
with which it failed. A receipt keeps what a GPU said, and tests/optimized/test_conformance.py asks the simulator.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 60  # of one experiment: a lost arrival waits for ever


def names(program: Path) -> list[str]:
    """All experiments, in the program's order."""
    said = subprocess.run([program], capture_output=True, text=True, check=False).stderr
    return [line.strip() for line in said.splitlines()[1:]]


def answer(program: Path, name: str) -> str:
    """The hash of one experiment's bytes, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([program, folder, name], capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"it did not end in {SECONDS} s"
        file = Path(folder) / f"{name}.bin"
        if done.returncode != 0 or not file.is_file():
            return (done.stderr.strip() or f"it exited with {done.returncode}").splitlines()[-1]
        return hashlib.sha256(file.read_bytes()).hexdigest()


def answers(program: Path) -> dict[str, str]:
    """experiment -> hash, or why there is none"""
    return {name: answer(program, name) for name in names(program)}


if __name__ == "__main__":
    print(json.dumps(answers(Path(sys.argv[1])), indent=1))
