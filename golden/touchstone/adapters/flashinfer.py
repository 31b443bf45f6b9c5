"""How does FlashInfer select the best positions? The adapters of its three top-k functions.

Sources: flashinfer-ai/flashinfer, flashinfer/topk.py (signatures, shapes, what offsets and page tables do, -1 behind
short rows, tie_break, determinism); flashinfer-python 0.7.2 has these signatures, with more at their end.

| | top_k_ragged_transform | top_k_page_table_transform | top_k |
|---|---|---|---|
| builder | top_k | top_k_page_table | top_k_plain |
| scores, candidates first | float32 [T, S] | float32 [T, S] | float32 [T, S], -inf behind |
| candidates | lengths int32 [T] | lengths int32 [T] | all S columns |
| gives | int32 [T, k]: position + offsets[t] | int32 [T, k]: src_page_table[t, position] | values, int64 indices |
| short rows | -1 behind | -1 behind | columns of -inf, made -1 here |
| order | any | any | any |

tie_break = 1 takes the lower index at the boundary; `tie_break` of each builder chooses another. Whether -0.0 ties
with 0.0, and how a NaN ranks, FlashInfer does not say, and nothing is done to either here. A range [start, end) is moved to the
row's front: not every version of these functions has row starts.

Sparse decode has no adapter: trtllm_batch_decode_with_kv_cache_mla (flashinfer/mla/_core.py of 0.7.2) takes
sparse_mla_top_k on SM100 and SM103, with a cache of 576 numbers and not of 656 bytes, and on SM120; not on sm_90.
"""

from __future__ import annotations

import numpy as np

from . import _torch, follows, over_peer
from ._arrays import candidates_first

TIES_LOW = 1  # flashinfer.TopKTieBreak.SMALL

conventions: dict[str, dict] = {"top_k": {}, "top_k_page_table": {}, "top_k_plain": {}}


def top_k(call, tie_break: int = TIES_LOW):
    """The op top_k over top_k_ragged_transform(input, offsets, lengths, k, deterministic, tie_break).

    logits: float32 [T, S]  start, end: int32 [T] -> indices int32 [T, k], in any order, -1 in the unused slots
    """

    def plugin(logits, start, end, topk):
        return {
            "indices": call(
                input=candidates_first(logits, start, end),
                offsets=start,
                lengths=end - start,
                k=topk,
                deterministic=True,
                tie_break=tie_break,
            )
        }

    return follows(conventions["top_k"], plugin)


def top_k_page_table(call, tie_break: int = TIES_LOW):
    """The op top_k over top_k_page_table_transform(input, src_page_table, lengths, k, deterministic, tie_break).

    The page table of row t names position start[t] + j in column j: what it is looked up for is what we want to know.
    """

    def plugin(logits, start, end, topk):
        columns = np.arange(logits.shape[1], dtype=np.int32)
        return {
            "indices": call(
                input=candidates_first(logits, start, end),
                src_page_table=start[:, None] + columns,
                lengths=end - start,
                k=topk,
                deterministic=True,
                tie_break=tie_break,
            )
        }

    return follows(conventions["top_k_page_table"], plugin)


def top_k_plain(call, tie_break: int = TIES_LOW):
    """The op top_k over top_k(input, k, sorted, deterministic, tie_break) -> (values, indices).

    It knows no lengths. Candidates come first and ties go low, so a candidate of -inf precedes the padding.
    """

    def plugin(logits, start, end, topk):
        if topk > logits.shape[1]:
            raise NotImplementedError(f"FlashInfer's top_k cannot take {topk} of {logits.shape[1]} columns")
        _, columns = call(
            input=candidates_first(logits, start, end), k=topk, sorted=False, deterministic=True, tie_break=tie_break
        )
        inside = columns < (end - start)[:, None]
        return {"indices": np.where(inside, columns + start[:, None], -1).astype(np.int32)}

    return follows(conventions["top_k_plain"], plugin)


INSTALL = "pip install flashinfer-python"


def _peer(name: str):
    module = _torch.imported("FlashInfer", "flashinfer", INSTALL)
    return _torch.on_cuda(_torch.member(module, "FlashInfer", name))


def peer_top_k():
    """flashinfer.top_k_ragged_transform."""
    return _peer("top_k_ragged_transform")


def peer_top_k_page_table():
    """flashinfer.top_k_page_table_transform."""
    return _peer("top_k_page_table_transform")


def peer_top_k_plain():
    """flashinfer.top_k."""
    return _peer("top_k")


plugin_top_k = over_peer(top_k, peer_top_k, conventions["top_k"])
plugin_top_k_page_table = over_peer(top_k_page_table, peer_top_k_page_table, conventions["top_k_page_table"])
plugin_top_k_plain = over_peer(top_k_plain, peer_top_k_plain, conventions["top_k_plain"])
