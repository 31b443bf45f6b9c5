"""Times the reference's main ops against the same formulas in PyTorch float32 on the same CPU, in one run.

    python tools/bench_ops.py [--reference build/dsa-reference] [--out build/bench_ops.json]

The reference runs its deployed tier on one thread, its inputs in memory as they are stored (reading them into
numbers is counted). PyTorch runs on one thread and on two, float32, its inputs in memory as float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
from touchstone import dtypes, fill  # noqa: E402

SCALE = 0.1352337788608801


def normal(shape, std=1.0, dtype="bfloat16"):
    return {"dtype": dtype, "shape": list(shape), "fill": {"normal": {"std": std}}}


def constant(shape, value, dtype="int32"):
    return {"dtype": dtype, "shape": list(shape), "fill": {"constant": value}}


def selection(shape, context):
    return {"dtype": "int32", "shape": list(shape), "fill": {"selection": {"context": context, "causal": True}}}


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def layer_norm(x, weight, bias):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)


def hadamard(x):
    n, shape = x.shape[-1], x.shape
    distance = 1
    while distance < n:
        x = x.reshape(-1, n // (2 * distance), 2, distance)
        x = torch.stack((x[:, :, 0] + x[:, :, 1], x[:, :, 0] - x[:, :, 1]), 2)
        distance *= 2
    return x.reshape(shape) * n**-0.5


def act_quant(x):
    blocks = x.reshape(x.shape[0], -1, 128)
    scale = torch.exp2(torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448)))
    return (blocks / scale).to(torch.float8_e4m3fn), scale


def indexer_logits(q, k, k_scale, weights, start, end):
    return torch.stack([(torch.relu(q[t] @ k.T) * weights[t, :, None]).sum(0) * k_scale for t in range(q.shape[0])])


def top_k(logits, start, end):
    return logits.topk(2048, -1).indices


def attend(q, keys, values):
    return torch.softmax(q @ keys.T * SCALE, -1) @ values


def sparse_prefill(q, kv, indices):
    out = []
    for t in range(q.shape[0]):
        rows = kv[indices[t].long()]
        out.append(attend(q[t], rows, rows[:, :512]))
    return torch.stack(out)


def dense_attention(q, kv):
    first = kv.shape[0] - q.shape[0] + 1
    return torch.stack([attend(q[t], kv[: first + t], kv[: first + t, :512]) for t in range(q.shape[0])])


def attention_target(q, kv):
    first = kv.shape[0] - q.shape[0] + 1
    return [torch.softmax(q[t] @ kv[: first + t].T * SCALE, -1).mean(0) for t in range(q.shape[0])]


def moe_gate(x, W_g, bias):
    scores = torch.sigmoid(x @ W_g)
    biased = (scores + bias).reshape(x.shape[0], 8, -1)
    groups = biased.topk(2, -1).values.sum(-1).topk(4, -1).indices
    mask = torch.zeros(x.shape[0], 8, dtype=torch.bool).scatter_(1, groups, True)
    chosen = biased.masked_fill(~mask[:, :, None], -torch.inf).flatten(1).topk(8, -1).indices
    weights = scores.gather(1, chosen)
    return chosen, weights / weights.sum(-1, keepdim=True) * 2.5


def moe(x, W_g, bias, W_gate, W_up, W_down):
    chosen, weights = moe_gate(x, W_g, bias)
    y = torch.zeros_like(x)
    for e in chosen.unique().tolist():
        token, slot = (chosen == e).nonzero(as_tuple=True)
        hidden = torch.nn.functional.silu(x[token] @ W_gate[e]) * (x[token] @ W_up[e])
        y.index_add_(0, token, hidden @ W_down[e] * weights[token, slot, None])
    return y


def sparse_attention_backward(q, kv, indices, out, lse, dout):
    dq, dkv = torch.zeros_like(q), torch.zeros_like(kv)
    for t in range(q.shape[0]):
        rows = kv[indices[t].long()]
        p = torch.exp(q[t] @ rows.T * SCALE - lse[t, :, None])
        ds = p * (dout[t] @ rows[:, :512].T - (out[t] * dout[t]).sum(-1, keepdim=True)) * SCALE
        dq[t] = ds @ rows
        dkv.index_add_(0, indices[t].long(), torch.nn.functional.pad(p.T @ dout[t], (0, 64)) + ds.T @ q[t])
    return dq, dkv


E4M3 = "float8_e4m3"
OPS = {
    "rms_norm": (rms_norm, {}, {"x": normal([512, 7168]), "weight": normal([7168], 1, "float32")}),
    "layer_norm": (layer_norm, {}, {"x": normal([4096, 128]), "weight": normal([128], 1, "float32"), "bias": normal([128], 1, "float32")}),
    "hadamard": (hadamard, {}, {"x": normal([256, 64, 128])}),
    "act_quant": (act_quant, {}, {"x": normal([512, 7168])}),
    "indexer_logits": (indexer_logits, {}, {"q": normal([16, 64, 128], 90, E4M3), "k": normal([8192, 128], 90, E4M3),
                       "k_scale": constant([8192], 0.01, "float32"), "weights": normal([16, 64], 0.01, "float32"),
                       "start": constant([16], 0), "end": constant([16], 8192)}),
    "top_k": (top_k, {"topk": 2048}, {"logits": normal([16, 131072], 1, "float32"), "start": constant([16], 0), "end": constant([16], 131072)}),
    "sparse_prefill": (sparse_prefill, {"scale": SCALE}, {"q": normal([4, 128, 576], 0.6), "kv": normal([8192, 576]), "indices": selection([4, 2048], 8192)}),
    "dense_attention": (dense_attention, {"scale": SCALE}, {"q": normal([4, 128, 576], 0.6), "kv": normal([4096, 576])}),
    "attention_target": (attention_target, {"scale": SCALE}, {"q": normal([4, 128, 576], 0.6), "kv": normal([4096, 576])}),
    "moe_gate": (moe_gate, {}, {"x": normal([64, 1024]), "W_g": normal([1024, 256], 0.03, "float32"), "bias": normal([256], 0.1, "float32")}),
    "moe": (moe, {}, {"x": normal([64, 512]), "W_g": normal([512, 64], 0.04, "float32"), "bias": normal([64], 0.1, "float32"),
            "W_gate": normal([64, 512, 256], 0.04), "W_up": normal([64, 512, 256], 0.04), "W_down": normal([64, 256, 512], 0.06)}),
    "sparse_attention_backward": (sparse_attention_backward, {"scale": SCALE}, {"q": normal([2, 128, 576], 0.6), "kv": normal([8192, 576]),
                       "indices": selection([2, 2048], 8192), "out": normal([2, 128, 512], 0.1), "lse": constant([2, 128], 9.0, "float32"),
                       "dout": normal([2, 128, 512])}),
}  # fmt: skip


def seconds_of_reference(program: str, op: str, parameters: dict, tensors: dict, arrays: dict) -> float:
    with tempfile.TemporaryDirectory() as folder:
        declared = {name: {"dtype": entry["dtype"], "shape": entry["shape"]} for name, entry in tensors.items()}
        case = {"version": 1, "op": op, "tier": "deployed", "parameters": parameters, "tensors": declared}
        (Path(folder) / "case.json").write_text(json.dumps(case))
        for name, array in arrays.items():
            np.save(Path(folder) / f"{name}.npy", array)
        run = subprocess.run([program, "time", folder, "--repeat", "5"], capture_output=True, text=True, check=True)
        return float(run.stdout)


def seconds_of_torch(formula, inputs, threads: int) -> float:
    torch.set_num_threads(threads)
    formula(**inputs)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        formula(**inputs)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", default="build/dsa-reference")
    parser.add_argument("--out", default="build/bench_ops.json")
    options = parser.parse_args()
    results = {}
    print(f"{'op':28}{'reference ms':>14}{'torch 1 thread':>16}{'torch 2 threads':>17}{'torch 1 / ours':>16}")
    for op, (formula, parameters, tensors) in OPS.items():
        arrays = {name: fill.materialise(entry, name, 1) for name, entry in tensors.items()}
        ours = seconds_of_reference(options.reference, op, parameters, tensors, arrays)
        inputs = {}
        for name, entry in tensors.items():
            numbers = dtypes.from_storage(arrays[name], entry["dtype"])
            inputs[name] = torch.tensor(np.asarray(numbers, dtype=np.int32 if entry["dtype"] == "int32" else np.float32))
        with torch.no_grad():
            one, two = (seconds_of_torch(formula, inputs, threads) for threads in (1, 2))
        results[op] = {"reference_s": ours, "torch_1_thread_s": one, "torch_2_threads_s": two}
        print(f"{op:28}{1e3 * ours:14.1f}{1e3 * one:16.1f}{1e3 * two:17.1f}{one / ours:16.2f}", flush=True)
    Path(options.out).write_text(json.dumps({"torch": torch.__version__, "ops": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
