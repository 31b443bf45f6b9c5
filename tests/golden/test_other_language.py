"""Is the file format described well enough? A checker in JavaScript, written from docs/case-format.md, must agree."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from touchstone.make import REPOSITORY

CHECKER = REPOSITORY / "golden" / "checkers" / "check.mjs"
KEPT = sorted(path.parent for path in (REPOSITORY / "golden" / "tensors").glob("*/*/golden.json"))
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: apt-get install nodejs")


def judged(golden, outputs):
    return subprocess.run(["node", CHECKER, golden, outputs], capture_output=True, text=True, check=False)


@pytest.fixture
def right_outputs(request, tmp_path, run):
    golden = request.param
    made = run("op", golden.parent.name, golden / "inputs", tmp_path)
    assert made.returncode == 0, made.stderr
    return golden, tmp_path


def spoilt(array, how):
    """The array with its last element wrong, or one short."""
    array = array.copy()
    if how == "short":
        return array.reshape(-1)[:-1]
    last = array.reshape(-1)[-1:]
    if how == "nan":
        last[...] = {"u": 0x7FC0, "f": np.nan, "i": -7}[array.dtype.kind] if array.dtype != np.uint8 else 0x7F
    elif array.dtype.kind == "f":
        last[...] = 1e30
    elif array.dtype == np.uint8:
        last[...] = 0xFE if last[0] < 0x80 else 0x7E  # -448 for what was not negative, 448 for what was
    else:
        last[...] = last ^ 0x4000
    return array


@pytest.mark.parametrize("right_outputs", KEPT, indirect=True, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_it_passes_what_is_right_and_nothing_else(right_outputs):
    golden, outputs = right_outputs
    passed = judged(golden, outputs)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    for name in json.loads((golden / "golden.json").read_text())["outputs"]:
        path = outputs / f"{name}.npy"
        right = np.load(path)
        for how in ("wrong", "nan", "short"):
            np.save(path, spoilt(right, how))
            failed = judged(golden, outputs)
            assert failed.returncode == 1, f"{name}, {how}: {failed.stdout}{failed.stderr}"
        path.unlink()
        assert judged(golden, outputs).returncode == 1
        np.save(path, right)


def test_bad_usage_is_one_sentence(tmp_path):
    for arguments in ([], [tmp_path, tmp_path]):
        ran = subprocess.run(["node", CHECKER, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 2 and ran.stderr.strip().count("\n") == 0, ran.stderr
