"""What does an attention block cost over a context of S tokens, sparse and dense? Measures it, part by part, in one run.

    python -m optimized.bench.cost_curve --build build [--seconds 0.1] [--phases prefill decode batch whole] [--longest 131072]

V3.2's sizes. Each part is the op of that name, at the level that it chooses, timed by timing.py; where two ways
lead to the same (`indexer_top_k`, or `indexer_logits` and `top_k`; dense attention on the latent, or on each head's own keys)
both are timed. What the ops of the contract do not name (absorbing W_uk, W_uv, W_o) is what is left of the whole block,
`dsa_attention` as one CUDA graph, without its other parts. Writes optimized/bench/curves/<gpu>.json; `python -m optimized.bench.cost_page` makes the
table and the figure of it. Needs a GPU. With --phases the other phases of an earlier run of the same day and card stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from . import cost_page, questions, receipts, timing
from .cost_page import BATCH
from .device import OPS_WITH_FP8_SUMS, called, machine, say, takes
from .library import Library
from .questions import D, D_I, D_ROPE, H, H_I, K, R_KV, bf16, e4m3, f32, i32

CHUNK = 4096  # tokens of a prompt that are read at once
MOST_SELECTED = 16384  # beyond, sparse_decode falls to its level 1
COMPOSED = "dsa_attention"
PHASES = (*cost_page.PHASES, "whole")


def points(phase: str, longest: int) -> list[tuple[int, int, int]]:
    """T, B, S. whole: the block as one op, one token at a time, and once for as many tokens as the batch has."""
    lengths = [S for S in cost_page.LENGTHS if longest >= S]
    if phase == "prefill":
        return [(min(S, CHUNK), 1, S) for S in lengths]
    if phase == "whole":
        return [(BATCH, 1, CHUNK)] + [(1, 1, S) for S in lengths]
    return [(1, BATCH if phase == "batch" else 1, S) for S in lengths]


class Parts:
    """Times ops, and keeps which levels ran."""

    def __init__(self, build: Path):
        self.library = Library(build / "libdsa_optimized.so")
        self.ladders = receipts.ladders(build / "dsa-optimized")
        self.clock = timing.Clock()
        self.levels: dict[str, set[int]] = {}

    def prepared(self, op: str, tensors: dict, parameters: dict | None = None):
        """A call as the op chooses its level; keeps the highest that takes it."""
        how = (tensors, parameters, (*OPS_WITH_FP8_SUMS, COMPOSED))
        level = next((n for n in reversed(self.ladders[op]) if takes(self.library, op, n, *how)), None)
        if level is not None:
            self.levels.setdefault(op, set()).add(level)
        return called(self.library, op, 0, *how)

    def timed(self, op: str, run: Callable[[], None]) -> dict:
        """One part of a point."""

        def measure() -> dict:
            took = self.clock.time([run])
            return {"op": op, "median_us": took.median, "spread_us": took.spread}

        return cost_page.calmest(measure)

    def part(self, op: str, tensors: dict, parameters: dict | None = None) -> dict:
        """The same of one call."""
        return self.timed(op, self.prepared(op, tensors, parameters).run)


def block_inputs(T: int, C: int) -> dict:
    """dsa_attention: T tokens behind a cache of C"""
    found = questions.mla_inputs(T) | {n: t for n, t in questions.indexer_weights(T).items() if n not in ("x", "c_q", "positions")}
    found |= {"W_uk": bf16(R_KV, H, 128, std=R_KV**-0.5), "W_uv": bf16(R_KV, H, 128, std=R_KV**-0.5), "W_o": bf16(H, 128, D, std=(H * 128) ** -0.5),
              "positions": i32(range(C, C + T))}  # fmt: skip
    if C:
        found |= {"cache_kv": bf16(C, R_KV + D_ROPE), "cache_k": e4m3(C, D_I), "cache_k_scale": f32(C).abs() * 1e-2}
    return found


def copied(parts: Parts, C: int) -> dict:
    """What the block as one op does beside: its context is an input, which it copies before it writes behind it."""
    old = torch.randint(0, 255, (C * (2 * (R_KV + D_ROPE) + D_I + 4),), dtype=torch.uint8, device="cuda")
    new = torch.empty_like(old)
    return parts.timed("copy", lambda: new.copy_(old))


LATENT = {"mode": "mqa", "causal": True, "d_v": R_KV}


def one_after_the_other(*calls) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call.run()

    return run


def selected_in_two(parts: Parts, T: int, S: int) -> dict:
    """The selection by way of all scores in memory"""
    inputs = questions.indexer_inputs(T, S)
    scores = parts.prepared("indexer_logits", inputs)
    choice = parts.prepared("top_k", {"logits": scores.outputs["logits"], "start": inputs["start"], "end": inputs["end"]}, {"topk": K})

    return parts.timed("indexer_logits, top_k", one_after_the_other(scores, choice))


def own_heads(parts: Parts, T: int, S: int) -> dict[str, dict]:
    """Dense attention as MHA, and the keys and values of all S tokens from their latents, by the vendor's product."""
    latents, up = bf16(S, R_KV), bf16(R_KV, H * 256, std=R_KV**-0.5)
    both = torch.empty(S, H * 256, dtype=torch.bfloat16, device="cuda")
    found = {"up_projection": parts.timed("torch.mm", lambda: torch.mm(latents, up, out=both))}
    del latents, up, both
    tensors = {"q": bf16(T, H, 192), "k": torch.empty(S, H, 192, dtype=torch.bfloat16, device="cuda"), "v": torch.empty(S, H, 128, dtype=torch.bfloat16, device="cuda")}
    for first in range(0, S, 8192):  # what is drawn needs twice the memory of what stays
        tensors["k"][first : first + 8192].normal_()
        tensors["v"][first : first + 8192].normal_()
    return found | {"dense_own": parts.part("dense_attention", tensors, {"mode": "mha", "causal": True})}


def of_one_request(parts: Parts, T: int, S: int, dense: bool) -> dict:
    """All parts of T tokens at the end of S, and the block as a whole."""
    found = {
        "projections": parts.part("mla_project", questions.mla_inputs(T)),
        "indexer_project": parts.part("indexer_project", questions.indexer_weights(T)),
        "selection": parts.part("indexer_top_k", questions.indexer_inputs(T, S), {"topk": K}),
        "sparse": parts.part("sparse_prefill", {"q": bf16(T, H, 576), "kv": bf16(S, 576), "indices": questions.selection(T, S)}, {"d_v": R_KV}),
    }
    if S > T:
        found["copy"] = copied(parts, S - T)
    if dense:
        found["selection_in_two"] = selected_in_two(parts, T, S)
        found["dense"] = parts.part("dense_attention", {"q": bf16(T, H, 576), "kv": bf16(S, 576)}, LATENT)
        found |= own_heads(parts, T, S)
    return {"parts": found, "whole": parts.part(COMPOSED, block_inputs(T, S - T), {"topk": K})}


def codes(*shape: int) -> torch.Tensor:
    """Finite e4m3 codes of either sign, as bytes"""
    return torch.randint(0, 120, shape, dtype=torch.uint8, device="cuda") | torch.randint(0, 2, shape, dtype=torch.uint8, device="cuda") << 7


def key_pages(count: int) -> torch.Tensor:
    """Pages as pack_key_pages writes them, with random keys [count, 64 (D_I + 4)]"""
    pages = torch.empty(count, 64 * (D_I + 4), dtype=torch.uint8, device="cuda")
    pages[:, : 64 * D_I] = codes(count, 64 * D_I)
    pages[:, 64 * D_I :] = (f32(count * 64).abs() * 1e-2).view(torch.uint8).view(-1, 256)
    return pages


def kv_pages(count: int) -> torch.Tensor:
    """Pages as pack_kv_pages writes them, with random latents [count, 64, 656]"""
    pages = torch.empty(count, 64, 656, dtype=torch.uint8, device="cuda")
    for first in range(0, count, 16384):  # pieces: what is drawn needs more memory than what stays
        some = pages[first : first + 16384]
        tokens = some.shape[0] * 64
        some[..., :512] = codes(*some.shape[:2], 512)
        some[..., 512:528] = torch.full((tokens, 4), 2.0**-7, device="cuda").view(torch.uint8).view(-1, 64, 16)
        some[..., 528:] = bf16(tokens, 64).view(torch.uint8).view(-1, 64, 128)
    return pages


def of_a_batch(parts: Parts, B: int, S: int) -> dict:
    """B requests of S tokens decode a token each: pages of FP8 where attention is sparse, bf16 latents where it is dense."""
    found = {
        "projections": parts.part("mla_project", questions.mla_inputs(B)),
        "indexer_project": parts.part("indexer_project", questions.indexer_weights(B)),
    }
    pages = key_pages(B * S // 64)
    order = torch.randperm(B * S // 64, device="cuda").to(torch.int32).view(B, S // 64)
    scores = parts.prepared("indexer_logits_paged", {"q": e4m3(B, 1, H_I, D_I), "k_pages": pages, "block_table": order, "context_lens": i32([S] * B),
                                                     "weights": f32(B, H_I, std=1e-2)})  # fmt: skip
    rows = scores.outputs["logits"].view(B, -1)
    choice = parts.prepared("top_k", {"logits": rows, "start": torch.zeros(B, dtype=torch.int32, device="cuda"), "end": i32([S] * B)}, {"topk": K})

    found["selection"] = parts.timed("indexer_logits_paged, top_k", one_after_the_other(scores, choice))
    del pages, order, scores, choice, rows
    cache = kv_pages(B * S // 64)
    slots = torch.full((B, 1, K), -1, dtype=torch.int32, device="cuda")
    for b in range(B):
        drawn = torch.randperm(S, device="cuda")[:K].sort().values
        slots[b, 0, : drawn.numel()] = drawn + b * S
    found["sparse"] = parts.part("sparse_decode", {"q": bf16(B, 1, H, 576), "kv_pages": cache, "indices": slots}, {"R_kv": R_KV})
    if S <= MOST_SELECTED:  # of a batch dense_attention knows nothing: sparse_decode, to which every position is selected, does
        everything = torch.arange(S, device="cuda", dtype=torch.int32)[None, None] + i32(range(0, B * S, S))[:, None, None]
        found["dense_as_selection"] = parts.part("sparse_decode", {"q": bf16(B, 1, H, 576), "kv_pages": cache, "indices": everything}, {"R_kv": R_KV})
    del cache
    calls = [parts.prepared("dense_attention", {"q": bf16(1, H, 576), "kv": bf16(S, 576)}, LATENT) for _ in range(B)]
    found["dense"] = parts.timed("dense_attention", lambda: side_by_side(calls))
    return {"parts": found}


def side_by_side(calls: list) -> None:
    """One request's attention after the other, on some streams that run together: the op takes one request."""
    here = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in range(min(8, len(calls)))]
    for i, stream in enumerate(streams):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            for call in calls[i :: len(streams)]:
                call.run()
        here.wait_stream(stream)


def main() -> int:
    """0: measured and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--seconds", type=float, default=0.1, help="to spend on one figure")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--longest", type=int, default=131072)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        say("the cost curve needs a GPU of compute capability 9.0 that PyTorch sees; there is none")
        return 2
    timing.SECONDS = options.seconds
    parts = Parts(options.build)
    result = {n: v for n, v in machine().items() if n != "ops"}
    old = next((c for c in cost_page.load() if c["gpu"] == result["gpu"] and c["made"] == result["made"]), {"points": [], "levels": {}})
    result |= {"ceilings": timing.ceilings(parts.clock), "overhead_us": parts.clock.overhead, "levels": old["levels"],
               "points": [p for p in old["points"] if p["phase"] not in options.phases]}  # fmt: skip
    for phase in options.phases:
        for T, B, S in points(phase, options.longest):
            point = of_a_batch(parts, B, S) if phase in ("decode", "batch") else of_one_request(parts, T, S, phase == "prefill")
            result["points"].append({"phase": phase, "T": T, "B": B, "S": S, **point})
            told = ", ".join(f"{n} {p['median_us']:.1f}" for n, p in point["parts"].items())
            say(f"{phase}, S {S}: {told}" + (f"; as a whole {point['whole']['median_us']:.1f}" if "whole" in point else ""))
            torch.cuda.empty_cache()
        result["levels"] |= {op: {"ran": sorted(ran), "sources": receipts.sources_hash(op, max(ran))} for op, ran in parts.levels.items()}
        cost_page.write(result)  # what is known so far stays
    return 0


if __name__ == "__main__":
    sys.exit(main())
