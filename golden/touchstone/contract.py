"""What does each op take and give? The contract of spec section 11, as a table that code can read.

Axes are names (`T`, bound by the first tensor that has it), numbers, parameters, or sums and products of those.
The C header golden/dsa.h is generated from it (`touchstone header`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import require


@dataclass(frozen=True)
class Tensor:
    """One tensor of the contract."""

    name: str
    axes: tuple[str, ...]
    dtype: str = ""  # of outputs; inputs say theirs in case.json
    optional: bool = False


@dataclass(frozen=True)
class Op:
    """One op of the contract."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: tuple[str, ...]
    rows: str = ""  # the axis whose rows do not depend on each other: what sampling may cut

    @property
    def staged(self) -> bool:
        """Whether the op is a chain of stages, each of which can be judged."""
        return self.name in ("dsa_attention", "transformer_block", "model", "training_step")


def _tensors(text: str) -> tuple[Tensor, ...]:
    """"x[T,D] bias[E]? y[T,D]:bfloat16" -> tensors; ? is optional."""
    found = re.findall(r"(\w+)\[([^\]]*)\](\??)(?::(\w+))?", text)
    return tuple(Tensor(n, tuple(a.strip() for a in axes.split(",")), dtype, bool(q)) for n, axes, q, dtype in found)


def _op(name: str, inputs: str, outputs: str, parameters: str = "", rows: str = "") -> Op:
    return Op(name, _tensors(inputs), _tensors(outputs), tuple(parameters.split()), rows)


def _gradients(weights: str) -> str:
    """One float32 output dNAME of the same shape for each weight."""
    return " ".join(f"d{weight}:float32" for weight in weights.split())


_MLA = "W_dq[D,R_q] q_norm[R_q] W_uq[R_q,H,d_q] W_dkv[D,d] kv_norm[R_kv] "
_ATTENTION = (
    _MLA + "W_uk[R_kv,H,d_nope] W_uv[R_kv,H,d_v] W_o[H,d_v,D] W_qI[R_q,H_I,D_I] W_kI[D,D_I] k_norm[D_I] k_bias[D_I] "
    "W_w[D,H_I] start[T]? cache_kv[C,d]? cache_k[C,D_I]? cache_k_scale[C]? "
)
_MOE = (
    "W_g[D,E] bias[E]? W_gate[E,D,F] W_up[E,D,F] W_down[E,F,D] W_gate_scale[E,*,*]? W_up_scale[E,*,*]? "
    "W_down_scale[E,*,*]? shared_W_gate[D,F_s]? shared_W_up[D,F_s]? shared_W_down[F_s,D]? "
    "shared_W_gate_scale[*,*]? shared_W_up_scale[*,*]? shared_W_down_scale[*,*]? "
)
_LEARNING_MOE = (
    "W_g[D,E] W_gate[E,D,F] W_up[E,D,F] W_down[E,F,D] shared_W_gate[D,F_s] shared_W_up[D,F_s] shared_W_down[F_s,D] "
)
_LEARNING = (
    "embedding[V,D] attention_norm[L,D] W_dq[L,D,R_q] q_norm[L,R_q] W_uq[L,R_q,H,d_q] W_dkv[L,D,d] kv_norm[L,R_kv] "
    "W_uk[L,R_kv,H,d_nope] W_uv[L,R_kv,H,d_v] W_o[L,H,d_v,D] W_qI[L,R_q,H_I,D_I] W_kI[L,D,D_I] k_norm[L,D_I] k_bias[L,D_I] "
    "W_w[L,D,H_I] ffn_norm[L,D] " + _LEARNING_MOE.replace("[", "[L,") + "final_norm[D] head[D,V] "
)
_GATE = "groups kept_groups active route_scale normalise"
_LOGITS = "q[T,H_I,D_I] k[S,D_I] k_scale[S] weights[T,H_I] start[T] end[T]"

OPS = {op.name: op for op in (
    _op("rms_norm", "x[T,D] weight[D]", "y[T,D]:bfloat16", "eps", "T"),
    _op("layer_norm", "x[T,D] weight[D] bias[D]", "y[T,D]:bfloat16", "eps", "T"),
    _op("rope", "x[T,N,d_rope] positions[T]", "y[T,N,d_rope]:bfloat16", "layout output_layout rope", "T"),
    _op("hadamard", "x[T,N,D_I]", "y[T,N,D_I]:bfloat16", "", "T"),
    _op("act_quant", "x[T,N]", "q[T,N]:quantised scale[T,N/block]:float32", "block", "T"),
    _op("mla_project", "x[T,D] positions[T] " + _MLA,
        "c_q[T,R_q]:bfloat16 q_nope[T,H,d_q-d+R_kv]:bfloat16 q_rope[T,H,d-R_kv]:bfloat16 c_kv[T,R_kv]:bfloat16 "
        "k_rope[T,d-R_kv]:bfloat16", "eps rope", "T"),
    _op("indexer_project", "x[T,D] c_q[T,R_q] positions[T] W_qI[R_q,H_I,D_I] W_kI[D,D_I] k_norm[D_I] k_bias[D_I] W_w[D,H_I]",
        "q[T,H_I,D_I]:quantised k[T,D_I]:quantised k_scale[T]:float32 weights[T,H_I]:float32", "d_rope eps rope", "T"),
    _op("indexer_logits", _LOGITS, "logits[T,S]:float32", "", "T"),
    _op("indexer_logits_paged", "q[B,s_q,H_I,D_I] k_pages[pages,*] block_table[B,P] context_lens[B] weights[B*s_q,H_I]",
        "logits[B*s_q,P*64]:float32"),
    _op("top_k", "logits[T,S] start[T] end[T]", "indices[T,topk]:int32", "topk", "T"),
    _op("indexer_top_k", _LOGITS, "indices[T,topk]:int32", "topk", "T"),
    _op("sparse_prefill", "q[T,H,d] kv[S,d] indices[T,k] sink[H]?",
        "out[T,H,d_v]:bfloat16 lse[T,H]:float32 max_logit[T,H]:float32", "scale d_v", "T"),
    _op("sparse_decode", "q[B,s_q,H,d] kv_pages[pages,64,*] indices[B,s_q,k] sink[H]?",
        "out[B,s_q,H,R_kv]:bfloat16 lse[B,s_q,H]:float32", "scale R_kv", "B"),
    _op("dense_attention", "q[T,H,d] kv[S,d]? k[S,H,d]? v[S,H,d_v]? start[T]? sink[H]?",
        "out[T,H,d_v]:bfloat16 lse[T,H]:float32", "scale mode causal d_v"),
    _op("pack_kv_pages", "kv[S,d]", "kv_pages[ceil64(S),64,R_kv+4*max1(R_kv/128)+2*d-2*R_kv]:uint8", "R_kv"),
    _op("pack_key_pages", "k[S,D_I] k_scale[S]", "k_pages[ceil64(S),64*D_I+256]:uint8"),
    _op("moe_gate", "x[T,D] W_g[D,E] bias[E]?", "experts[T,active]:int32 expert_weights[T,active]:float32", _GATE, "T"),
    _op("moe", "x[T,D] " + _MOE, "y[T,D]:bfloat16", _GATE, "T"),
    _op("attention_target", "q[T,H,d] kv[S,d] indices[T,k]?", "p[T,k_or_S]:float32", "scale"),
    _op("indexer_kl_loss", "q[T,H_I,D_I] k[S,D_I] weights[T,H_I] p[T,*]? q_mla[T,H,d]? kv[S,d]? indices[T,k]?",
        "loss[1]:float32 dq[T,H_I,D_I]:float32 dk[S,D_I]:float32 dweights[T,H_I]:float32", "scale"),
    _op("sparse_attention_backward", "q[T,H,d] kv[S,d] indices[T,k] out[T,H,d_v] lse[T,H] dout[T,H,d_v]",
        "dq[T,H,d]:bfloat16 dkv[S,d]:float32", "scale"),
    _op("rms_norm_backward", "x[T,D] weight[D] dy[T,D]", "dx[T,D]:bfloat16 dweight[D]:float32", "eps"),
    _op("layer_norm_backward", "x[T,D] weight[D] bias[D] dy[T,D]", "dx[T,D]:bfloat16 dweight[D]:float32 dbias[D]:float32", "eps"),
    _op("cross_entropy", "logits[T,V] targets[T]", "loss[1]:float32 dlogits[T,V]:float32"),
    _op("dense_mqa_backward", "q[T,H,d] kv[S,d] out[T,H,d_v] lse[T,H] dout[T,H,d_v] start[T]?",
        "dq[T,H,d]:bfloat16 dkv[S,d]:float32", "scale causal"),
    _op("dense_mha_backward", "q[T,H,d] k[S,H,d] v[S,H,d_v] out[T,H,d_v] lse[T,H] dout[T,H,d_v] start[T]?",
        "dq[T,H,d]:bfloat16 dk[S,H,d]:bfloat16 dv[S,H,d_v]:bfloat16", "scale causal"),
    _op("moe_backward", "x[T,D] " + _LEARNING_MOE + "bias[E]? dy[T,D]", "dx[T,D]:bfloat16 " + _gradients(_LEARNING_MOE), _GATE),
    _op("training_step", "tokens[T] targets[T] " + _LEARNING + "bias[L,E]?",
        "language_loss[1]:float32 kl_loss[L]:float32 " + _gradients(_LEARNING), "stage topk simulate_fp8 eps rope " + _GATE),
    _op("dsa_attention", "x[T,D] positions[T] " + _ATTENTION, "y[T,D]:bfloat16", "topk scale eps rope"),
    _op("transformer_block", "hidden[T,D] positions[T] attention_norm[D] ffn_norm[D] " + _ATTENTION
        + _MOE.replace("[E,D,F]", "[*]").replace("[E,F,D]", "[*]").replace("W_g[D,E]", "W_g[D,E]?").replace("[E,*,*]", "[*]"),
        "y[T,D]:bfloat16", "topk scale eps rope " + _GATE),
)}  # fmt: skip

DEFAULTS = {"block": 128, "R_kv": 512, "active": 8}


def bound_axes(op: Op, shapes: dict[str, tuple], parameters: dict) -> dict[str, int]:
    """The size of every axis and whole-number parameter. shapes: of the inputs that there are."""
    sizes = {name: value for name, value in parameters.items() if isinstance(value, int)}
    for tensor in op.inputs:
        for axis, extent in zip(tensor.axes, shapes.get(tensor.name, ())):
            if axis.isidentifier():
                sizes.setdefault(axis, extent)
    for name, value in DEFAULTS.items():
        sizes.setdefault(name, value)
    if "d" in sizes:
        sizes.setdefault("d_v", min(512, sizes["d"]))
    sizes["k_or_S"] = sizes.get("k", sizes.get("S", 0))
    return sizes


def output_shapes(op: Op, shapes: dict[str, tuple], parameters: dict) -> dict[str, tuple[int, ...]]:
    """The shape of every output, from the inputs' shapes."""
    sizes = bound_axes(op, shapes, parameters)
    return {t.name: tuple(evaluated(axis, sizes) for axis in t.axes) for t in op.outputs}


def evaluated(axis: str, sizes: dict[str, int]) -> int:
    """An axis expression as a number: sums of products of names and numbers, ceil64(x), max1(x)."""
    if call := re.fullmatch(r"ceil64\((.*)\)", axis):
        return -(-evaluated(call[1], sizes) // 64)
    total = 0
    for sign, term in re.findall(r"([+-]?)((?:max1\([^)]*\)|[^+-])+)", axis):
        product = 1
        for operator, factor in re.findall(r"([*/]?)(max1\([^)]*\)|\w+)", term):
            if call := re.fullmatch(r"max1\((.*)\)", factor):
                value = max(1, evaluated(call[1], sizes))
            else:
                require(factor.isdigit() or factor in sizes, f"the size {factor} of the axis {axis} is not known")
                value = int(factor) if factor.isdigit() else sizes[factor]
            product = product // value if operator == "/" else product * value
        total += -product if sign == "-" else product
    return total
