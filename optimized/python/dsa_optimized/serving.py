"""How does a step of decoding over pages run from Python? It is planned once and run as often as tokens come.

    plan = dsa.plan_serving_block_step(hidden, positions, weights, kv_pages, k_pages, block_table, context_lens, topk=2048)
    plan.run()                                            # new hidden, positions, lengths and tables may lie there each time

A plan keeps its arrays: nothing is allocated or checked again, and a CUDA graph may capture `run`. The C interface, and the
rules of slots and lengths, is optimized/serving/dsa_serving.h's; the same steps with PyTorch's op system are torch_ops'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np

from . import _native

PAGE = 64  # tokens
NUMBERS_OF_SCALE = 128  # of a latent


def page_shapes(pages: int, R_kv: int, d_rope: int, D_I: int) -> tuple[tuple, tuple]:
    """The shapes of kv_pages and k_pages, both uint8, for a pool of so many pages of 64 tokens.

    R_kv: numbers of a latent; d_rope: numbers of its rotated key; D_I: numbers of an indexer key. V3.2: 512, 64, 128, which is
    656 + 132 bytes a token.
    """
    token = R_kv + 4 * (R_kv // min(R_kv, NUMBERS_OF_SCALE)) + 2 * d_rope
    return (pages, PAGE, token), (pages, PAGE * (D_I + 4))


class Plan:
    """A step that is planned: its arrays are checked and kept.

    `y` is its output, [B s_q, D] bfloat16; `workspace_bytes` what it needs of scratch.
    """

    def __init__(self, planned: _native.Planned, y, tokens, allocate: Callable):
        self._planned, self._tokens, self._allocate = planned, tokens, allocate
        self._bound = False
        self.y = y

    @property
    def workspace_bytes(self) -> int:
        """Bytes of scratch."""
        return self._planned.workspace_bytes

    def bind(self, workspace=None) -> Plan:
        """Gives it scratch: a uint8 array of workspace_bytes or more where the library's arrays lie, which plans that run one
        after the other on one stream may share; or, without one, an array of its own. `run` binds one of its own where none
        is bound: bind before a capture."""
        self._planned.workspace(self._allocate((self.workspace_bytes,), "uint8") if workspace is None else workspace)
        self._bound = True
        return self

    def run(self, stream: int | None = None, stages: Callable | None = None):
        """Runs the step -> y. stream: a cudaStream_t as a number; without one PyTorch's current stream where the plan's arrays
        are PyTorch's, else the default stream. stages(name, array) is called as each stage comes to be."""
        if not self._bound:
            self.bind()
        if stream is None:
            stream = _stream_of(self._tokens)
        self._planned.run(stream, stages)
        return self.y


class Serving:
    """Library's steps of decoding over pages (library.py)."""

    def plan_serving_step(self, x, positions, weights: Mapping, kv_pages, k_pages, block_table, context_lens, *, topk: int,
                          scale: float | None = None, eps: float | None = None, rope: dict | None = None,
                          conventions: str | dict | None = None, y=None, workspace=None) -> Plan:  # fmt: skip
        """Plans an attention block's forward for the s_q new tokens of each of B requests, whose context lies in pages.

        x [B s_q, D] bfloat16, normalised; positions [B s_q] int32, in tokens, of the rotary embedding.
        weights: W_dq [D, R_q], W_uq [R_q, H, d_q], W_dkv [D, R_kv + d_rope], W_qI [R_q, H_I, D_I], W_kI [D, D_I] bfloat16;
        W_uk [R_kv, H, d_nope], W_uv [R_kv, H, d_v], W_o [H, d_v, D], W_w [D, H_I] bfloat16 or float32;
        q_norm [R_q], kv_norm [R_kv], k_norm [D_I], k_bias [D_I] float32.
        kv_pages, k_pages: both pools, uint8, of the shapes that page_shapes gives; each new token's bytes are written into its
        slot, and no other byte is.
        block_table [B, P] int32: the page of each 64 tokens of a request, -1 where there is none. context_lens [B] int32: a
        request's tokens with the new ones; 0: it is not there. Query i of s_q stands at context_len - s_q + i.
        topk: tokens that a query selects. scale: of the softmax, eps: of the norms; without them the contract's defaults.
        rope: theta, factor, ... as in case.json. conventions: a preset's name or an object of switches; the pages are FP8
        whatever kv_latent_fp8 says, and the quantizer must not be "none".
        y [B s_q, D] bfloat16 is the output, made by the framework of x where none is given. workspace: as in Plan.bind.

        BadArgument (a ValueError) for a shape, dtype, device or name that does not fit, Misaligned where an array does not
        begin at a multiple of 16 bytes, NotImplementedError where the library, or a level that was chosen, has no such step.
        """
        parameters = {"topk": topk, "scale": scale, "eps": eps, "rope": rope}
        return self._plan("serving_step", {"x": x, "positions": positions, "block_table": block_table, "context_lens": context_lens},
                          weights, (kv_pages, k_pages), y, parameters, conventions, workspace)  # fmt: skip

    def plan_serving_block_step(self, hidden, positions, weights: Mapping, kv_pages, k_pages, block_table, context_lens, *, topk: int,
                                groups: int | None = None, kept_groups: int | None = None, active: int | None = None,
                                route_scale: float | None = None, normalise: bool | None = None, scale: float | None = None,
                                eps: float | None = None, rope: dict | None = None, conventions: str | dict | None = None, y=None,
                                workspace=None) -> Plan:  # fmt: skip
        """Plans a whole transformer block's forward: y = h + net(RMSNorm(h)), h = hidden + attention(RMSNorm(hidden)).

        hidden [B s_q, D] bfloat16; y may be the same array. weights: those of plan_serving_step; attention_norm and ffn_norm
        [D] float32; and of the net, dense: W_gate, W_up [D, F], W_down [F, D]; or, where W_g [D, E] bfloat16 or float32 is
        among them, of E experts: W_gate, W_up [E, D, F], W_down [E, F, D], bias [E] float32 of the gate, and shared_W_gate,
        shared_W_up [D, F_s], shared_W_down [F_s, D] of an expert that all tokens share. A matrix of the net is bfloat16,
        float32, or float8_e4m3 with NAME_scale float32, one number for 128 x 128.
        groups, kept_groups, active: of the gate, numbers of experts' groups, of those that are kept, and of a token's experts;
        route_scale, normalise: of their weights. Everything else, and the errors, as in plan_serving_step.
        """
        parameters = {"topk": topk, "groups": groups, "kept_groups": kept_groups, "active": active, "route_scale": route_scale,
                      "normalise": normalise, "scale": scale, "eps": eps, "rope": rope}  # fmt: skip
        return self._plan("serving_block_step", {"hidden": hidden, "positions": positions, "block_table": block_table, "context_lens": context_lens},
                          weights, (kv_pages, k_pages), y, parameters, conventions, workspace)  # fmt: skip

    def _plan(self, step: str, tokens: dict, weights: Mapping, pools: tuple, y, parameters: dict, conventions, workspace) -> Plan:
        names, _ = self._native.takes(step)
        places = [name for name in names if name not in tokens]
        for name in weights:
            if name not in places:
                raise _native.BadArgument(f"{step} has no weight {name}; it has {', '.join(places)}")
        inputs = tokens | dict(weights)
        given = {n: v.item() if isinstance(v, np.generic) else v for n, v in parameters.items() if v is not None}
        about = {"parameters": given} | ({} if conventions is None else {"conventions": conventions})
        first = next(iter(tokens.values()))
        allocate, made = self._allocator(first), [y]

        def make_y(shape, dtype: str):
            made[0] = allocate(shape, dtype)
            return made[0]

        planned = self._native.plan(step, [inputs.get(name) for name in names], list(pools), [y], given, json.dumps(about), "", make_y)
        plan = Plan(planned, made[0], first, allocate)
        return plan if workspace is None else plan.bind(workspace)


def _stream_of(array) -> int:
    if type(array).__module__.partition(".")[0] == "torch" and array.is_cuda:
        import torch

        return torch.cuda.current_stream(array.device).cuda_stream
    return 0
