"""The tables in the book are those of the kept runs; the runs are of the recipes as they are; the text's claims hold in them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("parity", REPOSITORY / "tools" / "parity.py")
parity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parity)
FILES = [REPOSITORY / "docs" / "results" / f"{name}.json" for name in ("recall", "text")]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def results(request) -> dict:
    return json.loads(request.param.read_text())


def test_pages_show_the_tables_of_the_files():
    assert parity.pages(), "no page has a place for a table"
    for page in parity.pages():
        assert parity.filled(page.read_text()) == page.read_text(), f"{page.name}: run tools/parity.py write"
    shown = "".join(page.read_text() for page in parity.pages())
    for path in FILES:
        assert f"parity: parity {path.name} " in shown


def test_a_changed_number_is_noticed():
    page = next(page for page in parity.pages() if "±" in page.read_text()).read_text()
    changed = page[: page.index("<!-- parity:")] + page[page.index("<!-- parity:") :].replace("±", "+", 1)
    assert changed != page and parity.filled(changed) == page


def test_the_runs_are_of_the_recipe_as_it_is(results):
    recipe = json.loads((REPOSITORY / results["recipe"]).read_text())
    assert results["fingerprint"] == parity.fingerprint(recipe), f"{results['recipe']} changed since its runs: run it again, then tools/parity.py collect"
    assert len({run["seed"] for run in results["runs"]}) >= 3
    for run in results["runs"]:
        assert [row["name"] for row in run["rows"]] == [e["name"] for e in recipe["evaluations"]]
        assert {name: end["steps"] for name, end in run["stages"].items()} == {s["name"]: s["steps"] for s in recipe["stages"]}


def seeds_of(name: str) -> list[dict]:
    """Of each run, {evaluation: row}."""
    return [{row["name"]: row for row in run["rows"]} for run in json.loads((REPOSITORY / "docs" / "results" / f"{name}.json").read_text())["runs"]]


SPARSE, LONGER = "sparse, after sparse training", "dense, trained as much longer"


@pytest.mark.parametrize("name", ["recall", "text"])
def test_the_chapters_claims_hold_for_every_seed(name):
    for rows in seeds_of(name):
        loss = {row: told["loss"] for row, told in rows.items()}
        assert rows[SPARSE]["pairs"] < 0.125
        assert loss["sparse, after warm-up"] < loss["no warm-up, indexer untrained"] - 1
        assert rows["no warm-up, indexer untrained"]["accuracy"] < rows["dense"]["accuracy"] / 2
        assert loss["best k of dense"] > loss["dense"]


def test_text_parity_is_within_the_seeds():
    difference = [rows[SPARSE]["loss"] - rows[LONGER]["loss"] for rows in seeds_of("text")]
    assert abs(sum(difference) / len(difference)) < 0.02
    for rows in seeds_of("text"):
        assert rows["window k, trained with it"]["loss"] < rows["window k"]["loss"] < rows["random k, trained with it"]["loss"]
        assert 0.8 < rows["interleaved RoPE in the indexer"]["loss"] - rows[SPARSE]["loss"] < 1.9


def test_recall_needs_the_right_token():
    for rows in seeds_of("recall"):
        for wrong in ("random k", "window k", "window k, trained with it", "no warm-up, indexer untrained"):
            assert rows[wrong]["accuracy"] < 0.1 < rows[SPARSE]["accuracy"]
