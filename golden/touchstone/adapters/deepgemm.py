"""How does DeepGEMM score tokens for the indexer? The adapter of its MQA logits, contiguous and paged.

Sources: deepseek-ai/DeepGEMM, csrc/apis/attention.hpp (argument names, shapes, dtypes, where keys and scales of a
fused page lie, sizes accepted), tests/test_attention.py (what ks, ke and context_lens mean, -inf outside, what
compressed logits are), deep_gemm/__init__.py of the package sgl-deep-gemm 0.2.5 (the later names and arguments).

| | indexer_logits = fp8_mqa_logits | indexer_logits_paged = fp8_paged_mqa_logits, later fp8_fp4_... |
|---|---|---|
| q | e4m3 [T, H_I, D_I] | e4m3 [B, next_n, H_I, D_I] |
| keys | (e4m3 [S, D_I], float32 scales [S]) | uint8 [pages, 64, 1, D_I + 4]: 64 keys, then 64 float32 scales |
| weights | float32 [T, H_I], all factors in | float32 [B * next_n, H_I] |
| range | cu_seq_len_k_start, _end: int32 [T] | context_lens int32 [B, next_n]: each token's own [0, length) |
| gives | float32 [T, S] | float32 [B * next_n, max_context_len] |
| outside | -inf (clean_logits) | anything |

indexer_logits_compressed = fp8_fp4_mqa_logits takes the same as the first, q as (q, None), and gives float32
[T, max_seqlen_k] with position s in column s - start and anything behind the row's end.

Versions up to early 2026 have the first, later ones (sgl-deep-gemm 0.2.5 among them) the second only. The shape
[pages, 64, 1, 132] of a fused page is a name for its 8448 bytes, not for 64 rows of key and scale. Compressed and paged
logits come uncleaned: this adapter puts them in their columns and writes the -inf.

Padded here: heads to 32 or 64, with queries and weights of 0, which add exactly 0. More than two query tokens a
request are asked as so many requests of one token each: the sm_90 kernel of the public version has next_n 1 and 2.
"""

from __future__ import annotations

import numpy as np

from . import _torch, follows, over_peer
from ._arrays import PAGE, padded

HEADS = (32, 64)
WIDTHS = (32, 64, 128)

# On Hopper its dots are added by the FP8 tensor cores, in fewer bits than float32's.
_FOLLOWED = {"indexer_scores": "float32", "fp8_sums": "hopper"}
conventions = {
    "indexer_logits": _FOLLOWED,
    "indexer_logits_compressed": _FOLLOWED,
    "indexer_logits_paged": _FOLLOWED,
}


def indexer_logits(call):
    """The op indexer_logits over call(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits).

    q: e4m3 [T, H_I, D_I]  k: e4m3 [S, D_I]  k_scale: float32 [S]  weights: float32 [T, H_I]
    start, end: int32 [T] -> logits float32 [T, S], -inf outside [start, end)
    """

    def plugin(q, k, k_scale, weights, start, end):
        heads = _heads(*q.shape[-2:])
        logits = call(
            q=padded(q, -2, heads, 0),
            kv=(k, k_scale),
            weights=padded(weights, -1, heads, 0),
            cu_seq_len_k_start=start,
            cu_seq_len_k_end=end,
            clean_logits=True,
        )
        return {"logits": logits}

    return follows(conventions["indexer_logits"], plugin)


def indexer_logits_compressed(call):
    """The op indexer_logits over call(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, max_seqlen_k)."""

    def plugin(q, k, k_scale, weights, start, end):
        heads = _heads(*q.shape[-2:])
        widest = max(1, int((end - start).max(initial=0)))
        packed = call(
            q=(padded(q, -2, heads, 0), None),
            kv=(k, k_scale),
            weights=padded(weights, -1, heads, 0),
            cu_seq_len_k_start=start,
            cu_seq_len_k_end=end,
            max_seqlen_k=widest,
        )
        logits = np.full((len(q), len(k)), -np.inf, np.float32)
        for t, (first, last) in enumerate(zip(start, end)):
            logits[t, first:last] = packed[t, : last - first]
        return {"logits": logits}

    return follows(conventions["indexer_logits_compressed"], plugin)


def indexer_logits_paged(call):
    """The op indexer_logits_paged over call(q, kv_cache, weights, context_lens, block_table, max_context_len,
    clean_logits): fp8_paged_mqa_logits but for schedule_meta, which peer_indexer_logits_paged makes.

    q: e4m3 [B, s_q, H_I, D_I]  k_pages: uint8 [pages, 64 (D_I + 4)]  block_table: int32 [B, P]
    context_lens: int32 [B]  weights: float32 [B s_q, H_I] -> logits float32 [B s_q, 64 P], -inf where not visible
    """

    def plugin(q, k_pages, block_table, context_lens, weights):
        B, s_q, H_I, D_I = q.shape
        heads = _heads(H_I, D_I)
        S = block_table.shape[1] * PAGE
        # Token i of a request stands at length - s_q + i and sees every position up to its own.
        visible = np.maximum(context_lens[:, None] - s_q + 1 + np.arange(s_q, dtype=np.int32), 0).astype(np.int32)
        q, lengths, table = padded(q, -2, heads, 0), visible, block_table
        if s_q > 2:
            q, lengths = q.reshape(B * s_q, 1, heads, D_I), visible.reshape(B * s_q, 1)
            table = np.repeat(block_table, s_q, axis=0)
        logits = call(
            q=q,
            kv_cache=k_pages.reshape(-1, PAGE, 1, D_I + 4),
            weights=padded(weights, -1, heads, 0),
            context_lens=lengths,
            block_table=table,
            max_context_len=S,
            clean_logits=False,
        )
        return {"logits": np.where(np.arange(S) < visible.reshape(-1, 1), logits, np.float32(-np.inf))}

    return follows(conventions["indexer_logits_paged"], plugin)


def _heads(H_I: int, D_I: int) -> int:
    """The number of heads to pad to."""
    if D_I not in WIDTHS:
        raise NotImplementedError(f"DeepGEMM has indexer heads of 32, 64 or 128 numbers; the case has {D_I}")
    if H_I > max(HEADS):
        raise NotImplementedError(f"DeepGEMM has kernels for at most 64 indexer heads on sm_90; the case has {H_I}")
    return min(h for h in HEADS if h >= H_I)


INSTALL = "pip install sgl-deep-gemm"


def _module():
    return _torch.imported("DeepGEMM", "deep_gemm", INSTALL)


def peer_indexer_logits():
    """deep_gemm.fp8_mqa_logits, of versions that have it; what it calls the ends of a row differs between them."""
    score = _torch.member(_module(), "DeepGEMM", "fp8_mqa_logits")

    def call(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits):
        return score(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits=clean_logits)

    return _torch.on_cuda(call)


def peer_indexer_logits_compressed():
    """deep_gemm.fp8_fp4_mqa_logits, of versions whose logits are always compressed."""
    return _torch.on_cuda(_torch.member(_module(), "DeepGEMM", "fp8_fp4_mqa_logits"))


def peer_indexer_logits_paged():
    """deep_gemm.fp8_paged_mqa_logits or, where a version has that only, fp8_fp4_paged_mqa_logits; with the schedule
    for the lengths of each call."""
    module = _module()
    schedule = _torch.member(module, "DeepGEMM", "get_paged_mqa_logits_metadata")
    score = getattr(module, "fp8_paged_mqa_logits", None)
    later = _torch.member(module, "DeepGEMM", "fp8_fp4_paged_mqa_logits") if score is None else None

    def call(q, kv_cache, weights, context_lens, block_table, max_context_len, clean_logits):
        plan = schedule(context_lens, PAGE, module.get_num_sms())
        if later:
            return later((q, None), kv_cache, weights, context_lens, block_table, plan, max_context_len)
        return score(q, kv_cache, weights, context_lens, block_table, plan, max_context_len, clean_logits=clean_logits)

    return _torch.on_cuda(call)


plugin_indexer_logits = over_peer(indexer_logits, peer_indexer_logits, conventions["indexer_logits"])
plugin_indexer_logits_compressed = over_peer(
    indexer_logits_compressed, peer_indexer_logits_compressed, conventions["indexer_logits_compressed"]
)
plugin_indexer_logits_paged = over_peer(
    indexer_logits_paged, peer_indexer_logits_paged, conventions["indexer_logits_paged"]
)
