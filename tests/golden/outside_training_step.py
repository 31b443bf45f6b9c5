#!/usr/bin/env python3
"""A whole step of training outside both of our tellings: PyTorch's autograd in float64 against the op training_step.

    python tests/golden/outside_training_step.py [dsa-reference]

The model is written as plain differentiable PyTorch, with `detach` where the indexer reads from the main model. Needs
PyTorch; not part of `make test`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from outside_autograd import REPOSITORY, exact, worst

SIZES = {"T": 24, "L": 2, "V": 17, "D": 24, "R_q": 16, "H": 3, "d_nope": 8, "d_rope": 8, "R_kv": 12, "d_v": 6, "H_I": 3, "D_I": 16, "E": 6,
         "F": 10, "d_q": 16, "d": 20}  # fmt: skip
WEIGHTS = {
    "embedding": "V D", "attention_norm": "L D", "W_dq": "L D R_q", "q_norm": "L R_q", "W_uq": "L R_q H d_q", "W_dkv": "L D d", "kv_norm": "L R_kv",
    "W_uk": "L R_kv H d_nope", "W_uv": "L R_kv H d_v", "W_o": "L H d_v D", "W_qI": "L R_q H_I D_I", "W_kI": "L D D_I", "k_norm": "L D_I",
    "k_bias": "L D_I", "W_w": "L D H_I", "ffn_norm": "L D", "W_g": "L D E", "W_gate": "L E D F", "W_up": "L E D F", "W_down": "L E F D",
    "shared_W_gate": "L D F", "shared_W_up": "L D F", "shared_W_down": "L F D", "final_norm": "D", "head": "D V",
}  # fmt: skip
THETA, EPS, TOPK, ROUTE_SCALE = 10000.0, 1e-6, 5, 2.5


def rms(x, weight):
    """RMSNorm."""
    return torch.nn.functional.rms_norm(x, weight.shape, weight, EPS)


def turned(x, interleaved: bool):
    """RoPE without YaRN, as multiplication of complex numbers. x [T, ..., d_rope]"""
    T, d = x.shape[0], x.shape[-1]
    angles = torch.arange(T, dtype=torch.float64)[:, None] * THETA ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    turn = torch.polar(torch.ones_like(angles), angles).reshape(T, *[1] * (x.ndim - 2), d // 2)
    pairs = x.unflatten(-1, (d // 2, 2)) if interleaved else x.unflatten(-1, (2, d // 2)).transpose(-1, -2)
    pairs = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return pairs.flatten(-2) if interleaved else pairs.transpose(-1, -2).flatten(-2)


def hadamard(x):
    """By Kronecker powers of [[1, 1], [1, -1]]."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < x.shape[-1]:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return x @ matrix / len(matrix) ** 0.5


def masked(scores, allowed):
    """-inf where nothing may be attended to."""
    return torch.where(allowed, scores, -torch.inf)


def ffn(x, gate, up, down):
    """SwiGLU."""
    return (torch.nn.functional.silu(x @ gate) * (x @ up)) @ down


def layer(h, w, bias, stage: str, renormalised: bool):
    """-> the layer's output, and its KL loss, summed over queries"""
    T, d_nope = len(h), SIZES["d_nope"]
    x = rms(h, w["attention_norm"])
    c_q = rms(x @ w["W_dq"], w["q_norm"])
    q = torch.einsum("tr,rhd->thd", c_q, w["W_uq"])
    q = torch.cat([q[..., :d_nope], turned(q[..., d_nope:], True)], -1)
    kv = x @ w["W_dkv"]
    c_kv, k_rope = rms(kv[:, : SIZES["R_kv"]], w["kv_norm"]), turned(kv[:, SIZES["R_kv"] :], True)
    k = torch.cat([torch.einsum("tr,rhd->thd", c_kv, w["W_uk"]), k_rope[:, None].expand(-1, SIZES["H"], -1)], -1)
    v = torch.einsum("tr,rhd->thd", c_kv, w["W_uv"])

    ix, ic_q = x.detach(), c_q.detach()
    iq = torch.einsum("tr,rjd->tjd", ic_q, w["W_qI"])
    ik = torch.nn.functional.layer_norm(ix @ w["W_kI"], w["k_norm"].shape, w["k_norm"], w["k_bias"], EPS)
    d_rope = SIZES["d_rope"]
    iq, ik = (hadamard(torch.cat([turned(y[..., :d_rope], False), y[..., d_rope:]], -1)) for y in (iq, ik))
    iw = (ix @ w["W_w"]) * (SIZES["H_I"] * SIZES["D_I"]) ** -0.5
    logits = torch.einsum("tj,tjs->ts", iw, torch.relu(torch.einsum("tjd,sd->tjs", iq, ik)))

    causal = allowed = torch.tril(torch.ones(T, T, dtype=torch.bool))
    if stage == "sparse":
        # Scores of exactly 0 are common behind the ReLUs; topk would break their ties as it likes.
        chosen = torch.sort(masked(logits, causal), dim=-1, descending=True, stable=True).indices[:, :TOPK]
        allowed = torch.zeros(T, T, dtype=torch.bool).scatter(1, chosen, True) & causal
    scores = torch.einsum("thd,shd->hts", q, k) * (SIZES["d_q"]) ** -0.5
    p = torch.softmax(masked(scores, allowed), -1)
    h = h + torch.einsum("thv,hvd->td", torch.einsum("hts,shv->thv", p, v), w["W_o"])

    target = (torch.softmax(masked(scores, causal), -1) if renormalised else p).mean(0).detach() * allowed
    target = target / target.sum(-1, keepdim=True)
    prediction = torch.where(allowed, torch.log_softmax(masked(logits, allowed), -1), 0.0)
    kl = torch.where(target > 0, target * (torch.log(target.clamp_min(1e-300)) - prediction), 0.0).sum()

    z = rms(h, w["ffn_norm"])
    gate = torch.sigmoid(z @ w["W_g"])
    chosen = (gate + bias).topk(2, -1).indices
    weights = gate.gather(1, chosen)
    weights = ROUTE_SCALE * weights / weights.sum(-1, keepdim=True)
    y = ffn(z, w["shared_W_gate"], w["shared_W_up"], w["shared_W_down"])
    for e in range(SIZES["E"]):
        y = y + torch.where(chosen == e, weights, 0.0).sum(-1, keepdim=True) * ffn(z, w["W_gate"][e], w["W_up"][e], w["W_down"][e])
    return h + y, kl


def step(program, generator, stage: str, conventions: dict) -> float:
    """The worst relative difference of losses and gradients; what does not learn must be told to be zero."""

    def normal(*shape, std=1.0):
        return torch.randn(*shape, dtype=torch.float64, generator=generator) * std

    w = {n: (normal(*(SIZES[a] for a in axes.split()), std=0.3) + ("norm" in n)).requires_grad_() for n, axes in WEIGHTS.items()}
    bias = normal(SIZES["L"], SIZES["E"], std=0.1)
    tokens, targets = (torch.randint(0, SIZES["V"], (SIZES["T"],), generator=generator) for _ in range(2))
    targets[3] = -1
    h, kls = w["embedding"][tokens], []
    for l in range(SIZES["L"]):
        of_layer = {n: x[l] for n, x in w.items() if WEIGHTS[n].startswith("L")}
        h, kl = layer(h, of_layer, bias[l], stage, conventions.get("sparse_kl_target") == "renormalised")
        kls.append(kl * conventions.get("kl_coefficient", 1.0) / (SIZES["T"] if conventions.get("kl_reduction") == "mean" else 1))
    language = torch.nn.functional.cross_entropy(rms(h, w["final_norm"]) @ w["head"], targets, ignore_index=-1)
    kl = torch.stack(kls)
    ((language if stage != "warmup" else 0) + (kl.sum() if stage != "dense" else 0)).backward()
    parameters = {"stage": stage, "topk": TOPK, "groups": 1, "kept_groups": 1, "active": 2, "rope": {"theta": THETA, "factor": 1.0}, "eps": EPS}
    given = w | {"bias": bias, "tokens": tokens.to(torch.int32), "targets": targets.to(torch.int32)}
    told = exact(program, "training_step", parameters, conventions, given)
    found = [worst(language.reshape(1), told["language_loss"])]
    if stage != "dense":
        found.append(worst(kl, told["kl_loss"]))
    indexer = ("W_qI", "W_kI", "k_norm", "k_bias", "W_w")
    for name, x in w.items():
        learns = stage != "dense" if name in indexer else stage != "warmup"
        if learns:
            found.append(worst(x.grad, told["d" + name]))
        elif (told["d" + name] != 0).any():
            found.append(float("inf"))
    return max(found)


def main() -> int:
    """Prints the worst relative difference of each stage; 1 if any is not of float64's size."""
    program = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "build" / "dsa-reference").resolve()
    generator = torch.Generator().manual_seed(11)
    other = {"sparse_kl_target": "renormalised", "kl_reduction": "mean", "kl_coefficient": 0.1}
    found = {(stage, str(c)): step(program, generator, stage, c) for stage, c in
             (("dense", {}), ("warmup", {}), ("warmup", {"kl_reduction": "mean"}), ("sparse", {}), ("sparse", other))}  # fmt: skip
    # As in outside_autograd.py: sums of some hundred terms, 2^-53 each, and 2^6 for cancellation.
    allowed = 2.0**-53 * 2**9 * 2**6
    for (stage, conventions), difference in found.items():
        print(f"{difference:.1e}  {stage} {conventions}")
    return 0 if all(difference <= allowed for difference in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
