"""How does FlashMLA attend to selected tokens? The adapter of its sparse prefill and sparse decode kernels.

Sources: deepseek-ai/FlashMLA, flash_mla/flash_mla_interface.py (signatures, shapes, the 656 bytes of a token, the
sink, -1 and out-of-range indices), csrc/api/sparse_fwd.h and csrc/api/sparse_decode.h (sizes accepted: 64 or 128
heads, d_qk 576 or 512, d_v 512), csrc/sm90/prefill/sparse/phase1.cuh (selected indices a multiple of 128; lse and
max_logits written in base e), tests/ref.py (natural logarithm, +inf for a row without tokens), tests/quant.py.

| | sparse_prefill = flash_mla_sparse_fwd | sparse_decode = flash_mla_with_kvcache |
|---|---|---|
| q | bf16 [T, 64 or 128, 576] | bf16 [B, s_q, 64 or 128, 576] |
| keys | bf16 [S, 1, 576] | uint8 [pages, 64, 1, 656]: 512 e4m3, 4 float32 scales, 64 bf16 |
| indices | int32 [T, 1, k], positions | int32 [B, s_q, k], global slots page * 64 + offset |
| nothing there | -1, or >= S | -1 only |
| gives | out [T, H, 512], max_logits [T, H], lse [T, H] | out [B, s_q, H, 512], lse [B, H, s_q] |
| lse | base e, +inf for an empty row; without the sink | the same |
| max_logits | base e, scaled, -inf for an empty row | - |

The README writes the prefill's lse and max_logits in base 2, and so does sgl_kernel's wrapper of an earlier version
(sgl-project/sglang, sgl-kernel/python/sgl_kernel/flash_mla.py); the present sm_90 kernel and the repository's own
reference have base e. plugin_sparse_prefill_sgl and plugin_sparse_decode_sgl are over sgl_kernel. An index that is
given twice counts twice here and once in our contract: such rows are not implemented.

FlashMLA of 2026-09-30 dropped sm_90. The wheel sgl-flash-mla keeps those kernels behind the argument `use_legacy`
(sgl-project/FlashMLA, README and flash_mla/flash_mla_interface.py); it is passed where there is one and the GPU is sm_90.

Padded here, and cut off again: heads to 64 or 128 with zeros; k to a multiple of 128 with -1; a latent of less than
512 numbers, and a rope part of less than 64, with zeros (for pages: zero bytes and scales of 1), which change no dot.
"""

from __future__ import annotations

import functools
import inspect

import numpy as np

from . import _torch, follows, over_peer
from ._arrays import PAGE, SCALE, has_duplicates, padded, raw, split_row, up_to

LATENT, ROPE = 512, 64  # columns of a row as FlashMLA has it
K_MULTIPLE = 128

conventions = {
    "sparse_prefill": {"lse": "natural", "empty_row_lse": "+inf"},
    "sparse_decode": {"lse": "natural", "empty_row_lse": "+inf"},
    "sparse_prefill_sgl": {"lse": "base2", "empty_row_lse": "+inf"},
    "sparse_decode_sgl": {"lse": "natural", "empty_row_lse": "+inf"},
}


def sparse_prefill(call, base2: bool = False):
    """The op sparse_prefill over call(q, kv, indices, sm_scale, d_v, attn_sink) -> (out, max_logits, lse).

    base2: for a version that gives lse and max_logits in base 2. The contract's max_logit has no such switch: it is
    turned into base e here.

    q: bf16 [T, H, d]  kv: bf16 [S, d]  indices: int32 [T, k]  sink: float32 [H], optional
    -> out bf16 [T, H, d_v], lse, max_logit float32 [T, H]
    """

    def plugin(q, kv, indices, scale=SCALE, d_v=None, sink=None):
        T, H, d = q.shape
        d_v = min(LATENT, d) if d_v is None else d_v
        heads = _heads(H, d_v, d - d_v, indices)
        out, max_logits, lse = call(
            q=padded(split_row(q, d_v, (LATENT, ROPE)), 1, heads, 0),
            kv=split_row(kv, d_v, (LATENT, ROPE))[:, None, :],
            indices=padded(indices, -1, up_to(indices.shape[-1], K_MULTIPLE), -1)[:, None, :],
            sm_scale=scale,
            d_v=LATENT,
            **_sink(sink, heads),
        )
        if base2:
            max_logits = max_logits * np.float32(np.log(2))
        return {"out": out[:, :H, :d_v], "lse": lse[:, :H], "max_logit": max_logits[:, :H]}

    return follows(conventions["sparse_prefill_sgl" if base2 else "sparse_prefill"], plugin)


def sparse_prefill_sgl(call):
    """The same over sgl_kernel.flash_mla.flash_mla_sparse_fwd, whose documentation says base 2; it has no sink."""
    return sparse_prefill(call, base2=True)


def sparse_decode(call):
    """The op sparse_decode over call(q, k_cache, block_table, cache_seqlens, head_dim_v, softmax_scale, causal,
    is_fp8_kvcache, indices, attn_sink) -> (out, lse): flash_mla_with_kvcache but for its scheduler's two arguments,
    which are the peer's own business (see peer_sparse_decode).

    q: bf16 [B, s_q, H, R_kv + d_rope]  kv_pages: uint8 [pages, 64, bytes]  indices: int32 [B, s_q, k]
    -> out bf16 [B, s_q, H, R_kv], lse float32 [B, s_q, H]

    Slots beyond the last page are handed over as -1: FlashMLA promises to skip that only.
    """

    def plugin(q, kv_pages, indices, scale=SCALE, R_kv=LATENT, sink=None):
        B, s_q, H, d = q.shape
        heads = _heads(H, R_kv, d - R_kv, indices)
        existing = np.where(indices < len(kv_pages) * PAGE, indices, np.int32(-1))
        out, lse = call(
            q=padded(split_row(q, R_kv, (LATENT, ROPE)), 2, heads, 0),
            k_cache=_tokens_of_656_bytes(kv_pages, R_kv)[:, :, None, :],
            block_table=None,
            cache_seqlens=None,
            head_dim_v=LATENT,
            softmax_scale=scale,
            causal=False,
            is_fp8_kvcache=True,
            indices=padded(existing, -1, up_to(indices.shape[-1], K_MULTIPLE), -1),
            **_sink(sink, heads),
        )
        return {"out": out[:, :, :H, :R_kv], "lse": lse.transpose(0, 2, 1)[:, :, :H]}

    return follows(conventions["sparse_decode"], plugin)


def sparse_decode_sgl(call):
    """The same over sgl_kernel.flash_mla.flash_mla_with_kvcache, which has no sink."""
    return sparse_decode(call)


def _heads(H: int, latent: int, rope: int, indices: np.ndarray) -> int:
    """The number of heads to pad to; what FlashMLA cannot take is not implemented."""
    if H > 128:
        raise NotImplementedError(f"FlashMLA has kernels for at most 128 heads; the case has {H}")
    if latent > LATENT or rope > ROPE:
        raise NotImplementedError(f"FlashMLA has rows of 512 + 64 numbers; the case has {latent} + {rope}")
    if has_duplicates(indices):
        raise NotImplementedError("FlashMLA counts an index that is given twice twice; the contract has sets")
    return 64 if H <= 64 else 128


def _sink(sink, heads: int) -> dict:
    """The argument attn_sink, where there is a sink: FlashMLA's first sparse kernels do not know it."""
    return {} if sink is None else {"attn_sink": padded(sink, 0, heads, 0)}


def _tokens_of_656_bytes(kv_pages: np.ndarray, R_kv: int) -> np.ndarray:
    """Pages of smaller latents as V3.2's: zero bytes, scales of 1 and zero rope behind what is there.

    uint8 [pages, 64, R_kv + 4 blocks + 2 d_rope] -> uint8 [pages, 64, 656]
    """
    blocks = max(1, R_kv // 128)
    latent, rest = kv_pages[..., :R_kv], kv_pages[..., R_kv:]
    scales = np.ascontiguousarray(rest[..., : 4 * blocks]).view(np.float32)
    rope = padded(rest[..., 4 * blocks :], -1, 2 * ROPE, 0)
    return np.concatenate([padded(latent, -1, LATENT, 0), raw(padded(scales, -1, 4, 1)), rope], axis=-1)


def _without_sink(function):
    def call(attn_sink=None, **inputs):
        if attn_sink is not None:
            raise NotImplementedError("sgl_kernel's FlashMLA has no attention sink")
        return function(**inputs)

    return call


INSTALL = "pip install sgl-flash-mla"


def _for_this_gpu(function):
    """`function` with use_legacy=True, where it has that argument and the GPU is of its legacy."""
    if "use_legacy" not in inspect.signature(function).parameters or _torch.compute_capability() >= (10, 0):
        return function
    return functools.partial(function, use_legacy=True)


def peer_sparse_prefill():
    """flash_mla.flash_mla_sparse_fwd."""
    module = _torch.imported("FlashMLA", "flash_mla", INSTALL)
    return _torch.on_cuda(_for_this_gpu(_torch.member(module, "FlashMLA", "flash_mla_sparse_fwd")))


def peer_sparse_decode():
    """flash_mla.flash_mla_with_kvcache, with fresh scheduler metadata for each call (its interface since 2026, in
    which get_mla_metadata needs no arguments)."""
    module = _torch.imported("FlashMLA", "flash_mla", INSTALL)
    get_metadata = _torch.member(module, "FlashMLA", "get_mla_metadata")
    attend = _for_this_gpu(_torch.member(module, "FlashMLA", "flash_mla_with_kvcache"))

    def call(**inputs):
        metadata, splits = get_metadata()
        return attend(tile_scheduler_metadata=metadata, num_splits=splits, **inputs)

    return _torch.on_cuda(call)


def _sgl():
    return _torch.imported("sgl_kernel's FlashMLA", "sgl_kernel.flash_mla", "pip install sglang-kernel")


def peer_sparse_prefill_sgl():
    """sgl_kernel.flash_mla.flash_mla_sparse_fwd."""
    return _torch.on_cuda(_without_sink(_torch.member(_sgl(), "sgl_kernel", "flash_mla_sparse_fwd")))


def peer_sparse_decode_sgl():
    """sgl_kernel.flash_mla.flash_mla_with_kvcache: the first sparse interface, which wants a table and lengths (they
    have no meaning where indices are given) and metadata made for the sizes."""
    module = _sgl()
    get_metadata = _torch.member(module, "sgl_kernel", "get_mla_metadata")
    attend = _torch.member(module, "sgl_kernel", "flash_mla_with_kvcache")

    def call(block_table, cache_seqlens, **inputs):
        q, indices, pages = inputs["q"], inputs["indices"], len(inputs["k_cache"])
        B, s_q, H, _ = q.shape
        lengths = indices.new_full((B,), pages * PAGE)
        metadata, splits = get_metadata(lengths, s_q * H, 1, H, True, indices.shape[-1])
        return attend(block_table=indices.new_zeros((B, 1)), cache_seqlens=lengths, tile_scheduler_metadata=metadata,
                      num_splits=splits, **inputs)  # fmt: skip

    return _torch.on_cuda(_without_sink(call))


plugin_sparse_prefill = over_peer(sparse_prefill, peer_sparse_prefill, conventions["sparse_prefill"])
plugin_sparse_decode = over_peer(sparse_decode, peer_sparse_decode, conventions["sparse_decode"])

plugin_sparse_prefill_sgl = over_peer(sparse_prefill_sgl, peer_sparse_prefill_sgl, conventions["sparse_prefill_sgl"])
plugin_sparse_decode_sgl = over_peer(sparse_decode_sgl, peer_sparse_decode_sgl, conventions["sparse_decode_sgl"])
