"""Every level of every op, on the simulator, against the goldens."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from touchstone import cases, check
from touchstone.plugins import Limits, Worker

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from optimized.bench.check_level import checked  # noqa: E402
from optimized.bench.receipts import ladders  # noqa: E402

BUILD = REPOSITORY / "build"
PROGRAM = BUILD / "dsa-simulated"


# Made of other ops' kernels, which are checked under their own names; test_layers.py and test_training_step.py run a case of
# each under the simulator's checks. Here the answers count.
COMPOSED = ("dsa_attention", "transformer_block", "training_step")


def levels() -> list[tuple[str, int]]:
    """(op, level), as the program lists them."""
    return [(op, n) for op, numbers in ladders(PROGRAM).items() for n in numbers] if PROGRAM.exists() else []


def test_the_program_is_built():
    assert levels(), f"{PROGRAM} is not built: run `cmake --build build --target dsa-simulated`"


@pytest.mark.parametrize(("op", "level"), levels())
def test_a_level_is_right(op, level, monkeypatch):
    monkeypatch.setitem(os.environ, "DSA_LEVEL", str(level))
    if op in COMPOSED:
        monkeypatch.setitem(os.environ, "DSA_SIMULATOR_CHECKS", "off")
    worker = Worker("lib", str(BUILD / "libdsa_simulated.so"), Limits(seconds=300))
    options = check.Options(private=0, runs=1)
    try:
        results = [checked(case, worker.run, options) for case in cases.choose([op], "small")]
    finally:
        worker.close()
    bad = [f"{r.case.name}: {r.state}, {r.sentence}" for r in results if r.state not in ("right", "not implemented")]
    assert not bad, "\n".join(bad)
    # A level may decline a case, but not all; level 1 declines none.
    assert any(r.state == "right" for r in results)
    assert level > 1 or all(r.state == "right" for r in results)
