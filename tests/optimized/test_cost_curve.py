"""The cost curve's table and figure say what was measured, and add it up as they claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from optimized.bench import cost_page  # noqa: E402

ALL = cost_page.load()


def part(us: float) -> dict:
    return {"op": "some", "median_us": us, "spread_us": 0.0}


def test_the_page_and_the_figure_are_made_from_the_curve():
    assert ALL
    page = cost_page.PAGE.read_text(encoding="utf-8")
    assert cost_page.in_page(page, "\n\n".join(cost_page.table(c) for c in ALL)) == page, "run `python -m optimized.bench.receipts`"
    drawn = cost_page.numbers_of(cost_page.FIGURE.read_text(encoding="utf-8"))
    assert drawn == cost_page.series(ALL[0]), "run `python -m optimized.bench.cost_page`"
    assert list(drawn) == list(cost_page.PHASES)
    assert all(lines["S"] == cost_page.LENGTHS for lines in drawn.values())


def test_parts_add_up():
    """Two tokens of one request: 1 us of every graph is no part's; the rest is what the whole takes beyond; the faster way counts."""
    parts = {"projections": part(5), "indexer_project": part(3), "selection": part(9), "selection_in_two": part(7), "sparse": part(5), "copy": part(2),
             "dense": part(41), "up_projection": part(3), "dense_own": part(21)}  # fmt: skip
    point = {"phase": "prefill", "T": 2, "B": 1, "S": 1024, "parts": parts, "whole": part(30)}
    curve = {"overhead_us": 1.0, "points": [point]}
    of = cost_page.costs(curve, point)
    assert of["rest"] == (29 - 4 - 2 - 8 - 4 - 1) / 2
    assert of["selection"] == 3
    assert of["sparse_block"] == (4 + 10 + 2 + 6 + 4) / 2
    assert of["mqa_block"] == (4 + 10 + 40) / 2
    assert of["dense_block"] == of["mha_block"] == (4 + 10 + 2 + 20) / 2


def test_a_batch_in_one_kernel():
    """4096 queries over 4096 tokens, 8 390 656 pairs, take 8390.656 us: a position is 1 ns, if its 1152 bytes do not take longer."""
    longest = {"phase": "prefill", "T": 4096, "B": 1, "S": 4096, "parts": {"dense": part(8391.656)}}
    curve = {"overhead_us": 1.0, "points": [longest], "ceilings": {"copy_bytes_a_second": 1e13}}
    assert cost_page.batched(curve, 1000) == pytest.approx(1.0)
    curve["ceilings"]["copy_bytes_a_second"] = 1e12
    assert cost_page.batched(curve, 1000) == pytest.approx(1.152)


@pytest.mark.parametrize(("dense", "sparse", "at"), [([1, 2, 8], [2, 3, 4], 1024 * 2**1.2), ([3, 4, 5], [1, 1, 1], None), ([1, 1, 1], [2, 2, 2], None)])
def test_where_sparse_wins(dense, sparse, at):
    found = cost_page.crossing({"S": [1024, 2048, 4096], "dense_block": dense, "sparse_block": sparse})
    assert found == pytest.approx(at) if at else found is None


def test_dollars():
    """61 layers of 1 us a token: a million tokens take 61 s of a GPU at 2 dollars an hour."""
    assert cost_page.dollars(1.0) == pytest.approx(61 * 2 / 3600)


def test_a_changed_source_is_told():
    changed = ALL[0] | {"levels": ALL[0]["levels"] | {"top_k": {"ran": [1], "sources": "0" * 64}}}
    assert "Sources changed since: " in cost_page.table(changed)


def test_a_disturbed_timing_is_made_again_and_told():
    """Three times at most; the calmest is kept; one that stays disturbed, or is NaN, is named in the table."""

    def times(*spreads):
        left = [{"op": "some", "median_us": 10.0, "spread_us": x} for x in spreads]
        return cost_page.calmest(lambda: left.pop(0))["spread_us"], len(left)

    assert times(1.0, 2.0, 3.0) == (1.0, 2)
    assert times(7.0, 2.0, 1.0) == (2.0, 1)
    assert times(9.0, 7.0, 8.0, 1.0) == (7.0, 1)
    assert cost_page.is_disturbed({"median_us": 10.0, "spread_us": float("nan")})
    phase = next(iter(cost_page.PHASES))
    points = [{"phase": phase, "S": S, "parts": {"sparse": {"median_us": 10.0, "spread_us": spread}}} for S, spread in ((2048, 6.0), (1024, 1.0))]
    assert cost_page.disturbed({"points": points}, phase) == [(2048, "sparse")]
