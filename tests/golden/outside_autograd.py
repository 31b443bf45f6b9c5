#!/usr/bin/env python3
"""A telling outside both of ours: PyTorch's autograd in float64 against the exact tier's gradients.

    python tests/golden/outside_autograd.py [dsa-reference]

The KL loss, attention, norms, cross entropy and a mixture of experts are written here as plain differentiable PyTorch; their derivatives are autograd's, not
a formula of ours. Needs PyTorch; not part of `make test`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
CONVENTIONS = [{}, {"sparse_kl_target": "renormalised"}, {"kl_reduction": "mean", "kl_coefficient": 0.01}]


def exact(program, op: str, parameters: dict, conventions: dict, tensors: dict) -> dict:
    """The reference's float64 outputs on these tensors."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "in").mkdir()
        entries = {}
        for name, tensor in tensors.items():
            array = tensor.detach().numpy() if isinstance(tensor, torch.Tensor) else tensor
            np.save(home / "in" / f"{name}.npy", array)
            entries[name] = {"dtype": array.dtype.name, "shape": list(array.shape)}
        case = {"version": 1, "op": op, "tier": "exact", "conventions": {"preset": "deepseek-v3.2-exp", **conventions},
                "parameters": parameters, "tensors": entries}  # fmt: skip
        (home / "in" / "case.json").write_text(json.dumps(case))
        subprocess.run([program, "op", op, home / "in", home / "out"], check=True)
        return {path.stem: np.load(path) for path in (home / "out").glob("*.npy")}


def target_of(q, kv, indices, scale, conventions):
    """p over causal positions or over the selected set: the sum of the heads' probabilities, of sum one."""
    T, S = q.shape[0], kv.shape[0]
    rows = []
    for t in range(T):
        causal = torch.softmax(torch.einsum("hd,sd->hs", q[t], kv[: S - T + t + 1]) * scale, dim=-1).sum(0)
        if indices is None:
            rows.append(causal / causal.sum())
        elif conventions.get("sparse_kl_target") == "renormalised":
            rows.append(causal[indices[t]] / causal[indices[t]].sum())
        else:
            on_set = torch.softmax(torch.einsum("hd,sd->hs", q[t], kv[indices[t]]) * scale, dim=-1).sum(0)
            rows.append(on_set / on_set.sum())
    return rows


def worst(mine: torch.Tensor, theirs: np.ndarray) -> float:
    """The largest difference over the largest number."""
    return float((mine.detach() - torch.from_numpy(theirs)).abs().max() / mine.detach().abs().max())


def kl(program, generator, sparse: bool, conventions: dict) -> float:
    """The KL loss and its gradients."""
    T, S, H, H_I, d, D_I, k, scale = 7, 40, 5, 6, 24, 16, 12, 0.3

    def normal(*shape, std=1.0):
        return torch.randn(*shape, dtype=torch.float64, generator=generator) * std

    q, key, w = (normal(T, H_I, D_I).requires_grad_(), normal(S, D_I).requires_grad_(), normal(T, H_I, std=0.3).requires_grad_())
    q_mla, kv = normal(T, H, d), normal(S, d)
    indices = None
    if sparse:
        indices = torch.stack([torch.randperm(S - T + t + 1, generator=generator)[:k] for t in range(T)])
    loss = torch.zeros(1, dtype=torch.float64)
    for t, p in enumerate(target_of(q_mla, kv, indices, scale, conventions)):
        seen = key[: S - T + t + 1] if indices is None else key[indices[t]]
        scores = (w[t][:, None] * torch.relu(q[t] @ seen.T)).sum(0)
        loss = loss + torch.nn.functional.kl_div(torch.log_softmax(scores, 0), p, reduction="sum")
    loss = loss * conventions.get("kl_coefficient", 1.0) / (T if conventions.get("kl_reduction") == "mean" else 1)
    loss.sum().backward()
    tensors = {"q": q, "k": key, "weights": w, "q_mla": q_mla, "kv": kv}
    if sparse:
        tensors["indices"] = indices.to(torch.int32)
    told = exact(program, "indexer_kl_loss", {"scale": scale}, conventions, tensors)
    return max(worst(loss, told["loss"]), worst(q.grad, told["dq"]), worst(key.grad, told["dk"]), worst(w.grad, told["dweights"]))


def attention(program, generator) -> float:
    """Sparse attention forwards and backwards."""
    T, S, H, d, d_v, k, scale = 6, 50, 4, 32, 20, 12, 0.2
    q = torch.randn(T, H, d, dtype=torch.float64, generator=generator).requires_grad_()
    kv = torch.randn(S, d, dtype=torch.float64, generator=generator).requires_grad_()
    dout = torch.randn(T, H, d_v, dtype=torch.float64, generator=generator)
    indices = torch.stack([torch.randperm(S, generator=generator)[:k] for _ in range(T)])
    logits = torch.einsum("thd,tkd->thk", q, kv[indices]) * scale
    lse = torch.logsumexp(logits, -1)
    out = torch.einsum("thk,tkv->thv", torch.softmax(logits, -1), kv[indices][..., :d_v])
    (out * dout).sum().backward()
    given = {"q": q, "kv": kv, "indices": indices.to(torch.int32)}
    forward = exact(program, "sparse_prefill", {"scale": scale, "d_v": d_v}, {}, given)
    told = exact(program, "sparse_attention_backward", {"scale": scale}, {}, given | {"out": out, "lse": lse, "dout": dout})
    return max(worst(out, forward["out"]), worst(lse, forward["lse"]), worst(q.grad, told["dq"]), worst(kv.grad, told["dkv"]))


def leaves(generator, **shapes) -> dict:
    """Random float64 tensors with gradients."""
    return {n: torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_() for n, s in shapes.items()}


def farthest(leaf: dict, told: dict) -> float:
    """The worst of all leaves' gradients."""
    return max(worst(x.grad, told["d" + name]) for name, x in leaf.items())


def norms(program, generator) -> float:
    """RMSNorm and LayerNorm."""
    x = leaves(generator, x=(5, 40), weight=(40,), bias=(40,))
    dy = torch.randn(5, 40, dtype=torch.float64, generator=generator)
    (torch.nn.functional.layer_norm(x["x"], (40,), x["weight"], x["bias"], 1e-3) * dy).sum().backward()
    found = farthest(x, exact(program, "layer_norm_backward", {"eps": 1e-3}, {}, x | {"dy": dy}))
    x = leaves(generator, x=(5, 40), weight=(40,))
    (torch.nn.functional.rms_norm(x["x"], (40,), x["weight"], 1e-3) * dy).sum().backward()
    return max(found, farthest(x, exact(program, "rms_norm_backward", {"eps": 1e-3}, {}, x | {"dy": dy})))


def cross_entropy(program, generator) -> float:
    """The language loss, with tokens that do not count."""
    x = leaves(generator, logits=(9, 30))
    targets = torch.randint(0, 30, (9,), generator=generator)
    targets[4] = -1
    loss = torch.nn.functional.cross_entropy(x["logits"], targets, ignore_index=-1)
    loss.backward()
    told = exact(program, "cross_entropy", {}, {}, x | {"targets": targets.to(torch.int32)})
    return max(worst(loss.reshape(1), told["loss"]), farthest(x, told))


def dense_attention(program, generator, mode: str) -> float:
    """Causal attention in both of MLA's modes."""
    T, S, H, d, d_v, scale = 6, 11, 3, 16, 12, 0.3
    x = leaves(generator, q=(T, H, d), **({"kv": (S, d)} if mode == "mqa" else {"k": (S, H, d), "v": (S, H, d_v)}))
    k = x["kv"][:, None].expand(S, H, d) if mode == "mqa" else x["k"]
    v = x["kv"][:, None, :d_v].expand(S, H, d_v) if mode == "mqa" else x["v"]
    seen = torch.tril(torch.ones(T, S, dtype=torch.bool), S - T)
    logits = torch.where(seen, torch.einsum("thd,shd->hts", x["q"], k) * scale, -torch.inf)
    out = torch.einsum("hts,shv->thv", torch.softmax(logits, -1), v)
    dout = torch.randn(T, H, d_v, dtype=torch.float64, generator=generator)
    (out * dout).sum().backward()
    given = x | {"out": out, "lse": torch.logsumexp(logits, -1).T.contiguous(), "dout": dout}
    return farthest(x, exact(program, f"dense_{mode}_backward", {"scale": scale}, {}, given))


def experts(program, generator) -> float:
    """Two of six experts in two groups, and a shared one; the choice is read off the forward pass here."""
    T, D, E, F, r = 7, 12, 6, 10, 2.5
    x = leaves(generator, x=(T, D), W_g=(D, E), W_gate=(E, D, F), W_up=(E, D, F), W_down=(E, F, D),
               shared_W_gate=(D, F), shared_W_up=(D, F), shared_W_down=(F, D))  # fmt: skip
    bias, dy = torch.randn(E, dtype=torch.float64, generator=generator) * 0.1, torch.randn(T, D, dtype=torch.float64, generator=generator)

    def ffn(x, gate, up, down):
        return (torch.nn.functional.silu(x @ gate) * (x @ up)) @ down

    scores = torch.sigmoid(x["x"] @ x["W_g"])
    biased = scores + bias
    best = torch.argmax(biased.reshape(T, 2, 3).topk(2, -1).values.sum(-1), -1)
    chosen = torch.where(torch.arange(E) // 3 == best[:, None], biased, -torch.inf).topk(2, -1).indices
    weights = scores.gather(1, chosen)
    weights = r * weights / weights.sum(-1, keepdim=True)
    y = ffn(x["x"], x["shared_W_gate"], x["shared_W_up"], x["shared_W_down"])
    for e in range(E):
        share = torch.where(chosen == e, weights, 0.0).sum(-1, keepdim=True)
        y = y + share * ffn(x["x"], x["W_gate"][e], x["W_up"][e], x["W_down"][e])
    (y * dy).sum().backward()
    parameters = {"groups": 2, "kept_groups": 1, "active": 2, "route_scale": r}
    return farthest(x, exact(program, "moe_backward", parameters, {}, x | {"bias": bias, "dy": dy}))


def main() -> int:
    """Prints the worst relative difference of each comparison; 1 if any is not of float64's size."""
    program = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "build" / "dsa-reference").resolve()
    generator = torch.Generator().manual_seed(7)
    found = {"sparse attention, forward and backward": attention(program, generator)}
    found["norms"] = norms(program, generator)
    found["cross entropy"] = cross_entropy(program, generator)
    for mode in ("mqa", "mha"):
        found[f"dense attention, {mode}"] = dense_attention(program, generator, mode)
    found["mixture of experts"] = experts(program, generator)
    for conventions in CONVENTIONS:
        for sparse in (False, True):
            name = f"KL loss, {'on the set' if sparse else 'dense'}, {conventions or 'as by default'}"
            found[name] = kl(program, generator, sparse, conventions)
    # Sums of some hundred terms of either sign: 2^-53 a term, and 2^6 for cancellation.
    allowed = 2.0**-53 * 2**9 * 2**6
    for name, difference in found.items():
        print(f"{difference:.1e}  {name}")
    return 0 if all(difference <= allowed for difference in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
