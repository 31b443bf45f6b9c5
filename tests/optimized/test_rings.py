"""Is a level right whose ring of stages goes round? No small case of these ops is so deep."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
from touchstone import cases, check
from touchstone.plugins import Limits, Worker

LIBRARY = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or Path(__file__).resolve().parents[2] / "build" / "libdsa_simulated.so")


@pytest.mark.parametrize("level", [3, 5])
def test_projections_of_many_stages(level, monkeypatch):
    """D = 1024 of x, W_kI and W_w: two blocks share it, each 8 stages of 64."""
    [case] = cases.choose(["indexer_project/8_heads"])
    entry = copy.deepcopy(case.entry)
    for name in ("x", "W_kI", "W_w"):
        of_d = 1 if name == "x" else 0
        entry["tensors"][name]["shape"][of_d] = 1024
        if name != "x":
            entry["tensors"][name]["fill"] = {"normal": {"std": 1024**-0.5}}
    monkeypatch.setitem(os.environ, "DSA_LEVEL", str(level))
    worker = Worker("lib", str(LIBRARY), Limits(seconds=300))
    try:
        result = check.check_case(cases.Case(case.op, entry), worker.run, check.Options(private=0, runs=1))
    finally:
        worker.close()
    assert result.state == "right", result.sentence
