"""What does vLLM write into its caches? The adapters of its two cache writers and of its slot conversion.

Sources: vllm-project/vllm, csrc/cache_kernels.cu (indexer_k_quant_and_cache: where key and scale go, the scale's
floor and format; concat_and_cache_ds_mla: the 656 bytes, its scale) and
vllm/v1/attention/backends/mla/sparse_utils.py (triton_convert_req_index_to_global_index).

| | indexer_k_quant_and_cache | concat_and_cache_mla, "fp8_ds_mla" |
|---|---|---|
| builder | pack_key_pages, act_quant | pack_kv_pages |
| reads | k bf16 [n, 128] | kv_c bf16 [n, 512], k_pe bf16 [n, 64] |
| writes | kv_cache uint8 [pages, 64, 132]: 64 keys, then 64 float32 scales | uint8 [pages, 64, 656] |
| where | slot_mapping int64 [n], page * 64 + offset; -1 skips a token | the same |
| scale of 128 | max(amax, 1e-4) / 448; "ue8m0": rounded up to a power of two | max(amax / 448, 2^-126), linear |

The indexer's writer quantises as DeepSeek does; the latent's has the smallest normal float32 as the floor of the
*scale*. Pages come zeroed from here, so that what a writer leaves alone is 0, as in the contract.

A writer takes bf16 keys, not ours and their scales. pack_key_pages therefore gives it k * k_scale, and only where
that writer itself makes our k and k_scale of it; otherwise it is not implemented. act_quant asks the same writer for
what it makes of any bf16 rows, and reads q and scale back out of the pages.
"""

from __future__ import annotations

import numpy as np

from touchstone.fill import quantize

from . import _torch, follows, over_peer
from ._arrays import BF16, E4M3, PAGE, pages_for

WIDTH = 128  # of an indexer key, and of a block with one scale

conventions = {
    "pack_key_pages": {"quantizer": "deepseek", "scale_format": "ue8m0"},
    "act_quant": {"quantizer": "deepseek", "scale_format": "ue8m0"},
    "pack_kv_pages": {"kv_quantizer": "vllm", "scale_format": "float32"},
}


def _written(call, k: np.ndarray) -> np.ndarray:
    """bf16 [n, 128] -> the pages that hold them, uint8 [ceil(n / 64), 8448]"""
    kv_cache = np.zeros((pages_for(len(k)), PAGE, WIDTH + 4), np.uint8)
    slots = np.arange(len(k), dtype=np.int64)
    call(k=k, kv_cache=kv_cache, slot_mapping=slots, quant_block_size=WIDTH, scale_fmt="ue8m0")
    return kv_cache.reshape(len(kv_cache), -1)


def pack_key_pages(call):
    """The op pack_key_pages over indexer_k_quant_and_cache(k, kv_cache, slot_mapping, quant_block_size, scale_fmt),
    which writes into kv_cache.

    k: e4m3 [S, 128]  k_scale: float32 [S] -> k_pages uint8 [ceil(S / 64), 8448]
    """

    def plugin(k, k_scale):
        if k.shape[1] != WIDTH:
            raise NotImplementedError(f"vLLM's indexer cache has keys of 128 numbers; the case has {k.shape[1]}")
        numbers = k.astype(np.float32) * k_scale[:, None]
        bf16 = numbers.astype(BF16)
        again, scale_again = quantize(bf16.astype(np.float32), "deepseek", "ue8m0")
        same = (bf16.astype(np.float32) == numbers).all() and np.array_equal(scale_again, k_scale)
        if not (same and np.array_equal(again, k.view(np.uint8))):
            raise NotImplementedError("vLLM's writer quantises bf16 keys itself, and would not make these bytes of any")
        return {"k_pages": _written(call, bf16)}

    return follows(conventions["pack_key_pages"], plugin)


def act_quant(call):
    """The op act_quant over the same function: x's blocks of 128 are written as keys and read back from the pages.

    x: bf16 [T, N] -> q e4m3 [T, N], scale float32 [T, N / 128]
    """

    def plugin(x):
        if x.dtype != BF16:
            raise NotImplementedError(f"vLLM's writer reads bf16; the case has {x.dtype}")
        T, N = x.shape
        pages = _written(call, x.reshape(-1, WIDTH))
        keys = pages[:, : PAGE * WIDTH].reshape(-1, WIDTH)[: x.size // WIDTH]
        scales = np.ascontiguousarray(pages[:, PAGE * WIDTH :]).view(np.float32).reshape(-1)[: len(keys)]
        return {"q": keys.reshape(T, N).view(E4M3), "scale": scales.reshape(T, N // WIDTH)}

    return follows(conventions["act_quant"], plugin)


def pack_kv_pages(call):
    """The op pack_kv_pages over concat_and_cache_mla(kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, scale),
    which writes into kv_cache; `scale` is of other cache formats.

    kv: bf16 [S, 512 + 64] -> kv_pages uint8 [ceil(S / 64), 64, 656]
    """

    def plugin(kv, R_kv=512):
        d_rope = kv.shape[1] - R_kv
        if (R_kv, d_rope) != (512, 64):
            raise NotImplementedError(f"vLLM's fp8_ds_mla is of 512 + 64 numbers; the case has {R_kv} + {d_rope}")
        kv_cache = np.zeros((pages_for(len(kv)), PAGE, 656), np.uint8)
        call(
            kv_c=np.ascontiguousarray(kv[:, :R_kv]),
            k_pe=np.ascontiguousarray(kv[:, R_kv:]),
            kv_cache=kv_cache,
            slot_mapping=np.arange(len(kv), dtype=np.int64),
            kv_cache_dtype="fp8_ds_mla",
            scale=np.ones(1, np.float32),
        )
        return {"kv_pages": kv_cache}

    return follows(conventions["pack_kv_pages"], plugin)


def global_slots(call):
    """Positions within requests as global slots, over triton_convert_req_index_to_global_index(req_id, block_table,
    token_indices, BLOCK_SIZE, NUM_TOPK_TOKENS): how vLLM gets from top_k's indices to sparse_decode's. Not an op.

    request: int32 [T]  block_table: int32 [B, P]  indices: int32 [T, k] -> slots int32 [T, k], -1 where none
    k must be a multiple of vLLM's tile, 128.
    """

    def convert(request, block_table, indices):
        k = indices.shape[1]
        if k % 128 != 0:
            raise NotImplementedError(f"vLLM converts multiples of 128 indices a row; there are {k}")
        return call(req_id=request, block_table=block_table, token_indices=indices, BLOCK_SIZE=PAGE, NUM_TOPK_TOKENS=k)

    return convert


INSTALL = "pip install vllm"


def _peer(name: str):
    module = _torch.imported("vLLM", "vllm._custom_ops", INSTALL)
    return _torch.on_cuda(_torch.member(module, "vLLM", name), writes=("kv_cache",))


def peer_pack_key_pages():
    """vllm._custom_ops.indexer_k_quant_and_cache."""
    return _peer("indexer_k_quant_and_cache")


def peer_act_quant():
    """The same."""
    return _peer("indexer_k_quant_and_cache")


def peer_pack_kv_pages():
    """vllm._custom_ops.concat_and_cache_mla."""
    return _peer("concat_and_cache_mla")


def peer_global_slots():
    """vLLM's triton_convert_req_index_to_global_index."""
    module = _torch.imported("vLLM", "vllm.v1.attention.backends.mla.sparse_utils", INSTALL)
    return _torch.on_cuda(_torch.member(module, "vLLM", "triton_convert_req_index_to_global_index"))


plugin_pack_key_pages = over_peer(pack_key_pages, peer_pack_key_pages, conventions["pack_key_pages"])
plugin_act_quant = over_peer(act_quant, peer_act_quant, conventions["act_quant"])
plugin_pack_kv_pages = over_peer(pack_kv_pages, peer_pack_kv_pages, conventions["pack_kv_pages"])
