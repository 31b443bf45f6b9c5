"""The table of GPU results says what the receipts say, and the receipts say that everything was right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from optimized.bench import receipts  # noqa: E402

ALL = receipts.load()
PAGE = REPOSITORY / "docs" / "gpu-results.md"


def test_there_is_a_receipt():
    assert ALL


def test_the_page_is_generated_from_the_receipts():
    page = PAGE.read_text(encoding="utf-8")
    text = "\n\n".join(receipts.table(receipt) for receipt in ALL)
    assert receipts.in_page(page, text) == page, "run `python -m optimized.bench.receipts`"


# Why it is no fault there: device.PHASES_UNHEARD.
UNHEARD = [("sparse_prefill", level, "synccheck", "clean, but for phases that nobody waits for") for level in ("4", "8")]


@pytest.mark.parametrize("receipt", ALL, ids=lambda r: r["gpu"])
def test_what_was_checked_was_right(receipt):
    for op, entry in receipt["ops"].items():
        for number, level in entry["levels"].items():
            checks = level["checks"]
            assert checks["cases"] == checks["right"] > 0, f"{op}, level {number}"
            assert level["same_bits_in_runs"] >= 20, f"{op}, level {number}"
            for tool, said in level["sanitizers"].items():
                unheard = (op, number, tool, said) in UNHEARD
                assert said == "clean" or unheard or tool == "racecheck" and said.startswith("not asked: "), f"{op}, level {number}, {tool}: {said}"
    for op, full in receipt.get("full_size", {}).items():
        assert full["cases"] == full["right"] > 0, f"{op}, full size"
    assert all(p["same"] for p in receipt["trained_model"])


def test_a_changed_source_is_told(tmp_path, monkeypatch):
    op, entry = next(iter(ALL[0]["ops"].items()))
    number = next(iter(entry["levels"]))
    levels = entry["levels"] | {number: entry["levels"][number] | {"sources": "0" * 64}}
    changed = ALL[0] | {"ops": ALL[0]["ops"] | {op: {"levels": levels}}, "trained_model_sources": ""}
    assert f"| `{op}` | {number} (sources changed since) |" in receipts.table(changed)
    some = {"full_size": {op: {"right": 2, "cases": 2, "sources": ""}}}
    assert receipts.of_full_size(ALL[0] | some).endswith(f"`{op}` 2 of 2 (sources changed since).")
    assert receipts.of_trained_model(changed).endswith("(sources changed since).")


def test_a_comment_is_no_code():
    """A better comment makes no measurement older; a string that looks like one is code."""
    assert receipts.code_of('a;  // b\n\n/* c\n "d" */ f("// \\"e");\n') == 'a;\n f("// \\"e");'


def test_full_size_cases_alone_want_an_earlier_receipt(tmp_path):
    """On a card that no receipt is of: PyTorch is one that only knows the card's name."""
    (tmp_path / "torch.py").write_text("import sys\nfrom unittest.mock import MagicMock\nfake = MagicMock()\n"
                                       "fake.cuda.get_device_name.return_value = 'NVIDIA Abacus'\nsys.modules['torch'] = fake\n")  # fmt: skip
    before = {path: path.read_bytes() for path in receipts.RECEIPTS.iterdir()}
    done = subprocess.run([sys.executable, "-m", "optimized.bench.device", "--build", tmp_path, "--full-only"], capture_output=True, text=True, check=False,
                          cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])})  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == f"--full-only adds to an earlier receipt, and {receipts.RECEIPTS} has none of NVIDIA Abacus: run make device without it first\n"
    assert before == {path: path.read_bytes() for path in receipts.RECEIPTS.iterdir()}
