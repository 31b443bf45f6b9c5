"""What does a step of decoding over paged caches cost, and is it right on a GPU? optimized/serving, V3.2's sizes.

    python -m optimized.bench.serving --build build [--blocks-only]

For B requests of S tokens with s_q new ones each: the step as one CUDA graph, timed by timing.py; then checked: no byte of
the pages but the new tokens' has changed, 20 runs give the same bits, and the first request's y is dsa_attention's, which
has the same context as flat tensors. A step of a whole transformer block (256 experts in FP8, 8 a token and one shared) must
give the bits of its parts called by themselves. Prints two tables. Needs a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from pathlib import Path

import torch
from touchstone import clib

from .cost_curve import block_inputs, key_pages, kv_pages
from .device import HOPPER_SUMS, PRESET, RERUNS, say
from .library import Call, Library, described
from .questions import D, D_I, D_ROPE, R_KV, K, bf16, e4m3, f32
from .timing import Clock, ceilings

PAGE = 64
SIZES = [(1, 1, 8192), (1, 1, 32768), (1, 1, 131072), (1, 2, 131072), (8, 1, 32768), (64, 1, 8192), (64, 1, 32768), (64, 1, 131072)]  # B, s_q, S
ABOUT = {"parameters": {"topk": K}, "conventions": PRESET | HOPPER_SUMS | {"kv_latent_fp8": True}}
BLOCK_SIZES = [(B, S) for B in (1, 64) for S in (8192, 32768, 131072)]  # with one new token a request
E, F = 256, 2048
GATE = {"groups": 8, "kept_groups": 4, "active": 8, "route_scale": 2.5, "normalise": True}
WEIGHTS = ("W_dq", "q_norm", "W_uq", "W_dkv", "kv_norm", "W_uk", "W_uv", "W_o", "W_qI", "W_kI", "k_norm", "k_bias", "W_w")
PAGES = ("kv_pages", "k_pages", "block_table", "context_lens")
TENSORS = ("x", "positions", *WEIGHTS, *PAGES, "y")
MATRICES = ("W_gate", "W_up", "W_down")
NET = ("W_g", "bias", *MATRICES, *(f"{n}_scale" for n in MATRICES), *(f"shared_{n}" for n in MATRICES), *(f"shared_{n}_scale" for n in MATRICES))
BLOCK_TENSORS = ("hidden", "positions", "attention_norm", "ffn_norm", *WEIGHTS, *NET, *PAGES, "y")
# Two answers of bf16 kernels, each some 2.5e-3 from float64 (optimized/sparse_decode/notes.md), and both rounded to bf16.
MOST_APART = 2 * (2.5e-3 + 2**-9)


CALL = [("case_json", ctypes.c_char_p), ("workspace", ctypes.c_void_p), ("workspace_bytes", ctypes.c_int64), ("stream", ctypes.c_void_p)]


class Args(ctypes.Structure):
    """dsa_serving.h's dsa_serving_step_args"""

    _fields_ = [*((name, clib.Tensor) for name in TENSORS), ("topk", ctypes.c_int64), ("scale", ctypes.c_double), ("eps", ctypes.c_double), *CALL]


class BlockArgs(ctypes.Structure):
    """dsa_serving.h's dsa_serving_block_step_args"""

    _fields_ = [*((name, clib.Tensor) for name in BLOCK_TENSORS), *((n, ctypes.c_int64) for n in ("topk", "groups", "kept_groups", "active", "normalise")),
                *((n, ctypes.c_double) for n in ("scale", "eps", "route_scale")), *CALL]  # fmt: skip


class Step:
    """A step prepared: its tensors, its workspace; run() starts it on torch's current stream."""

    function, struct, tensors, parameters = "dsa_serving_step", Args, TENSORS, {"topk": K}

    def __init__(self, library: Library, B: int, s_q: int, S: int, given: dict | None = None):
        """S: tokens of each request before the new ones. given: tensors by name, instead of new ones"""
        self.library, self.s_q, self.S = library, s_q, S
        per = -(-(S + s_q) // PAGE)  # pages of a request
        self.t = block_inputs(B * s_q, 0) | (given or {})
        self.t["positions"] = torch.arange(S, S + s_q, dtype=torch.int32, device="cuda").repeat(B)
        table = torch.randperm(B * per, device="cuda").to(torch.int32).view(B, per)
        self.t |= {"kv_pages": kv_pages(B * per), "k_pages": key_pages(B * per), "block_table": table, "y": torch.empty(B * s_q, D, dtype=torch.bfloat16, device="cuda"),
                   "context_lens": torch.full((B,), S + s_q, dtype=torch.int32, device="cuda")}  # fmt: skip
        self.about = json.dumps(ABOUT).encode()
        self.prepare(y=self.t["y"])

    def prepare(self, **given: torch.Tensor) -> None:
        """The call's struct and its workspace, some tensors exchanged."""
        self.t |= given
        self.args = self.struct(**{n: described(self.t[n]) for n in self.tensors}, **self.parameters, case_json=self.about)
        self.start, measure = (getattr(self.library.library, self.function + suffix) for suffix in ("", "_workspace"))
        measure.restype = ctypes.c_int64
        size = measure(ctypes.byref(self.args))
        self.told(size < 0)
        self.workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        self.args.workspace, self.args.workspace_bytes = self.workspace.data_ptr(), size

    def told(self, failed: bool) -> None:
        if failed:
            raise RuntimeError(self.library.error_text())

    def run(self) -> None:
        self.args.stream = torch.cuda.current_stream().cuda_stream
        self.told(self.start(ctypes.byref(self.args)) != 0)

    def new_slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """page and place of each request's new tokens, both [B, s_q]"""
        at = torch.arange(self.S, self.S + self.s_q, device="cuda")
        return self.t["block_table"][:, at // PAGE].long(), at.expand(self.t["block_table"].shape[0], -1) % PAGE

    def wrong(self, before: dict[str, torch.Tensor]) -> str:
        """What is wrong with the pages, against copies of them from before; empty if nothing is."""
        page, place = self.new_slots()
        for name in ("kv_pages", "k_pages"):
            changed = self.t[name] != before[name]
            if name == "kv_pages":
                written = changed[page, place].any(-1)
                changed[page, place] = False
            else:
                byte = place[..., None] * D_I + torch.arange(D_I, device="cuda")
                scale = PAGE * D_I + 4 * place[..., None] + torch.arange(4, device="cuda")
                mine = torch.cat([byte, scale], -1)
                written = changed[page[..., None], mine].any(-1)
                changed[page[..., None], mine] = False
            if changed.any() or not written.all():
                return f"{name}: {int(changed.sum())} bytes of other tokens have changed, {int((~written).sum())} new tokens were not written"
        return ""

    def flat(self) -> dict:
        """The first request as dsa_attention is asked it."""
        table = self.t["block_table"][0].long()
        kv, k = self.t["kv_pages"][table].view(-1, R_KV + 16 + 2 * D_ROPE)[: self.S], self.t["k_pages"][table]
        latent = kv[:, :R_KV].view(torch.float8_e4m3fn).float() * kv[:, R_KV : R_KV + 16].contiguous().view(torch.float32).repeat_interleave(128, 1)
        keys = k[:, : PAGE * D_I].contiguous().view(-1, D_I)[: self.S]
        return {n: self.t[n] for n in WEIGHTS} | {
            "x": self.t["x"][: self.s_q], "positions": self.t["positions"][: self.s_q],
            "cache_kv": torch.cat([latent.to(torch.bfloat16), kv[:, R_KV + 16 :].contiguous().view(torch.bfloat16)], 1),
            "cache_k": keys.view(torch.float8_e4m3fn), "cache_k_scale": k[:, PAGE * D_I :].contiguous().view(torch.float32).view(-1)[: self.S].contiguous(),
        }  # fmt: skip


class BlockStep(Step):
    """A step of a whole transformer block."""

    function, struct, tensors, parameters = "dsa_serving_block_step", BlockArgs, BLOCK_TENSORS, {"topk": K} | GATE

    def parts(self) -> tuple[torch.Tensor, Call]:
        """y by way of rms_norm, the attention block's step, moe, and additions; and the call of moe. The same tokens are written again."""
        t, T = self.t, self.t["hidden"].shape[0]

        def op(name: str, tensors: dict, parameters: dict) -> Call:
            call = self.library.call(name, tensors, parameters, ABOUT["conventions"])
            call.run()
            return call

        attention = Step.__new__(Step)
        attention.library, attention.about, attention.t = self.library, self.about, {n: t[n] for n in (*WEIGHTS, *PAGES, "positions")}
        x = op("rms_norm", {"x": t["hidden"], "weight": t["attention_norm"]}, {}).outputs["y"]
        attention.prepare(x=x, y=torch.empty(T, D, dtype=torch.bfloat16, device="cuda"))
        attention.run()
        middle = t["hidden"] + attention.t["y"]
        x = op("rms_norm", {"x": middle, "weight": t["ffn_norm"]}, {}).outputs["y"]
        net = op("moe", {"x": x} | {n: t[n] for n in NET}, GATE)
        return middle + net.outputs["y"], net

    def flat_block(self) -> dict:
        """The first request as transformer_block is asked it."""
        return {n: t for n, t in self.flat().items() if n != "x"} | {"hidden": self.t["hidden"][: self.s_q]} | {
            n: self.t[n] for n in ("attention_norm", "ffn_norm", *NET)}  # fmt: skip


def net_weights() -> dict[str, torch.Tensor]:
    """A gate, E experts and one that all tokens share, in FP8 with a scale for 128 x 128. Drawn expert by expert: float32 numbers of all would not fit."""
    found = {"W_g": f32(D, E, std=D**-0.5), "bias": f32(E, std=1e-2), "attention_norm": f32(D).abs(), "ffn_norm": f32(D).abs()}
    for name, (rows, columns) in {"W_gate": (D, F), "W_up": (D, F), "W_down": (F, D)}.items():
        found[name] = torch.empty(E, rows, columns, dtype=torch.float8_e4m3fn, device="cuda")
        for one in found[name]:
            one.copy_(e4m3(rows, columns))
        found["shared_" + name] = e4m3(rows, columns)
        for prefix, of in (("", (E,)), ("shared_", ())):
            found[f"{prefix}{name}_scale"] = (f32(*of, rows // 128, columns // 128).abs() + 0.5) * (rows**-0.5 / 64)
    return found


def same_bits(step: Step, y: torch.Tensor) -> bool:
    """Whether RERUNS more runs give y."""
    for _ in range(RERUNS):
        step.t["y"].view(torch.uint8).fill_(0xFF)
        step.run()
        if not torch.equal(step.t["y"].view(torch.int16), y.view(torch.int16)):
            return False
    return True


def blocks(library: Library, clock: Clock) -> bool:
    """The table of whole transformer blocks; whether all were right."""
    good, weights = True, net_weights()
    attention = {n: t for n, t in block_inputs(1, 0).items() if n in WEIGHTS}
    say("| B | S | a step, us | spread | moe alone, us | transformer_block, one request, us | workspace, MB |\n|---|---|---|---|---|---|---|")
    for B, S in BLOCK_SIZES:
        step = BlockStep(library, B, 1, S, weights | attention | {"hidden": bf16(B, D)})
        before = {n: step.t[n].clone() for n in ("kv_pages", "k_pages")}
        step.run()
        torch.cuda.synchronize()
        why, y = step.wrong(before), step.t["y"].clone()
        del before
        if not why and not same_bits(step, y):
            why = f"{RERUNS} runs differ"
        composed, net = step.parts()
        if not why and not torch.equal(composed.view(torch.int16), y.view(torch.int16)):
            why = "y is not what the parts by themselves give"
        took, of_net = clock.time([step.run]), clock.time([net.run]).median
        alone = clock.time([library.call("transformer_block", step.flat_block(), ABOUT["parameters"] | GATE, ABOUT["conventions"]).run]).median
        say(f"| {B} | {S} | {took.median:.1f} | {took.spread:.1f} | {of_net:.1f} | {alone:.1f} | {step.workspace.numel() / 1e6:.0f} |")
        if why:
            good = False
            say(f"WRONG: {why}")
        del step, net
        torch.cuda.empty_cache()
    return good


def main() -> int:
    """0: every step was right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--blocks-only", action="store_true", help="only steps of a whole transformer block")
    options = parser.parse_args()
    library, clock, good = Library(options.build / "libdsa_optimized.so"), Clock(), True
    say(f"{torch.cuda.get_device_name()}: " + ", ".join(f"{n} {v:.3g}" for n, v in ceilings(clock).items()) + f", an empty graph {clock.overhead:.1f} us")
    if options.blocks_only:
        return 0 if blocks(library, clock) else 1
    say("| B | s_q | S | a step, us | spread | dsa_attention, one request, us | y apart | workspace, MB |\n|---|---|---|---|---|---|---|---|")
    for B, s_q, S in SIZES:
        step = Step(library, B, s_q, S)
        before = {n: step.t[n].clone() for n in ("kv_pages", "k_pages")}
        step.run()
        torch.cuda.synchronize()
        why, y = step.wrong(before), step.t["y"].clone()
        del before
        same = same_bits(step, y)
        took = clock.time([step.run])
        one = library.call("dsa_attention", step.flat(), ABOUT["parameters"], ABOUT["conventions"])
        one.run()
        apart = ((y[:s_q].float() - one.outputs["y"].float()).norm() / one.outputs["y"].float().norm()).item()
        alone = clock.time([one.run]).median
        say(f"| {B} | {s_q} | {S} | {took.median:.1f} | {took.spread:.1f} | {alone:.1f} | {apart:.1e} | {step.workspace.numel() / 1e6:.0f} |")
        if why or not same or not apart <= MOST_APART:
            good = False
            say(f"WRONG: {why or ('20 runs differ' if not same else f'y is {apart:.1e} from dsa_attention; at most {MOST_APART:.1e} is expected')}")
        del step, one
        torch.cuda.empty_cache()
    good = blocks(library, clock) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
