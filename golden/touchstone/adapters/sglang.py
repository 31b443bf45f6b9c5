"""How does SGLang keep indexer keys, and how does it select? The adapters of its index buffer and its top-k.

Sources: sgl-project/sglang, python/sglang/srt/layers/attention/nsa/index_buf_accessor.py (SetKAndS: buffer, locations,
sizes), sgl-kernel/python/sgl_kernel/top_k.py (signatures, k = 2048 only, lengths, row starts) and
sgl-kernel/csrc/elementwise/topk.cu (-1 behind short rows, indices relative to the row start, any order, any ties).

| | SetKAndS.execute | fast_topk_v2 | fast_topk_transform_fused | fast_topk_transform_ragged_fused |
|---|---|---|---|---|
| builder | pack_key_pages | top_k | top_k_page_table | top_k_ragged |
| takes | index_k e4m3 [n, 128] | score float32 [T, S] | the same | the same |
| | index_k_scale float32 [n, 1] | lengths, row_starts int32 [T] | page_table_size_1 [B, S] | topk_indices_offset [T] |
| | loc int64 [n], page * 64 + offset | | cu_seqlens_q int32 [B + 1] | |
| gives | buf uint8 [pages, 8448], written | int32 [T, 2048] from row_starts | table entries | index + offset |
| layout | 64 keys, then 64 scales | -1 behind short rows | the same | the same |

k must be 2048 and keys 128 wide: anything else is not implemented. Pages come zeroed from here. Scores go in as they
are: a NaN ranks by its bits, among equal scores any may be chosen, and rows whose threshold bin is crowded are what
this kernel is known for (docs/04-selection.md).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from . import _torch, follows, over_peer
from ._arrays import PAGE, pages_for

K = 2048
WIDTH = 128

conventions: dict[str, dict] = {"pack_key_pages": {}, "top_k": {}, "top_k_page_table": {}, "top_k_ragged": {}}


def pack_key_pages(call):
    """The op pack_key_pages over SetKAndS.execute(pool, buf, loc, index_k, index_k_scale), which writes into buf and
    reads pool.page_size.

    k: e4m3 [S, 128]  k_scale: float32 [S] -> k_pages uint8 [ceil(S / 64), 8448]
    """

    def plugin(k, k_scale):
        if k.shape[1] != WIDTH:
            raise NotImplementedError(f"SGLang's index buffer has keys of 128 numbers; the case has {k.shape[1]}")
        buf = np.zeros((pages_for(len(k)), PAGE * (WIDTH + 4)), np.uint8)
        call(
            pool=SimpleNamespace(page_size=PAGE, index_head_dim=WIDTH),
            buf=buf,
            loc=np.arange(len(k), dtype=np.int64),
            index_k=k,
            index_k_scale=k_scale[:, None],
        )
        return {"k_pages": buf}

    return follows(conventions["pack_key_pages"], plugin)


def _require_k(topk: int) -> None:
    if topk != K:
        raise NotImplementedError(f"SGLang's top-k has k = 2048 only; the case has {topk}")


def top_k(call):
    """The op top_k over fast_topk_v2(score, lengths, topk, row_starts).

    logits: float32 [T, S]  start, end: int32 [T] -> indices int32 [T, 2048], in any order, -1 in the unused slots
    """

    def plugin(logits, start, end, topk):
        _require_k(topk)
        indices = call(score=logits, lengths=end - start, topk=topk, row_starts=start)
        return {"indices": np.where(indices < 0, indices, indices + start[:, None])}

    return follows(conventions["top_k"], plugin)


def top_k_page_table(call):
    """The op top_k over fast_topk_transform_fused(score, lengths, page_table_size_1, cu_seqlens_q, topk, row_starts).

    Each row is a request of one token, whose table (pages of one token) names position start + j in column j.
    """

    def plugin(logits, start, end, topk):
        _require_k(topk)
        T, S = logits.shape
        indices = call(
            score=logits,
            lengths=end - start,
            page_table_size_1=start[:, None] + np.arange(S, dtype=np.int32),
            cu_seqlens_q=np.arange(T + 1, dtype=np.int32),
            topk=topk,
            row_starts=start,
        )
        return {"indices": indices}

    return follows(conventions["top_k_page_table"], plugin)


def top_k_ragged(call):
    """The op top_k over fast_topk_transform_ragged_fused(score, lengths, topk_indices_offset, topk, row_starts)."""

    def plugin(logits, start, end, topk):
        _require_k(topk)
        offsets = start
        indices = call(score=logits, lengths=end - start, topk_indices_offset=offsets, topk=topk, row_starts=start)
        return {"indices": indices}

    return follows(conventions["top_k_ragged"], plugin)


def peer_pack_key_pages():
    """SGLang's SetKAndS.execute; its module moved once."""
    try:
        module = _torch.imported("SGLang", "sglang.srt.layers.attention.dsa.index_buf_accessor", "pip install sglang")
    except _torch.Missing:
        module = _torch.imported("SGLang", "sglang.srt.layers.attention.nsa.index_buf_accessor", "pip install sglang")
    return _torch.on_cuda(_torch.member(module, "SGLang", "SetKAndS").execute, writes=("buf",))


def _kernel(name: str):
    module = _torch.imported("SGLang's kernels", "sgl_kernel", "pip install sglang-kernel")
    return _torch.on_cuda(_torch.member(module, "SGLang's kernels", name))


def peer_top_k():
    """sgl_kernel.fast_topk_v2."""
    return _kernel("fast_topk_v2")


def peer_top_k_page_table():
    """sgl_kernel.fast_topk_transform_fused."""
    return _kernel("fast_topk_transform_fused")


def peer_top_k_ragged():
    """sgl_kernel.fast_topk_transform_ragged_fused."""
    return _kernel("fast_topk_transform_ragged_fused")


plugin_pack_key_pages = over_peer(pack_key_pages, peer_pack_key_pages, conventions["pack_key_pages"])
plugin_top_k = over_peer(top_k, peer_top_k, conventions["top_k"])
plugin_top_k_page_table = over_peer(top_k_page_table, peer_top_k_page_table, conventions["top_k_page_table"])
plugin_top_k_ragged = over_peer(top_k_ragged, peer_top_k_ragged, conventions["top_k_ragged"])
