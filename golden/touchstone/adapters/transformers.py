"""What does transformers' indexer select? The adapter of DeepseekV32Indexer, for the stage topk_indices.

Source: huggingface/transformers, src/transformers/models/deepseek_v32/modular_deepseek_v32.py (the class: its
parameters and their layout, forward's arguments and results, what is computed in float32, what is masked how).

| | topk_indices of dsa_attention = DeepseekV32Indexer.forward |
|---|---|
| weights | [out, in]: wq_b [H_I D_I, R_q], wk [D_I, D], weights_proj [H_I, D]; k_norm.weight, .bias [D_I] |
| hidden_states, q_resid | [1, T, D], [1, T, R_q]: the block's normalised input; c_q after its norm |
| position_embeddings | (cos, sin), each [1, T, d_rope]: the pairs' angles twice over, no mscale in them |
| attention_mask | bool [1, T, T], True where visible |
| gives | int32 indices [1, T, min(k, T)], by falling score; in some versions with their scores |
| left out | Hadamard and quantisation; scores are of unquantised numbers, in float32 |

The class projects, rotates, scores and selects in one: there is no entry that takes quantised queries and keys, so
indexer_logits and indexer_top_k have no adapter here. A query with fewer visible positions than k gets masked ones
back, of score -inf: they are made -1. Ties are torch.topk's: any. The class also decodes with a cache of keys in
its own cache object, which this adapter does not fill: cases with a cache are not implemented.

Everything is float32, the class and its parameters too: what is judged is the class, not the rounding of a model in
bf16. Computed here, because the class is given it: c_q = RMSNorm(x W_dq), and the angles.
"""

from __future__ import annotations

import math

import numpy as np

from . import _torch, follows, over_peer
from ._arrays import BF16

conventions = {
    "dsa_attention": {
        "indexer_rope": "half_split", "hadamard": False, "quantizer": "none", "weights_proj": "float32",
        "indexer_scores": "float32",
    },
}  # fmt: skip
OF_ATTENTION = {"W_uq", "W_dkv", "kv_norm", "W_uk", "W_uv", "W_o", "scale"}  # what the indexer does not look at


def dsa_attention(call):
    """The stage topk_indices of dsa_attention over call(config, state, hidden_states, q_resid, position_embeddings,
    attention_mask): a class made with the settings `config` and the parameters `state`, and its forward.

    x: bf16 [T, D]  positions: int32 [T]  W_dq [D, R_q], W_qI [R_q, H_I, D_I], W_kI [D, D_I], W_w [D, H_I]: bf16,
    [in, out]  q_norm [R_q], k_norm, k_bias [D_I]: float32  start: int32 [T], optional -> topk_indices int32 [T, k]
    """

    def plugin(x, positions, W_dq, q_norm, W_qI, W_kI, k_norm, k_bias, W_w, topk, rope=None, start=None, eps=1e-6,
               cache_k=None, cache_kv=None, cache_k_scale=None, **others):  # fmt: skip
        if unknown := set(others) - OF_ATTENTION:
            raise TypeError(f"the adapter of transformers does not know {', '.join(sorted(unknown))}")
        if cache_k is not None or cache_kv is not None or cache_k_scale is not None:
            raise NotImplementedError("the adapter of transformers does not fill its cache: prefill only")
        if W_qI.dtype != BF16:
            raise NotImplementedError(f"the adapter of transformers takes bf16 weights; these are {W_qI.dtype}")
        T, D = x.shape
        R_q, H_I, D_I = W_qI.shape
        d_rope = others["W_dkv"].shape[1] - len(others["kv_norm"])
        hidden = x.astype(np.float32)
        q_resid = rms_norm(hidden @ W_dq.astype(np.float32), q_norm, eps)
        s = np.arange(T)
        visible = s[None, :] <= s[:, None]
        if start is not None:
            visible &= s[None, :] >= start[:, None]
        angles = positions[:, None] * frequencies(d_rope, **(rope or {}))
        angles = np.concatenate([angles, angles], axis=-1)[None]
        given = call(
            config={"hidden_size": D, "q_lora_rank": R_q, "index_n_heads": H_I, "index_head_dim": D_I,
                    "qk_rope_head_dim": d_rope, "index_topk": topk},
            state={"wq_b.weight": _rows(W_qI.reshape(R_q, H_I * D_I)), "wk.weight": _rows(W_kI),
                   "weights_proj.weight": _rows(W_w), "k_norm.weight": k_norm, "k_norm.bias": k_bias},
            hidden_states=hidden[None],
            q_resid=q_resid[None],
            position_embeddings=(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)),
            attention_mask=visible[None],
        )  # fmt: skip
        indices = (given[0] if isinstance(given, tuple) else given)[0]
        selected = np.full((T, topk), -1, np.int32)
        selected[:, : indices.shape[-1]] = np.where(np.take_along_axis(visible, indices, axis=-1), indices, -1)
        return {"topk_indices": selected}

    return follows(conventions["dsa_attention"], plugin)


def _rows(W: np.ndarray) -> np.ndarray:
    """[in, out] -> float32 [out, in]"""
    return np.ascontiguousarray(W.astype(np.float32).T)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """spec section 2. float32 [T, n] -> [T, n]"""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True, dtype=np.float32) + np.float32(eps)) * weight


def frequencies(d_rope: int, theta=10000.0, factor=40.0, beta_fast=32.0, beta_slow=1.0, original_context=4096,
                max_context=163840, mscale=1.0) -> np.ndarray:  # fmt: skip
    """Radians a position of each pair, with YaRN: spec section 2. mscale is the softmax's alone. -> [d_rope / 2]"""
    pair = np.arange(d_rope // 2, dtype=np.float64)
    f = theta ** (-2 * pair / d_rope)
    if max_context <= original_context or factor <= 1:
        return f

    def correction(rotations):
        return d_rope * math.log(original_context / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low, high = math.floor(correction(beta_fast)), math.ceil(correction(beta_slow))
    low, high = (min(max(c, 0), d_rope - 1) for c in (low, high))
    ramp = np.clip((pair - low) / (high - low if high != low else 0.001), 0, 1)
    return f / factor * ramp + f * (1 - ramp)


def peer_dsa_attention():
    """DeepseekV32Indexer of an installed transformers, in float32; on the GPU where there is one."""
    module = _torch.imported("transformers", "transformers.models.deepseek_v32", "pip install -U transformers")
    torch = _torch.importlib.import_module("torch")
    modeling = _torch.importlib.import_module("transformers.models.deepseek_v32.modeling_deepseek_v32")
    Indexer = _torch.member(modeling, "transformers", "DeepseekV32Indexer")
    Config = _torch.member(module, "transformers", "DeepseekV32Config")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def call(config, state, hidden_states, q_resid, position_embeddings, attention_mask):
        indexer = Indexer(Config(**config), layer_idx=0).float().to(device)
        indexer.load_state_dict(state)
        return indexer(hidden_states, q_resid, position_embeddings, attention_mask, position_ids=None)

    return _torch.on_cuda(call, device=device)


plugin_dsa_attention = over_peer(dsa_attention, peer_dsa_attention, conventions["dsa_attention"])
