"""Which op is the gradient of which? Each entry says what the backward op needs, and whose gradient each of its outputs is.

Results that only tell about a call (lse, max_logit, dlogits and the like) have no gradient: asking for one is refused.
"""

from __future__ import annotations

import json

import torch
from touchstone import contract
from touchstone.conventions import expanded

from ._native import BadArgument

JSON = ("conventions", "rope")


def order(op: contract.Op) -> list[str]:
    """Inputs as a schema has them: optional ones last."""
    return [t.name for t in op.inputs if not t.optional] + [t.name for t in op.inputs if t.optional]


def read(name: str, value):
    """A text argument as what it stands for."""
    return json.loads(value) if name in JSON and isinstance(value, str) and value.lstrip().startswith("{") else value


def _only_first(op: str, gradients: tuple) -> torch.Tensor | None:
    """The gradient of the first result; refused if another has one."""
    names = [t.name for t in contract.OPS[op].outputs]
    for name, gradient in zip(names[1:], gradients[1:]):
        if gradient is not None:
            raise BadArgument(f"{op} has no gradient through {name}, only through {names[0]}: use {name}.detach()")
    return gradients[0]


def _natural(op: str, conventions) -> None:
    if expanded(read("conventions", conventions) or "deepseek-v3.2-exp")["lse"] != "natural":
        raise BadArgument(f"the gradient of {op} needs lse with the natural logarithm; the conventions have base 2")


def _given(op: str, gradients: dict) -> tuple:
    """Gradients by name -> in the order of the op's inputs; keyword arguments have none."""
    spec = contract.OPS[op]
    return tuple(gradients.get(name) for name in order(spec))


def _register(definition: torch.library.CustomOpDef, op: str, backward) -> None:
    """backward(inputs, outputs, keywords, gradient of the first output) -> {input: gradient}"""
    names = order(contract.OPS[op])

    def setup(ctx, inputs, keyword_only_inputs, output):
        ctx.set_materialize_grads(False)
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.here = [t is not None for t in inputs]
        ctx.keywords = keyword_only_inputs
        ctx.save_for_backward(*(t for t in inputs if t is not None), *outputs)

    def step(ctx, *gradients):
        saved = list(ctx.saved_tensors)
        given = {n: saved.pop(0) if here else None for n, here in zip(names, ctx.here)}
        outputs = dict(zip([t.name for t in contract.OPS[op].outputs], saved))
        first = _only_first(op, gradients)
        if first is None:
            return tuple(None for _ in names)
        return _given(op, {n: g.to(given[n].dtype) for n, g in backward(given, outputs, ctx.keywords, first).items()})

    definition.register_autograd(step, setup_context=setup)


def _sparse_prefill(given, out, keywords, dout):
    if given["sink"] is not None:
        raise BadArgument("sparse_prefill with a sink has no gradient: sparse_attention_backward knows no sink")
    _natural("sparse_prefill", keywords["conventions"])
    dq, dkv = torch.ops.dsa.sparse_attention_backward(given["q"], given["kv"], given["indices"], out["out"], out["lse"],
                                                      dout.contiguous(), scale=keywords["scale"])  # fmt: skip
    return {"q": dq, "kv": dkv}


def _indexer_kl_loss(_given, out, _keywords, dloss):
    return {"q": out["dq"] * dloss, "k": out["dk"] * dloss, "weights": out["dweights"] * dloss}


def _cross_entropy(_given, out, _keywords, dloss):
    return {"logits": out["dlogits"] * dloss}


def _rms_norm(given, _out, keywords, dy):
    dx, dweight = torch.ops.dsa.rms_norm_backward(given["x"], given["weight"], dy.contiguous(), eps=keywords["eps"])
    return {"x": dx, "weight": dweight}


def _layer_norm(given, _out, keywords, dy):
    dx, dweight, dbias = torch.ops.dsa.layer_norm_backward(given["x"], given["weight"], given["bias"], dy.contiguous(), eps=keywords["eps"])
    return {"x": dx, "weight": dweight, "bias": dbias}


def _dense_attention(given, out, keywords, dout):
    if given["sink"] is not None:
        raise BadArgument("dense_attention with a sink has no gradient: the backward ops know no sink")
    _natural("dense_attention", keywords["conventions"])
    about = {"scale": keywords["scale"], "causal": keywords["causal"]}
    if given["kv"] is not None:
        dq, dkv = torch.ops.dsa.dense_mqa_backward(given["q"], given["kv"], out["out"], out["lse"], dout.contiguous(), given["start"], **about)
        return {"q": dq, "kv": dkv}
    dq, dk, dv = torch.ops.dsa.dense_mha_backward(given["q"], given["k"], given["v"], out["out"], out["lse"], dout.contiguous(),
                                                  given["start"], **about)  # fmt: skip
    return {"q": dq, "k": dk, "v": dv}


_MOE = ("W_g", "W_gate", "W_up", "W_down", "shared_W_gate", "shared_W_up", "shared_W_down")


def _moe(given, _out, keywords, dy):
    if given["W_gate_scale"] is not None or given["shared_W_gate"] is None:
        raise BadArgument("the gradient of moe needs bf16 weights and a shared expert: moe_backward takes no others")
    gradients = torch.ops.dsa.moe_backward(given["x"], *(given[n] for n in _MOE), dy.contiguous(), given["bias"], **keywords)
    return dict(zip(("x", *_MOE), gradients))


def register(definitions: dict[str, torch.library.CustomOpDef]) -> None:
    """Gives those ops that have a gradient theirs."""
    for op, backward in (("sparse_prefill", _sparse_prefill), ("indexer_kl_loss", _indexer_kl_loss), ("cross_entropy", _cross_entropy),
                         ("rms_norm", _rms_norm), ("layer_norm", _layer_norm), ("dense_attention", _dense_attention), ("moe", _moe)):  # fmt: skip
        _register(definitions[op], op, backward)
