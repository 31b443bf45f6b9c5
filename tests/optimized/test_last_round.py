"""Level 9 of sparse_prefill: queries of a last round of few blocks, whose selections are cut. Which are is asked in test_last_round.cpp."""

from __future__ import annotations

import numpy as np
import pytest
from test_attention import SHARE, agree_with_level_2, indices, normal, numbers, program, results, write  # noqa: F401
from test_few_heads import level_of

TITLE = "last round in parts"
# On the simulator a round is four items, and what is left of it is cut for at most eight blocks, in parts of two tiles of 48 and more.
CASES = [
    (5, 64, 170),  # four queries whole, one in two parts
    (3, 64, 170),  # nothing but a last round, of three queries
    (5, 20, 400),  # four by level 8
    (1, 130, 170),  # the third item has two heads
    (3, 130, 200),  # rounds do not end with a query
    (1, 64, 97),  # the second part is one slot
    (1, 5, 700),  # eight parts, the last of one tile
    (1, 20, 2048),  # parts of more than two tiles
    (4, 64, 170),  # nothing is left: nothing is cut
    (1, 64, 96),  # too few tiles
]


def agrees(program, tmp_path, tensors: dict, scale: float = 0.1, conventions: dict | None = None, **how) -> None:  # noqa: F811
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": scale, "d_v": 512}, conventions or {})
    agree_with_level_2(program, "sparse_prefill", folder, tmp_path, level_of(program, "sparse_prefill", TITLE), **how)


@pytest.mark.parametrize(("T", "H", "k"), CASES)
def test_parts_agree(program, tmp_path, T, H, k):  # noqa: F811
    """Selections in no order, with repeats within and across parts, and what lies out of range; a sink."""
    tensors = {"q": normal(T, H, 576, std=0.6), "kv": normal(90, 576), "indices": indices(T, 90, k), "sink": normal(H, dtype="float32")}
    agrees(program, tmp_path, tensors, conventions={"lse": "base2"})


@pytest.mark.parametrize("falls", [[], [1], [30], [95], [96], [97], [150], [30, 150]])
def test_parts_of_rows_that_ascend(program, tmp_path, falls):  # noqa: F811
    """Whoever begins in the middle of a row knows whether it fell before: up to the last slot before the part, at its first, and within it.
    From a fall on older slots' indices stand again."""
    row = np.concatenate([np.sort(rng_row) for rng_row in np.split(np.random.default_rng(5).integers(0, 90, 200), falls)])
    tensors = {"q": normal(1, 64, 576, std=0.6), "kv": normal(90, 576), "indices": ("int32", row[None])}
    agrees(program, tmp_path, tensors)


def test_a_row_falls_behind_what_does_not_count(program, tmp_path):  # noqa: F811
    """x, -1, x: the second x is not next to the first."""
    row = np.repeat(np.arange(60), 3)
    row[1::3] = -1
    tensors = {"q": normal(1, 5, 576, std=0.6), "kv": normal(90, 576), "indices": ("int32", row[None])}
    agrees(program, tmp_path, tensors)


@pytest.mark.parametrize("empty", ["all", "first part", "last part"])
def test_parts_that_see_nothing(program, tmp_path, empty):  # noqa: F811
    rows = np.arange(190)[None] % 90
    rows[0, 90:] = -1
    rows[0, {"all": slice(0, 190), "first part": slice(0, 96), "last part": slice(96, 190)}[empty]] = -1
    if empty == "first part":
        rows[0, 100:150] = np.arange(50)
    tensors = {"q": normal(1, 64, 576, std=0.6), "kv": normal(90, 576), "indices": ("int32", rows)}
    if empty != "all":  # beside a sink alone nothing would be divided by 0
        tensors["sink"] = normal(64, dtype="float32")
    agrees(program, tmp_path, tensors, conventions={"empty_row_lse": "+inf"})


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["q", "kv"])
def test_max_logit_beside_what_is_no_number(program, tmp_path, where, number):  # noqa: F811
    """As whole rows tell it: of the logits that are numbers, infinity among them. The sums are NaN, and lse with
    them: a row of nothing else is no empty row."""
    tensors = {"q": normal(1, 5, 576), "kv": normal(150, 576), "indices": ("int32", np.arange(150)[None])}
    tensors[where][1][(0, 2, 7) if where == "q" else (120, 7)] = number
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 0.1, "d_v": 512}, {})
    got, whole = (
        results(program, "sparse_prefill", folder, tmp_path / title, level=level_of(program, "sparse_prefill", title))
        for title in (TITLE, "selection inside")
    )
    assert np.array_equal(got["max_logit"], whole["max_logit"])
    none = np.isnan(numbers("out", got["out"]))
    assert np.array_equal(none, np.isnan(numbers("out", whole["out"])))
    assert np.array_equal(np.isnan(got["lse"]), none.all(axis=-1))


@pytest.mark.parametrize("scale", [5e-38, 30.0])
def test_scales_of_parts(program, tmp_path, scale):  # noqa: F811
    """By what a part's sums are divided is told by the scale: next to nothing, and so large that one slot has all the weight."""
    tensors = {"q": normal(2, 70, 576, std=0.6), "kv": normal(90, 576), "indices": indices(2, 90, 120), "sink": normal(70, dtype="float32")}
    agrees(program, tmp_path, tensors, scale, shares=SHARE | {"max_logit": 2.0**-10})
