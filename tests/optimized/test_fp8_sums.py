"""Who may add as Hopper's FP8 tensor cores do? Levels on wgmma, and only where the convention fp8_sums says so."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest
from touchstone import cases, check, clib
from touchstone.plugins import Limits, Worker
from touchstone.telling.inputs import Inputs

LIBRARY = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or Path(__file__).resolve().parents[2] / "build" / "libdsa_simulated.so")
ON_WGMMA = {"indexer_logits": (3, 4, 6), "indexer_logits_paged": (3,)}


def logits(op: str, sums: str, level: int) -> np.ndarray:
    """The scores of an op's first small case. level 0: whichever the library chooses."""
    assert LIBRARY.is_file(), f"{LIBRARY} is not built: run `cmake --build build --target dsa_simulated`"
    case = cases.choose([op], "small")[0]
    own = case.entry["conventions"]
    own = {"preset": own} if isinstance(own, str) else own
    description = case.description() | {"tier": "deployed", "conventions": own | {"fp8_sums": sums}}
    choose_level = ctypes.CDLL(str(LIBRARY)).dsa_choose_level
    choose_level(level)
    try:
        return clib.Library(str(LIBRARY)).call(op, description, Inputs.of_case(description))["logits"].copy()
    finally:
        choose_level(0)


@pytest.mark.parametrize(("op", "level"), [(op, level) for op, levels in ON_WGMMA.items() for level in levels])
def test_a_level_on_wgmma_refuses_sums_in_float32(op, level):
    with pytest.raises(Exception, match="the convention fp8_sums must be hopper, it is float32"):
        logits(op, "float32", level)


@pytest.mark.parametrize("op", ON_WGMMA)
def test_the_default_follows_the_convention(op):
    below, highest = ON_WGMMA[op][0] - 1, ON_WGMMA[op][-1]
    assert logits(op, "float32", 0).tobytes() == logits(op, "float32", below).tobytes()
    assert logits(op, "hopper", 0).tobytes() == logits(op, "hopper", highest).tobytes()


@pytest.mark.parametrize("op", ON_WGMMA)
def test_levels_differ_so_that_the_default_can_be_told(op):
    below, highest = ON_WGMMA[op][0] - 1, ON_WGMMA[op][-1]
    assert logits(op, "hopper", below).tobytes() != logits(op, "hopper", highest).tobytes()


def test_a_block_whose_scores_are_added_so_has_room_for_its_selection():
    """Which level selects, and how many bytes it needs, depends on the convention; the block asks before q has a place."""
    worker = Worker("lib", str(LIBRARY), Limits(seconds=120))
    options = check.Options(private=0, runs=1, conventions={"fp8_sums": "hopper"})
    try:
        (case,) = cases.choose(["dsa_attention/short"], "small")
        result = check.check_case(case, worker.run, options)
    finally:
        worker.close()
    assert result.state == "right", result.sentence
