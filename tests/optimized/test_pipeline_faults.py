"""One wrong line in a warp-specialised kernel at a time: the simulator says what is wrong, under every schedule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import pipeline_faults as faults  # noqa: E402


@pytest.fixture(scope="module")
def right() -> str:
    """What the kernel answers as it is, under any schedule: the same bytes."""
    (answer,) = faults.answers()
    return answer


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda f: f.name.replace(" ", "_"))
def test_the_fault_is_told(fault, right):
    said = faults.answers(fault)
    assert faults.as_expected(fault, said, right), said


def test_whoever_is_silent_says_why():
    """Faults that change nothing of what the source says are few, and explained."""
    silent = [f for f in faults.FAULTS if f.says == "nothing"]
    assert all(f.why for f in silent) and len(silent) == 2
