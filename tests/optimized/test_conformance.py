"""Does the simulator do what an H100 did, instruction by instruction, to the bit? The receipt keeps the GPU's answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from optimized.bench import conformance, receipts  # noqa: E402

PROGRAM = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so").with_name("conformance-simulated")


@pytest.fixture(scope="module")
def simulated() -> dict[str, str]:
    assert PROGRAM.is_file(), f"{PROGRAM} is not built: run `cmake --build build --target conformance-simulated`"
    return conformance.answers(PROGRAM)


@pytest.mark.parametrize("receipt", receipts.load(), ids=lambda r: r["gpu"])
def test_the_simulator_answers_as_the_gpu_did(simulated, receipt):
    assert simulated == receipt["conformance"]


def test_an_experiment_that_fails_says_why(tmp_path):
    program = tmp_path / "conformance"
    program.write_text("#!/bin/sh\n[ $# = 0 ] && { echo usage >&2; echo '  one' >&2; exit 2; }\necho 'one: a kernel failed: an illegal instruction' >&2\nexit 1\n")
    program.chmod(0o755)
    assert conformance.answers(program) == {"one": "one: a kernel failed: an illegal instruction"}
