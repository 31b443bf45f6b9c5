"""A whole step of training on the simulator: every stage shown and judged, wide enough for the tensor cores; bad calls; NaN."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
from touchstone import Refusal, cases, check, clib, dtypes, make
from touchstone.cases import Case
from touchstone.plugins import Limits, Worker
from touchstone.telling.inputs import Inputs

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so")
ROPE = {"original_context": 64, "max_context": 4096}

FORWARD = {"attention_input", "q_latent", "c_q", "q_heads", "kv_latent", "c_kv", "k_rope", "kv_heads", "attention_out", "attention_y",
           "after_attention", "ffn_input", "gate_scores", "expert_ids", "expert_weights", "ffn_y", "after_ffn"}  # fmt: skip
BACKWARD = {"after_ffn", "ffn_y", "ffn_input", "after_attention", "attention_y", "attention_out", "q_heads", "c_q", "q_latent", "kv_heads",
            "k_rope", "c_kv", "kv_latent", "attention_input"}  # fmt: skip
INDEXER = {"indexer_q", "indexer_k", "indexer_weights", "indexer_logits", "attention_target"}
INDEXER_BACKWARD = {"indexer_weights", "indexer_q", "indexer_k"}


@pytest.fixture(scope="module")
def library() -> clib.Library:
    assert LIBRARY.is_file(), f"{LIBRARY} is not built: run `cmake --build build --target dsa_simulated`"
    return clib.Library(str(LIBRARY))


def small(name: str) -> Case:
    return next(c for c in cases.choose(["training_step"], "small") if c.name == f"training_step/{name}")


def description_of(name: str) -> dict:
    return copy.deepcopy(check.described(small(name), check.Options(private=0)))


def wide(stage: str, T: int = 24) -> Case:
    """Two layers whose widths are multiples of 16, so that every part runs at its highest level."""
    V, D, R_q, H, R_kv, d_nope, d_rope, d_v, H_I, D_I, E, F, F_s = 48, 64, 32, 4, 48, 32, 16, 32, 4, 32, 8, 32, 64
    L = 2

    def matrix(*shape, rows: int) -> dict:
        return {"dtype": "bfloat16", "shape": [L, *shape], "fill": {"normal": {"std": round(rows**-0.5, 4)}}}

    def norm(*shape) -> dict:
        return {"dtype": "float32", "shape": list(shape), "fill": {"normal": {"std": 0.1, "mean": 1}}}

    def words(seed: int) -> dict:
        return {"dtype": "int32", "shape": [T], "fill": {"values": [(t * t * seed + t) % V for t in range(T)]}}

    tensors = {
        "tokens": words(5), "targets": words(7), "embedding": {"dtype": "bfloat16", "shape": [V, D], "fill": {"normal": {"std": 1}}},
        "attention_norm": norm(L, D), "W_dq": matrix(D, R_q, rows=D), "q_norm": norm(L, R_q), "W_uq": matrix(R_q, H, d_nope + d_rope, rows=4),
        "W_dkv": matrix(D, R_kv + d_rope, rows=D), "kv_norm": norm(L, R_kv), "W_uk": matrix(R_kv, H, d_nope, rows=R_kv),
        "W_uv": matrix(R_kv, H, d_v, rows=R_kv), "W_o": matrix(H, d_v, D, rows=H * d_v), "W_qI": matrix(R_q, H_I, D_I, rows=4),
        "W_kI": matrix(D, D_I, rows=D), "k_norm": norm(L, D_I), "k_bias": norm(L, D_I), "W_w": matrix(D, H_I, rows=D), "ffn_norm": norm(L, D),
        "W_g": {"dtype": "float32", "shape": [L, D, E], "fill": {"normal": {"std": 0.125}}}, "bias": norm(L, E),
        "W_gate": matrix(E, D, F, rows=D), "W_up": matrix(E, D, F, rows=D), "W_down": matrix(E, F, D, rows=F),
        "shared_W_gate": matrix(D, F_s, rows=D), "shared_W_up": matrix(D, F_s, rows=D), "shared_W_down": matrix(F_s, D, rows=F_s),
        "final_norm": norm(D), "head": {"dtype": "bfloat16", "shape": [D, V], "fill": {"normal": {"std": 0.125}}}}  # fmt: skip
    parameters = {"stage": stage, "topk": 8, "groups": 4, "kept_groups": 2, "active": 3, "rope": ROPE}
    return Case("training_step", {"name": f"wide_{stage}", "note": "", "flags": [], "size": "small", "seed": 77, "parameters": parameters,
                                  "conventions": "deepseek-v3.2-exp", "tensors": tensors})  # fmt: skip


def checked(case: Case, level: int, monkeypatch) -> check.Checked:
    monkeypatch.setenv("DSA_LEVEL", str(level))
    worker = Worker("lib", str(LIBRARY), Limits(seconds=300))
    try:
        return check.check_case(case, worker.run, check.Options(private=0, runs=1, reference=make.reference_program()))
    finally:
        worker.close()


@pytest.mark.parametrize("stage", ["dense", "warmup", "sparse"])
def test_every_stage_is_shown_and_right(stage, monkeypatch):
    # 33 queries are two pieces in the indexer's loss.
    found = checked(wide(stage, 33 if stage == "warmup" else 24), 2, monkeypatch)
    assert found.state == "right", found.sentence
    wanted = {"embedding", "final_norm", "logits"}
    layer = FORWARD | (INDEXER if stage != "dense" else set()) | ({"topk_indices"} if stage == "sparse" else set())
    back = (BACKWARD if stage != "warmup" else set()) | (INDEXER_BACKWARD if stage != "dense" else set())
    if stage != "warmup":
        wanted |= {"d_logits", "d_final_norm", "d_embedding"}
    wanted |= {f"layer_{n}.{name}" for n in range(2) for name in layer} | {f"layer_{n}.d_{name}" for n in range(2) for name in back}
    outputs = {"language_loss", "kl_loss"} | {"d" + name for name in found.description["tensors"] if name not in ("tokens", "targets", "bias")}
    assert {v.name for v in found.verdicts} == wanted | outputs


@pytest.mark.parametrize("change, sentence", [
    ({"parameters": {"topk": 0}}, "training_step needs the parameter topk"),
    ({"parameters": {"stage": "lukewarm"}}, 'the parameter stage must be dense, warmup or sparse; it is "lukewarm"'),
    ({"parameters": {"active": 3}}, "active must be from 1 to the 2 experts of the kept groups; it is 3"),
    ({"shapes": {name: shape for name, shape in zip(("shared_W_gate", "shared_W_up", "shared_W_down"), ([2, 32, 24], [2, 32, 24], [2, 24, 32]))}},
     "the shared expert must be a multiple of an expert's width, 16; it is 24"),
    ({"shapes": {"W_dkv": [2, 32, 16]}}, "W_dkv must have R_kv \\+ d_rope columns"),
    ({"shapes": {"W_kI": [2, 32, 8]}}, "D_I"),
    ({"shapes": {"targets": [11]}}, "targets"),
    ({"dtypes": {"W_dq": "float32"}}, "W_dq"),
])  # fmt: skip
def test_a_bad_call_is_one_sentence(library, change, sentence):
    description = description_of("sparse")
    description["parameters"] |= change.get("parameters", {})
    for name, shape in change.get("shapes", {}).items():
        description["tensors"][name] |= {"shape": shape}
    for name, dtype in change.get("dtypes", {}).items():
        description["tensors"][name] |= {"dtype": dtype}
    for entry in description["tensors"].values():
        entry.pop("set", None)
    with pytest.raises(Refusal, match=sentence):
        library.call("training_step", description, Inputs.of_case(description))


def test_a_workspace_that_is_too_small_is_refused(library, monkeypatch):
    measure = library._workspace

    def one_byte_less(op, args, held):
        workspace = measure(op, args, held)
        args.workspace_bytes -= 1
        return workspace

    monkeypatch.setattr(library, "_workspace", one_byte_less)
    description = description_of("one_token")
    with pytest.raises(Refusal, match="the workspace must have [0-9]+ bytes; it has [0-9]+: ask dsa_OP_workspace"):
        library.call("training_step", description, Inputs.of_case(description))


def losses(library, name: str, **fills) -> tuple[np.ndarray, np.ndarray]:
    """language_loss, kl_loss of a case with other fills. The order of accesses is not of interest here."""
    description = description_of(name)
    for tensor, fill in fills.items():
        entry = description["tensors"][tensor]
        entry.pop("set", None)
        entry["fill"] = fill
    got = library.call("training_step", description, Inputs.of_case(description))
    return got["language_loss"], got["kl_loss"]


def test_what_is_no_word_is_a_loss_of_nan(library):
    language, _ = losses(library, "repeated_tokens", tokens={"values": [4, 7, 19, 1, 4, 18]})
    assert np.isnan(language).all()
    language, _ = losses(library, "repeated_tokens", targets={"values": [7, 4, 1, 4, 19, 0]})
    assert np.isnan(language).all()


@pytest.mark.parametrize("name", ["simulate_fp8_linear", "transformers"])
def test_a_nan_in_the_indexer_is_a_loss_of_nan(library, name):
    """In the warm-up only the indexer's; in the sparse stage, whose choice it spoils, both."""
    language, kl = losses(library, name, k_bias={"values": ["nan"] + [0.0] * 15})
    assert np.isnan(kl).all()
    assert np.isnan(language).all() == (name == "transformers")


def test_the_same_bits_at_every_order_of_turns(library, monkeypatch):
    description = description_of("transformers")
    found = []
    for seed in ("1", "2", "3"):
        monkeypatch.setenv("DSA_SIMULATOR_SEED", seed)
        got = library.call("training_step", description, Inputs.of_case(description))
        found.append({name: dtypes.from_storage(x, "float32").tobytes() if x.dtype == np.float32 else x.tobytes() for name, x in got.items()})
    assert found[1] == found[0]
    assert found[2] == found[0]
