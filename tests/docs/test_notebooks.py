"""Every notebook runs from its first cell to its last, in a fresh kernel, and draws what it says."""

from __future__ import annotations

import os
from pathlib import Path

import jupytext
import nbclient
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.py"))


PICTURES = {"01_a_sentence_through_every_stage": 8, "02_from_a_wrong_kernel_to_a_right_one": 5, "03_teaching_the_indexer": 6,
            "04_a_warp_specialised_kernel": 4}  # fmt: skip


def test_every_notebook_is_known():
    assert [path.stem for path in NOTEBOOKS] == list(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TOUCHSTONE_REFERENCE", os.environ.get("TOUCHSTONE_REFERENCE", str(REPOSITORY / "build" / "dsa-reference")))
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(REPOSITORY / "notebooks")}}).execute()
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= PICTURES[path.stem]
    for picture in pictures:
        assert len(picture["data"]["image/png"]) > 5000, "a figure is all but empty"
