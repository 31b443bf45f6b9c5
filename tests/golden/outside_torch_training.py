#!/usr/bin/env python3
"""A trainer outside ours: the same model, losses and optimizer in plain PyTorch, on the same bytes from the same weights.

    python tests/golden/outside_torch_training.py [--reference build/dsa-reference] [--threads 2] [--steps 20]

Three questions, each for the stages dense, warmup and sparse of recipes/text.json's model:
1. Is every gradient of a step the same? One step of `dsa-reference train` with AdamW's epsilon at 1, rate 1 and no decay
   moves a weight by g / (|g| + 1), from which g is read back; PyTorch's is autograd's, in float64.
2. Do the losses stay the same over steps of the usual optimizer?
3. How many tokens a second do both make, float32, the same threads, in one run?
Needs PyTorch and safetensors; not part of `make test`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, layer_norm, silu

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "golden"))
from touchstone.philox import RandomTensor  # noqa: E402

KINDS = ("dense", "warmup", "sparse")
RATE = 1e-3


def is_indexer(name: str) -> bool:
    return ".indexer." in name


class Model:
    """MLA, indexer and experts as spec sections 1 to 7 have them; every sequence of a batch at once."""

    def __init__(self, weights: dict, config: dict, dtype: torch.dtype, length: int):
        self.c = config
        self.w = {name: tensor.to(dtype) for name, tensor in weights.items()}
        self.seen = torch.ones(length, length, dtype=torch.bool).tril()  # [T, T]
        pairs = torch.arange(config["qk_rope_head_dim"] // 2, dtype=torch.float64)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * config["rope_theta"] ** (-pairs / len(pairs))
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)  # [T, d_rope / 2]
        n = config["index_head_dim"]
        parity = [[bin(i & j).count("1") % 2 for j in range(n)] for i in range(n)]
        self.hadamard = (1 - 2 * torch.tensor(parity)).to(dtype) * n**-0.5

    def learning(self, kind: str) -> dict:
        """The parameters that a stage trains, by name."""
        moves = {"dense": (True, False), "warmup": (False, True), "sparse": (True, True)}[kind]
        found = {}
        for name, tensor in self.w.items():
            learns = moves[is_indexer(name)] and not name.endswith("e_score_correction_bias")
            self.w[name] = tensor.detach().requires_grad_(learns)
            if learns:
                found[name] = self.w[name]
        return found

    def rms(self, x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.c["rms_norm_eps"]) * self.w[name]

    def rope(self, x, interleaved: bool):
        """x: [B, T, heads, d_rope]"""
        cos, sin = self.cos[:, None], self.sin[:, None]
        a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
        turned = (a * cos - b * sin, a * sin + b * cos)
        return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)

    def indexer(self, p: str, x, c_q):
        """-> scores [B, T, T]"""
        c, w = self.c, self.w
        B, T, _ = x.shape
        q = (c_q @ w[p + "wq_b.weight"].T).view(B, T, c["index_n_heads"], -1)
        k = layer_norm(x @ w[p + "wk.weight"].T, (c["index_head_dim"],), w[p + "k_norm.weight"], w[p + "k_norm.bias"], c["rms_norm_eps"])
        d = c["qk_rope_head_dim"]
        q = torch.cat([self.rope(q[..., :d], False), q[..., d:]], -1) @ self.hadamard
        k = k[:, :, None]
        k = (torch.cat([self.rope(k[..., :d], False), k[..., d:]], -1) @ self.hadamard)[:, :, 0]
        heads = x @ w[p + "weights_proj.weight"].T * (c["index_n_heads"] * c["index_head_dim"]) ** -0.5
        dots = torch.relu(q.transpose(1, 2) @ k[:, None].transpose(-1, -2))  # [B, H_I, T, T]
        return (dots * heads.transpose(1, 2)[..., None]).sum(1).masked_fill(~self.seen, -torch.inf)

    def chosen(self, scores):
        """The k best, equal ones by the lower position. -> [B, T, T] of bool"""
        best = scores.sort(dim=-1, descending=True, stable=True).indices[..., : self.c["index_topk"]]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True) & self.seen

    def attention(self, p: str, x, kind: str):
        """-> out [B, T, D], the layer's KL or None"""
        c, w = self.c, self.w
        B, T, _ = x.shape
        H, d_nope, d_v = c["num_attention_heads"], c["qk_nope_head_dim"], c["v_head_dim"]
        c_q = self.rms(x @ w[p + "q_a_proj.weight"].T, p + "q_a_layernorm.weight")
        q = (c_q @ w[p + "q_b_proj.weight"].T).view(B, T, H, -1)
        q = torch.cat([q[..., :d_nope], self.rope(q[..., d_nope:], True)], -1)
        latent = x @ w[p + "kv_a_proj_with_mqa.weight"].T
        c_kv = self.rms(latent[..., : c["kv_lora_rank"]], p + "kv_a_layernorm.weight")
        k_rope = self.rope(latent[:, :, None, c["kv_lora_rank"] :], True)
        kv = (c_kv @ w[p + "kv_b_proj.weight"].T).view(B, T, H, d_nope + d_v)
        k = torch.cat([kv[..., :d_nope], k_rope.expand(-1, -1, H, -1)], -1)
        logits = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * q.shape[-1] ** -0.5  # [B, H, T, T]
        allowed, loss = self.seen, None
        if kind != "dense":
            scores = self.indexer(p + "indexer.", x.detach(), c_q.detach())
            if kind == "sparse":
                allowed = self.chosen(scores.detach())
        mask = allowed if allowed.dim() == 2 else allowed[:, None]
        probabilities = logits.masked_fill(~mask, -torch.inf).softmax(-1)
        if kind != "dense":
            target = probabilities.detach().mean(1)
            told = scores.masked_fill(~allowed, -torch.inf).log_softmax(-1).masked_fill(~allowed, 0.0)
            loss = (torch.xlogy(target, target) - target * told).sum(-1).mean()
        out = (probabilities @ kv[..., d_nope:].transpose(1, 2)).transpose(1, 2).reshape(B, T, -1)
        return out @ w[p + "o_proj.weight"].T, loss

    def feed_forward(self, p: str, x):
        gate, up = x @ self.w[p + "gate_proj.weight"].T, x @ self.w[p + "up_proj.weight"].T
        return (silu(gate) * up) @ self.w[p + "down_proj.weight"].T

    def experts(self, p: str, z, visits: list):
        """z: [B, T, D]; the number of tokens that each expert saw is appended to `visits`"""
        c = self.c
        x = z.reshape(-1, z.shape[-1])
        scores = (x @ self.w[p + "gate.weight"].T).sigmoid()
        biased = scores.detach() + self.w[p + "gate.e_score_correction_bias"]
        groups = biased.view(len(x), c["n_group"], -1)
        kept = groups.topk(min(2, groups.shape[-1]), -1).values.sum(-1).topk(c["topk_group"], -1).indices
        out = torch.ones_like(groups, dtype=torch.bool)
        out.scatter_(1, kept[..., None].expand(-1, -1, groups.shape[-1]), False)
        experts = biased.masked_fill(out.flatten(1), -torch.inf).topk(c["num_experts_per_tok"], -1).indices
        weights = scores.gather(1, experts)
        weights = weights / weights.sum(-1, keepdim=True) * c["routed_scaling_factor"]
        visits.append(torch.bincount(experts.flatten(), minlength=c["n_routed_experts"]))
        y = self.feed_forward(p + "shared_experts.", x)
        for e in range(c["n_routed_experts"]):
            token, slot = (experts == e).nonzero(as_tuple=True)
            if len(token):
                y = y.index_add(0, token, self.feed_forward(f"{p}experts.{e}.", x[token]) * weights[token, slot, None])
        return y.view_as(z)

    def losses(self, tokens, targets, kind: str):
        """tokens, targets: [B, T] -> language loss, list of each layer's KL, visits of each layer of experts"""
        h, kls, visits = self.w["model.embed_tokens.weight"][tokens], [], []
        for layer in range(self.c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            out, kl = self.attention(p + "self_attn.", self.rms(h, p + "input_layernorm.weight"), kind)
            kls += [] if kl is None else [kl]
            h = h + out
            z = self.rms(h, p + "post_attention_layernorm.weight")
            is_dense = layer < self.c["first_k_dense_replace"]
            h = h + (self.feed_forward(p + "mlp.", z) if is_dense else self.experts(p + "mlp.", z, visits))
        logits = self.rms(h, "model.norm.weight") @ self.w["lm_head.weight"].T
        return cross_entropy(logits.flatten(0, 1), targets.flatten()), kls, visits


class Trainer:
    """One stage: losses, gradients clipped apart, AdamW, and the bias of the experts by its rule."""

    def __init__(self, model: Model, kind: str):
        self.model, self.kind, self.learning = model, kind, model.learning(kind)
        self.parts = [[t for n, t in self.learning.items() if is_indexer(n) == indexer] for indexer in (False, True)]
        groups = [{"params": [t for t in self.learning.values() if (t.dim() > 1) == matrix], "weight_decay": 0.1 if matrix else 0.0}
                  for matrix in (True, False)]  # fmt: skip
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)

    def gradients(self, tokens, targets) -> dict:
        """Leaves the gradients where PyTorch keeps them. -> what a line of log.jsonl has"""
        language, kls, self.visits = self.model.losses(tokens, targets, self.kind)
        loss = sum(kls) if self.kind == "warmup" else language + sum(kls)
        self.optimizer.zero_grad()
        loss.backward()
        norms = [torch.stack([t.grad.square().sum() for t in part if t.grad is not None]).sum().sqrt() if part else None for part in self.parts]
        told = {"loss": language, "gradient_norm": norms[0], "indexer_gradient_norm": norms[1]}
        if kls:
            told["kl"] = sum(kls) / len(kls)
        return {name: float(value.detach()) for name, value in told.items() if value is not None}

    def step(self, tokens, targets) -> dict:
        told = self.gradients(tokens, targets)
        for part, norm in zip(self.parts, ("gradient_norm", "indexer_gradient_norm"), strict=True):
            for t in part:
                if t.grad is not None and told[norm] > 1.0:
                    t.grad /= told[norm]
        self.optimizer.step()
        if self.kind != "warmup":
            biases = [n for n in self.model.w if n.endswith("e_score_correction_bias")]
            for name, seen in zip(sorted(biases, key=lambda n: int(n.split(".")[2])), self.visits, strict=True):
                self.model.w[name] -= 0.001 * torch.sign(seen * len(seen) - seen.sum())
        return told


def batches(recipe: dict, stage: str, home: Path):
    """The sequences that `dsa-reference train` cuts from the texts for a stage, batch after batch."""
    T, B = recipe["length"], recipe["batch"]
    texts = [(home / name).read_bytes() for name in recipe["task"]["files"]]
    texts = [np.frombuffer(t[: int(len(t) * (1.0 - recipe["task"]["held_out"]))], np.uint8).astype(np.int64) for t in texts]
    print_ = 0xCBF29CE484222325
    for byte in stage.encode():
        print_ = (print_ ^ byte) * 0x100000001B3 % 2**64
    random = RandomTensor(recipe["seed"] ^ print_, "")
    random.id = 0x74657874
    starts = np.concatenate([np.arange(len(t) - T) + first for t, first in zip(texts, np.cumsum([0] + [len(t) for t in texts]), strict=False)])
    everything = np.concatenate(texts)
    number = 0
    while True:
        at = starts[random.below(len(starts), np.arange(number, number + B))]
        cut = torch.from_numpy(np.stack([everything[i : i + T + 1] for i in at]))
        yield cut[:, :-1], cut[:, 1:]
        number += B


def trained(reference: Path, recipe: dict, stages: list[dict], threads: int, optimizer: dict, out: Path) -> dict[str, float]:
    """Runs the stages. -> tokens a second of each"""
    file = out.parent / f"{out.name}.json"
    file.write_text(json.dumps({k: recipe[k] for k in ("version", "config", "seed", "length", "batch")}
                               | {"task": recipe["task"] | {"files": [str(REPOSITORY / "recipes" / f) for f in recipe["task"]["files"]]},
                                  "stages": stages, "optimizer": optimizer}))  # fmt: skip
    ran = subprocess.run([reference, "train", file, "--out", out, "--threads", str(threads)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return rates(ran.stderr)


def rates(told: str) -> dict[str, float]:
    """The last that each stage said of its speed."""
    found = {}
    for line in told.splitlines():
        if match := re.match(r"(\w+): (\d+) of (\d+), .*, (\d+) tokens/s$", line):
            found[match[1]] = float(match[4])
    return found


def longest_sum(config: dict, length: int) -> int:
    """Terms of all sums on the longest way through the model: layer by layer the projections, the softmax, the experts."""
    c = config
    layer = (2 * c["hidden_size"] + c["q_lora_rank"] + c["kv_lora_rank"] + c["qk_nope_head_dim"] + c["qk_rope_head_dim"] + 2 * length
             + c["num_attention_heads"] * c["v_head_dim"] + c["hidden_size"] + c["intermediate_size"])  # fmt: skip
    return c["num_hidden_layers"] * layer + c["hidden_size"] + c["vocab_size"]


def bound(recipe: dict) -> float:
    """First order: a sum of n terms in float32 is off by at most n 2^-24 of its terms' sizes; forward and back again."""
    return 2 * longest_sum(recipe["config"], recipe["length"]) * 2.0**-24


def right(what: str, ours: float, theirs: float, allowed: float) -> bool:
    off = abs(ours - theirs) / abs(theirs)
    if not off <= allowed:
        print(f"WRONG {what}: {ours} against {theirs}, off by {off:.1e}, allowed {allowed:.1e}")
        return False
    return True


START = {"name": "start", "kind": "dense", "steps": 1, "learning_rate": 0.0, "balance_speed": 0.0}
TEXTS = REPOSITORY / "recipes"


def gradients_agree(reference: Path, recipe: dict, home: Path) -> bool:
    stages = [START] + [{"name": f"{k}_one", "kind": k, "from": "start", "steps": 1, "learning_rate": 1.0} for k in KINDS]
    trained(reference, recipe, stages, 1, {"epsilon": 1.0, "weight_decay": 0.0, "clip": 1e30}, home / "one")
    weights = load_file(home / "one" / "start" / "model.safetensors")
    fine = True
    for kind in KINDS:
        trainer = Trainer(Model(weights, recipe["config"], torch.float64, recipe["length"]), kind)
        told = trainer.gradients(*next(batches(recipe, f"{kind}_one", TEXTS)))
        log = json.loads((home / "one" / f"{kind}_one" / "log.jsonl").read_text())
        for name, value in told.items():
            fine &= right(f"{kind}, {name}", log[name], value, bound(recipe))
        after = load_file(home / "one" / f"{kind}_one" / "model.safetensors")
        furthest, where = 0.0, ""
        for name, tensor in trainer.learning.items():
            moved = weights[name].double() - after[name].double()
            g = moved / (1.0 - moved.abs())
            there = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)  # an expert that nobody visits
            # Reading back: a weight is rounded to 2^-24 of itself, twice, and g = u / (1 - u) stretches that.
            blur = 2.0**-23 * torch.maximum(weights[name].abs(), after[name].abs()).double() * (1.0 + g.abs()) ** 2
            off, allowed = float((g - there).norm()), float(bound(recipe) * there.norm() + blur.norm())
            if not off <= allowed:
                fine = False
                print(f"WRONG {kind}, gradient of {name}: off by {off:.1e}, allowed {allowed:.1e}")
            share = off / max(float(there.norm()), 1e-30)
            if share > furthest:
                furthest, where = share, name
        moved = [n for n in weights if n not in trainer.learning and not n.endswith("correction_bias") and (weights[n] != after[n]).any()]
        if moved:
            fine = False
            print(f"WRONG {kind}: moved what does not learn: {moved}")
        print(f"{kind}: {len(trainer.learning)} gradients, the furthest off by {furthest:.1e} of its norm ({where})")
    return fine


def losses_agree(reference: Path, recipe: dict, home: Path, steps: int = 5) -> bool:
    stages = [START] + [{"name": k, "kind": k, "from": "start", "steps": steps, "learning_rate": RATE} for k in KINDS]
    trained(reference, recipe, stages, 1, {}, home / "few")
    weights = load_file(home / "few" / "start" / "model.safetensors")
    fine = True
    for kind in KINDS:
        log = [json.loads(line) for line in (home / "few" / kind / "log.jsonl").read_text().splitlines()]
        trainer = Trainer(Model(weights, recipe["config"], torch.float64, recipe["length"]), kind)
        source = batches(recipe, kind, TEXTS)
        furthest = 0.0
        for number in range(steps):
            for name, value in trainer.step(*next(source)).items():
                # Each step adds its own error to those before it.
                fine &= right(f"{kind}, step {number}, {name}", log[number][name], value, bound(recipe) * (number + 1))
                furthest = max(furthest, abs(log[number][name] / value - 1))
        print(f"{kind}: losses and norms of {steps} steps, the furthest off by {furthest:.1e}")
    print(f"bound {bound(recipe):.1e}, times the step's number")
    return fine


def time_both(reference: Path, recipe: dict, steps: int, threads: int, home: Path) -> None:
    torch.set_num_threads(threads)
    stages = [START] + [{"name": k, "kind": k, "from": "start", "steps": steps, "learning_rate": RATE} for k in KINDS]
    ours = trained(reference, recipe, stages, threads, {}, home / "timed")
    weights = load_file(home / "timed" / "start" / "model.safetensors")
    for kind in KINDS:
        trainer = Trainer(Model(weights, recipe["config"], torch.float32, recipe["length"]), kind)
        source = batches(recipe, kind, TEXTS)
        trainer.step(*next(source))
        began = time.perf_counter()
        for _ in range(steps):
            trainer.step(*next(source))
        theirs = steps * recipe["batch"] * recipe["length"] / (time.perf_counter() - began)
        print(f"{kind}: dsa-reference {ours[kind]:.0f} tokens/s, PyTorch {torch.__version__} {theirs:.0f}; {threads} threads", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, default=REPOSITORY / "build" / "dsa-reference")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="steps of each stage that are timed; 0: none")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = json.loads((REPOSITORY / "recipes" / "text.json").read_text())
    # Checked on few tokens: among many, two scores that differ by less than float32 can tell would fall either way.
    small = recipe | {"length": 96, "batch": 2, "config": recipe["config"] | {"index_topk": 8}}
    with tempfile.TemporaryDirectory() as folder:
        fine = gradients_agree(options.reference, small, Path(folder))
        fine &= losses_agree(options.reference, small, Path(folder))
        if options.steps:
            time_both(options.reference, recipe, options.steps, options.threads, Path(folder))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
