"""The whole model on the CUDA tree's functions, on the simulator: the same tokens as the reference."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from touchstone import Refusal
from touchstone.judge import END_TO_END_RMS

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "optimized" / "python"), str(REPOSITORY / "tests")]

from dsa_optimized import Model  # noqa: E402
from golden.conftest import reference, run, tiny  # noqa: E402, F401

DECODED = 12  # more than index_topk = 6 tokens are there before the first


@pytest.fixture
def library() -> str:
    path = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so")
    assert path.is_file(), f"{path} is not built: run `cmake --build build --target dsa_simulated`"
    return str(path)


def told(run, folder: Path, tier: str, conventions: str) -> dict[str, np.ndarray]:  # noqa: F811
    """What the reference generates after each of the prompts in tokens.npy."""
    out = folder / f"{tier}_{conventions}"
    done = run("model", "--config", folder / "config.json", "--weights", folder / "model.safetensors", "--tokens", folder / "tokens.npy",
               "--out", out, "--tier", tier, "--conventions", conventions, "--decode", DECODED)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: np.load(out / f"{name}.npy") for name in ("decode_tokens", "decode_logits")}


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("conventions", ["deepseek-v3.2-exp", "deepseek-v3.2", "transformers"])
def test_the_model_generates_the_reference_s_tokens(tiny, run, library, conventions):  # noqa: F811
    deployed, exact = (told(run, tiny, tier, conventions) for tier in ("deployed", "exact"))
    model = Model(library, tiny / "config.json", tiny, 40, conventions)
    for b, prompt in enumerate(np.load(tiny / "tokens.npy")):
        model.forget()
        tokens, logits = model.generate(prompt, DECODED)
        assert tokens.tolist() == deployed["decode_tokens"][b].tolist()
        # The same room as the oracle gives a chain of stages: its error against the exact tier is the deployed one's.
        error, allowed = rms(logits[0] - exact["decode_logits"][b, 0]), rms(deployed["decode_logits"][b, 0] - exact["decode_logits"][b, 0])
        assert error <= END_TO_END_RMS * allowed, f"prompt {b}: rms error {error:.3g}, the reference's deployed tier has {allowed:.3g}"


def test_a_prompt_in_pieces_is_the_same_prompt(tiny, library):  # noqa: F811
    """Prefill and decode agree: what the cache holds does not depend on how it came in."""
    prompt = np.load(tiny / "tokens.npy")[0]
    model = Model(library, tiny / "config.json", tiny, 20)
    whole = model.forward(prompt)
    model.forget()
    for piece in (prompt[:7], prompt[7:8], prompt[8:12], prompt[12:]):
        pieces = model.forward(piece)
    assert np.argmax(pieces) == np.argmax(whole)
    np.testing.assert_array_equal(pieces, whole)


def test_bad_use_is_one_sentence(tiny, library):  # noqa: F811
    with pytest.raises(Refusal, match="the capacity must be from 1 to max_position_embeddings = 128"):
        Model(library, tiny / "config.json", tiny, 1000)
    model = Model(library, tiny / "config.json", tiny, 4)
    with pytest.raises(Refusal, match="room for 4 tokens; 0 are in them, 5 more were given"):
        model.forward(np.zeros(5, np.int32))
    with pytest.raises(Refusal, match="token ids must be from 0 to 60"):
        model.forward(np.array([61]))
