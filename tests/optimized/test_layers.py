"""Experts and whole layers on the simulator: every stage shown and judged, crowded experts, bad calls in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from touchstone import Refusal, cases, check, clib, dtypes, make
from touchstone.plugins import Limits, Worker
from touchstone.telling import Telling
from touchstone.telling.inputs import Inputs

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so")


@pytest.fixture(scope="module")
def library() -> clib.Library:
    assert LIBRARY.is_file(), f"{LIBRARY} is not built: run `cmake --build build --target dsa_simulated`"
    return clib.Library(str(LIBRARY))


@pytest.fixture(params=[1, 2])
def level(request, library):
    library.library.dsa_choose_level(request.param)
    yield request.param
    library.library.dsa_choose_level(0)


def case_of(op: str, parameters: dict, tensors: dict, conventions=None) -> dict:
    """case.json's content. tensors: name -> (dtype, shape, fill)"""
    described = {n: {"dtype": d, "shape": list(s), "fill": f} for n, (d, s, f) in tensors.items()}
    return {"version": 1, "op": op, "tier": "deployed", "seed": 3, "conventions": conventions or "deepseek-v3.2-exp",
            "parameters": parameters, "tensors": described}  # fmt: skip


def normal(std: float) -> dict:
    return {"normal": {"std": std}}


def mixture(T: int, bias: list) -> dict:
    """moe on E = 6 experts in 3 groups, D = 48, F = 32"""
    E, D, F = 6, 48, 32
    return case_of("moe", {"groups": 3, "kept_groups": 2, "active": 4}, {
        "x": ("bfloat16", (T, D), normal(1.0)), "W_g": ("float32", (D, E), normal(0.2)), "bias": ("float32", (E,), {"values": bias}),
        "W_gate": ("bfloat16", (E, D, F), normal(0.2)), "W_up": ("bfloat16", (E, D, F), normal(0.2)),
        "W_down": ("bfloat16", (E, F, D), normal(0.2))})  # fmt: skip


def numbers(stored: np.ndarray) -> np.ndarray:
    return dtypes.from_bfloat16(stored).astype(np.float64)


@pytest.mark.parametrize("bias", [[0, 0, 0, 0, 0, 0], [9, 9, 9, 9, -9, -9]], ids=["spread", "crowded"])
def test_visits_of_many_tokens_find_their_experts(library, level, bias):
    """More visits than a block has threads, more rows of an expert than a tile has, experts without any."""
    description = mixture(70, bias)
    inputs = Inputs.of_case(description)
    y = numbers(library.call("moe", description, inputs)["y"])
    exact = Telling(description["conventions"], description["parameters"], inputs, "exact").run("moe")["y"].array
    # gate, up, their product, down and y are stored as bf16, 2^-9 each, on sums of cancelling terms of this size.
    size = np.sqrt(np.mean(exact**2))
    error = np.abs(y - exact)
    assert not (error > 5 * 2.0**-9 * 4 * (np.abs(exact) + size)).any(), f"worst {error.max():.3g} of {size:.3g}"


def gate(scores: list, bias: list, parameters: dict) -> dict:
    """moe_gate of one token whose products with W_g are `scores`."""
    return case_of("moe_gate", parameters, {
        "x": ("bfloat16", (1, 1), {"constant": 1}), "W_g": ("float32", (1, len(scores)), {"values": scores}),
        "bias": ("float32", (len(bias),), {"values": bias})})  # fmt: skip


@pytest.mark.parametrize("scores, bias, parameters, experts", [
    ([1, 2, 2, 1], [0, 0, 0, 0], {"groups": 1, "kept_groups": 1, "active": 3}, [1, 2, 0]),  # ties to the lower expert
    ([0, 3, 2, 2], [0, 0, 0, 0], {"groups": 2, "kept_groups": 1, "active": 2}, [2, 3]),  # a group by its two best
    ([5, 0, 0, 0], [-2, 0, 0, 0], {"groups": 1, "kept_groups": 1, "active": 1}, [1]),  # the bias joins the choice
    ([1, "nan", 2, "nan"], [0, 0, 0, 0], {"groups": 1, "kept_groups": 1, "active": 3}, [2, 0, 1]),  # NaN ranks last
])  # fmt: skip
def test_the_gate_s_rules(library, level, scores, bias, parameters, experts):
    description = gate(scores, bias, parameters)
    got = library.call("moe_gate", description, Inputs.of_case(description))
    assert got["experts"].tolist() == [experts]
    if "nan" not in scores:
        g = 1 / (1 + np.exp(-np.asarray(scores, np.float64)[experts]))  # without the bias
        np.testing.assert_allclose(got["expert_weights"][0], 2.5 * g / g.sum(), rtol=8 * 2.0**-24)


@pytest.mark.parametrize("parameters, sentence", [
    ({"groups": 3, "kept_groups": 1, "active": 1}, "4 experts do not divide into 3 groups"),
    ({"groups": 2, "kept_groups": 1, "active": 3}, "active must be from 1 to the 2 experts of the kept groups; it is 3"),
    ({"groups": 2, "kept_groups": 3, "active": 1}, "kept_groups must be from 1 to the 2 groups; it is 3"),
])  # fmt: skip
def test_a_gate_that_cannot_be_is_one_sentence(library, parameters, sentence):
    description = gate([1, 2, 3, 4], [0, 0, 0, 0], parameters)
    with pytest.raises(Refusal, match=sentence):
        library.call("moe_gate", description, Inputs.of_case(description))


@pytest.mark.parametrize("name", ["transformer_block/moe_fp8", "dsa_attention/speculative"])
def test_every_stage_is_shown_and_right(name, level, monkeypatch):
    monkeypatch.setenv("DSA_LEVEL", str(level))
    case = next(c for c in cases.choose([], "small") if c.name == name)
    worker = Worker("lib", str(LIBRARY), Limits(seconds=300))
    try:
        checked = check.check_case(case, worker.run, check.Options(private=0, runs=1, reference=make.reference_program()))
    finally:
        worker.close()
    assert checked.state == "right", checked.sentence
    shown = {v.name for v in checked.verdicts}
    wanted = {"c_q", "q_nope", "q_rope", "c_kv", "k_rope", "indexer_q", "indexer_q_scale", "indexer_k", "indexer_k_scale", "indexer_weights",
              "kv", "topk_indices", "q", "attention_out", "attention_lse", "attention_max_logit", "attention_y", "y"}  # fmt: skip
    if case.op == "transformer_block":
        wanted |= {"attention_input", "after_attention", "ffn_input", "gate_scores", "expert_ids", "expert_weights", "ffn_y", "after_ffn"}
    # Level 2 has no tensor of all scores.
    assert shown == wanted | ({"indexer_logits"} if level == 1 else set())
