"""Other people's kernels beside ours, in the same process and with the same clock, where they are installed.

Each takes the tensors of a question and gives a call, or None where it does not apply. PyTorch is always there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

from .questions import D_I, H_I, K, R_KV, Question


def _torch_top_k(question: Question, x: dict):
    if question.op == "top_k":
        return lambda: torch.topk(x["logits"], K, dim=1)
    return None


def _torch_rms_norm(question: Question, x: dict):
    if question.op == "rms_norm":
        weight = x["weight"].to(torch.bfloat16)
        return lambda: torch.nn.functional.rms_norm(x["x"], (x["x"].shape[1],), weight, 1e-6)
    return None


def _torch_layer_norm(question: Question, x: dict):
    if question.op == "layer_norm":
        weight, bias = x["weight"].to(torch.bfloat16), x["bias"].to(torch.bfloat16)
        return lambda: torch.nn.functional.layer_norm(x["x"], (x["x"].shape[1],), weight, bias, 1e-6)
    return None


def _flashinfer_top_k(question: Question, x: dict):
    if question.op != "top_k":
        return None
    import flashinfer

    return lambda: flashinfer.top_k(x["logits"], K)


def _deep_gemm(x: dict) -> Callable:
    import deep_gemm

    assert x["q"].shape[1:] == (H_I, D_I)
    return lambda: deep_gemm.fp8_mqa_logits(x["q"], (x["k"], x["k_scale"]), x["weights"], x["start"], x["end"])


def _deep_gemm_logits(question: Question, x: dict):
    return _deep_gemm(x) if question.op == "indexer_logits" else None


def _logits_then(question: Question, x: dict, choose: Callable):
    """Scores and selection by two kernels, for the op that does both in one."""
    if question.op != "indexer_top_k":
        return None
    scores = _deep_gemm(x)
    return lambda: choose(scores())


def _deep_gemm_then_flashinfer(question: Question, x: dict):
    if question.op != "indexer_top_k":
        return None
    import flashinfer

    return _logits_then(question, x, lambda logits: flashinfer.top_k(logits, K))


def _flash_mla(question: Question, x: dict):
    if question.op not in ("sparse_prefill", "sparse_decode"):
        return None
    from flash_mla import flash_mla_interface as mla

    prefill = question.op == "sparse_prefill"
    fewest = 64  # heads that its kernels take; fewer are padded, outside of the timed call
    q = torch.nn.functional.pad(x["q"], (0, 0, 0, max(0, fewest - x["q"].shape[-2])))
    scale = question.parameters["scale"]
    function = mla.flash_mla_sparse_fwd if prefill else mla.flash_mla_with_kvcache
    # sgl-flash-mla keeps the kernels for sm_90 behind this argument.
    legacy = {"use_legacy": True} if "use_legacy" in inspect.signature(function).parameters else {}
    if prefill:
        kv, indices = x["kv"][:, None], x["indices"][:, None]
        return lambda: function(q, kv, indices, scale, **legacy)
    metadata = mla.get_mla_metadata()
    metadata = metadata[0] if isinstance(metadata, tuple) else metadata
    pages = x["kv_pages"].view(-1, 64, 1, 656)
    return lambda: function(q, pages, None, None, R_KV, metadata, softmax_scale=scale, indices=x["indices"], **legacy)


PEERS: dict[str, Callable] = {
    "PyTorch": lambda q, x: _torch_top_k(q, x) or _torch_rms_norm(q, x) or _torch_layer_norm(q, x),
    "FlashInfer": _flashinfer_top_k,
    "DeepGEMM": _deep_gemm_logits,
    "DeepGEMM, then FlashInfer": _deep_gemm_then_flashinfer,
    "DeepGEMM, then PyTorch": lambda q, x: _logits_then(q, x, lambda logits: torch.topk(logits, K, dim=1)),
    "FlashMLA": _flash_mla,
}


def calls(question: Question, sets: list[dict]) -> tuple[dict[str, list], dict[str, str]]:
    """name -> one call a set of inputs, and name -> why there is none."""
    found: dict[str, list] = {}
    absent: dict[str, str] = {}
    for name, peer in PEERS.items():
        try:
            made = [peer(question, x) for x in sets]
            if all(made):
                made[0]()  # does it run here?
                torch.cuda.synchronize()
                found[name] = made
        except Exception as error:  # noqa: BLE001 - a peer that is missing or refuses is no error of ours
            absent[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return found, absent
