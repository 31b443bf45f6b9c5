#!/usr/bin/env python3
"""How do trained weights differ from random ones? The table and the picture of docs/15-trained-weights.md.

    build/venv/bin/python tools/trained_against_random.py            # the table
    build/venv/bin/python tools/trained_against_random.py --picture  # and docs/pictures/trained_weights.png
    build/venv/bin/python tools/trained_against_random.py --greedy   # do both tiers of the trained model go on alike?

Both models have golden/trained/config.json's sizes and read the same two held-out passages; the random one is
`dsa-reference init` with three seeds. A number is the mean over passages, layers and (random) seeds; where a row says
"largest", the largest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file
from touchstone import fill, make, text
from touchstone.choices import must_and_must_not
from touchstone.verdict import Golden

REPOSITORY = Path(__file__).resolve().parents[1]
READINGS = (text.ALICE, text.PARADISE)
SEEDS = (1, 2, 3)
LATE = 128  # queries from here on have at least four times as many candidates as they may select


@dataclass
class Layer:
    """One layer of one model over one passage."""

    exact: dict  # stage -> [T, ...], float64
    deployed: dict
    golden: Golden  # the op dsa_attention on this layer's input: its bounds
    mass: np.ndarray  # [H, T, T], dense attention
    line_ends: np.ndarray  # [T], bool
    facts: dict = field(default_factory=dict)  # row of the table -> number


def in_dir_of_attention(weights: dict, layer: int, config: dict, x: np.ndarray, folder: Path) -> None:
    """A case of dsa_attention: a layer's weights, and the x that it met. x: [T, D], bf16 numbers"""
    c, prefix = config, f"model.layers.{layer}.self_attn."
    H, nope, rope, v, R_q, R_kv = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                                                  "q_lora_rank", "kv_lora_rank"))  # fmt: skip
    w = lambda name: weights[prefix + name + ".weight"].astype(np.float32)  # noqa: E731
    up = w("kv_b_proj").T.reshape(R_kv, H, nope + v)
    bf16 = {
        "x": x, "W_dq": w("q_a_proj").T, "W_uq": w("q_b_proj").T.reshape(R_q, H, nope + rope), "W_dkv": w("kv_a_proj_with_mqa").T,
        "W_uk": up[..., :nope], "W_uv": up[..., nope:], "W_o": w("o_proj").T.reshape(H, v, -1),
        "W_qI": w("indexer.wq_b").T.reshape(R_q, c["index_n_heads"], c["index_head_dim"]), "W_kI": w("indexer.wk").T,
        "W_w": w("indexer.weights_proj").T,
    }  # fmt: skip
    float32 = {"q_norm": w("q_a_layernorm"), "kv_norm": w("kv_a_layernorm"), "k_norm": w("indexer.k_norm"),
               "k_bias": weights[prefix + "indexer.k_norm.bias"].astype(np.float32)}  # fmt: skip
    arrays = {n: (a.astype(ml_dtypes.bfloat16).view(np.uint16), "bfloat16") for n, a in bf16.items()}
    arrays |= {n: (a, "float32") for n, a in float32.items()} | {"positions": (np.arange(len(x), dtype=np.int32), "int32")}
    folder.mkdir(parents=True)
    for name, (array, _) in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array))
    parameters = {"topk": c["index_topk"], "scale": (nope + rope) ** -0.5, "rope": {"max_context": 4096}}
    tensors = {name: {"dtype": dtype, "shape": list(array.shape)} for name, (array, dtype) in arrays.items()}
    case = {"version": 1, "name": "dsa_attention/measured", "op": "dsa_attention", "conventions": "deepseek-v3.2-exp",
            "parameters": parameters, "tensors": tensors}  # fmt: skip
    (folder / "case.json").write_text(json.dumps(case))


def layers_of(program: Path, weights: Path, reading: text.Reading, scratch: Path) -> list[Layer]:
    """Runs the model in both tiers, and each layer's attention once more for its bounds."""
    config = json.loads(reading.config.read_text())
    np.save(scratch / "tokens.npy", reading.tokens())
    for tier in ("exact", "deployed"):
        subprocess.run([program, "model", "--config", reading.config, "--weights", weights, "--tokens", scratch / "tokens.npy",
                        "--out", scratch / tier, "--tier", tier, "--trace", "all"], check=True)  # fmt: skip
    found = []
    for number in range(config["num_hidden_layers"]):
        stages = {tier: {p.name.split(".")[1]: np.load(p)[0] for p in (scratch / tier).glob(f"layer_{number}.*.npy")}
                  for tier in ("exact", "deployed")}  # fmt: skip
        question, answer = scratch / f"question_{number}", scratch / f"answer_{number}"
        in_dir_of_attention(load_file(weights), number, config, stages["deployed"]["attention_input"], question)
        subprocess.run([program, "golden", question, answer], check=True)
        q, kv = stages["exact"]["q"], stages["exact"]["kv"]
        score = np.einsum("thd,sd->hts", q, kv) * (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5
        score = np.where(np.tri(len(q), dtype=bool), score, -np.inf)
        mass = np.exp(score - score.max(-1, keepdims=True))
        found.append(Layer(stages["exact"], stages["deployed"], Golden(answer), mass / mass.sum(-1, keepdims=True), reading.tokens() == ord("\n")))
    return found


# What is measured of a layer


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def hadamard(x: np.ndarray) -> np.ndarray:
    """Orthonormal, natural order, over the last axis: its own inverse."""
    n = x.shape[-1]
    signs = [[(-1) ** bin(i & j).count("1") for j in range(n)] for i in range(n)]
    return x @ np.array(signs) / np.sqrt(n)


def quantised(x: np.ndarray) -> np.ndarray:
    """Through e4m3 and back, one ue8m0 scale a vector, as the indexer stores its queries and keys."""
    q, scale = fill.quantize(x.astype(np.float32), "deepseek", "ue8m0")
    return q.view(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale[..., None]


def tails(layer: Layer) -> None:
    for stage in ("attention_input", "q", "c_kv", "indexer_q", "indexer_k", "ffn_y", "after_ffn"):
        x = layer.exact[stage]
        layer.facts[f"`{stage}`: largest / rms"] = np.abs(x).max() / rms(x)
        layer.facts[f"`{stage}`: kurtosis"] = np.mean((x - x.mean()) ** 4) / np.var(x) ** 2
    columns = np.sqrt(np.mean(np.square(layer.exact["after_ffn"]), 0))
    layer.facts["`after_ffn`: largest column / median column"] = columns.max() / np.median(columns)


def scores(layer: Layer) -> None:
    logits, T = layer.deployed["indexer_logits"], len(layer.deployed["indexer_logits"])
    k = layer.deployed["topk_indices"].shape[-1]
    layer.facts["scores that are exactly 0, %"] = 100 * np.mean(logits[np.tri(T, dtype=bool)] == 0)
    ranked = -np.sort(-logits[LATE:], -1)
    layer.facts["queries with a tie at the k-th place, %"] = 100 * np.mean(ranked[:, k - 1] == ranked[:, k])
    layer.facts["queries whose k-th and next score are both 0, %"] = 100 * np.mean((ranked[:, k - 1] == 0) & (ranked[:, k] == 0))
    values, bounds = layer.golden.deployed("indexer_logits"), layer.golden.stored("deployed_bound", "indexer_logits").astype(np.float64)
    may = 0
    for t in range(LATE, T):
        must, must_not = must_and_must_not(values[t, : t + 1], bounds[t, : t + 1], k)
        may += (~must & ~must_not).sum()
    layer.facts["positions that are *may*, a query"] = may / (T - LATE)
    both = [np.intersect1d(layer.exact["topk_indices"][t], layer.deployed["topk_indices"][t]).size / k for t in range(LATE, T)]
    layer.facts["selected alike in both tiers, end to end, %"] = 100 * np.mean(both)


def attention(layer: Layer) -> None:
    late = layer.mass[:, LATE:]  # [H, queries, T]
    T, k = late.shape[-1], layer.exact["topk_indices"].shape[-1]
    entropy = -np.sum(late * np.log(np.maximum(late, 1e-300)), -1)
    layer.facts["tokens that a head looks at, exp(entropy)"] = np.exp(entropy).mean()
    layer.facts["mass on position 0, %"] = 100 * late[..., 0].mean()
    layer.facts["mass on the best-loved position, best head, %"] = 100 * late.mean(1).max()
    layer.facts["mass on line ends, 2 to 3 % of the bytes, best head, %"] = 100 * late[..., layer.line_ends].sum(-1).mean(1).max()
    recent = [late[:, i, t - 15 : t + 1].sum(-1).mean() for i, t in enumerate(range(LATE, T))]
    layer.facts["mass on the last 16 tokens, %"] = 100 * np.mean(recent)
    best = -np.sort(-late.mean(0), -1)[:, :k]
    layer.facts["mass on the k best tokens, %"] = 100 * best.sum(-1).mean()
    chosen = layer.exact["topk_indices"]
    layer.facts["mass on the selected k (recall), %"] = 100 * np.mean([late[:, i, chosen[t]].sum(-1).mean() for i, t in enumerate(range(LATE, T))])


def quantisation(layer: Layer) -> None:
    q, k, w = (layer.exact[f"indexer_{part}"] for part in ("q", "k", "weights"))
    causal = np.tri(len(q), dtype=bool)

    def logits(q, k):
        return np.einsum("tj,tjs->ts", w, np.maximum(np.einsum("tjd,sd->tjs", q, k), 0))[causal]

    right = logits(q, k)
    for word, turn in (("with", lambda x: x), ("without", hadamard)):
        turned_q, turned_k = turn(q), turn(k)
        layer.facts[f"error of e4m3 queries {word} Hadamard, % of rms"] = 100 * rms(quantised(turned_q) - turned_q) / rms(q)
        layer.facts[f"error of scores {word} Hadamard, % of rms"] = 100 * rms(logits(quantised(turned_q), quantised(turned_k)) - right) / rms(right)


def bounds(layer: Layer) -> None:
    for stage in ("c_kv", "q", "indexer_logits", "attention_out"):
        entry = layer.golden.meta["tensors"][stage]
        layer.facts[f"`{stage}`: bound / rms, %"] = 100 * entry["bound_rms"] / entry["value_rms"]
        layer.facts[f"`{stage}`: worst error / bound"] = entry["worst_ratio"]


def measured(layers: list[Layer]) -> dict[str, float]:
    """Row of the table -> number."""
    for layer in layers:
        for measure in (tails, scores, attention, quantisation, bounds):
            measure(layer)
    rows = {}
    for name in layers[0].facts:
        values = [layer.facts[name] for layer in layers]
        rows[name] = float(np.max(values) if any(word in name for word in ("largest", "worst", "best head")) else np.mean(values))
    return rows


def written(number: float) -> str:
    return f"{number:.3g}"


def table(trained: dict, random: dict) -> str:
    lines = ["| | trained | random |", "|---|---|---|"]
    lines += [f"| {name} | {written(trained[name])} | {written(random[name])} |" for name in trained]
    return "\n".join(lines)


def models(program: Path, scratch: Path) -> tuple[list[list[Layer]], list[list[Layer]]]:
    """(trained, random): the layers of each run, one run a passage (and seed)."""
    trained, random = [], []
    for reading in READINGS:
        runs = [("trained", reading.weights)]
        for seed in SEEDS:
            runs.append((f"random_{seed}", scratch / f"random_{seed}.safetensors"))
            if not runs[-1][1].exists():
                subprocess.run([program, "init", "--config", reading.config, "--seed", str(seed), "--out", runs[-1][1]], check=True)
        for name, weights in runs:
            folder = scratch / name / reading.text.stem
            folder.mkdir(parents=True)
            (trained if name == "trained" else random).append(layers_of(program, weights, reading, folder))
    return trained, random


def greedy(program: Path, scratch: Path, passages: int = 50, decoded: int = 24) -> str:
    """How often both tiers of the trained model go on with the same tokens, over passages of both held-out tenths."""
    tokens = []
    for reading in READINGS:
        book = (REPOSITORY / "recipes" / "text" / reading.text.name).read_bytes()
        first = int(0.9 * len(book))
        starts = np.linspace(first + 1, len(book) - reading.length, passages).astype(int)
        tokens += [np.frombuffer(book[s : s + reading.length], np.uint8).astype(np.int32) for s in starts]
    np.save(scratch / "passages.npy", np.stack(tokens))
    shown = {}
    for tier in ("exact", "deployed"):
        subprocess.run([program, "model", "--config", text.ALICE.config, "--weights", text.ALICE.weights, "--tokens", scratch / "passages.npy",
                        "--out", scratch / tier, "--tier", tier, "--decode", str(decoded)], check=True)  # fmt: skip
        shown[tier] = {name: np.load(scratch / tier / f"{name}.npy") for name in ("decode_tokens", "decode_logits", "logits")}
    exact, deployed = shown["exact"], shown["deployed"]
    differs = exact["decode_tokens"] != deployed["decode_tokens"]  # [passages, decoded]
    parted = differs.any(1)
    margins = []  # of the exact tier, at the first token that differs
    for logits, row in zip(exact["decode_logits"][parted], differs[parted]):
        best = np.sort(logits[row.argmax()])
        margins.append(best[-1] - best[-2])
    error = np.abs(exact["logits"] - deployed["logits"]).max(-1).reshape(-1)
    return (f"{(~parted).sum()} of {len(parted)} passages go on with the same {decoded} tokens in both tiers. Where they part, the best two logits lie at most "
            f"{max(margins, default=0):.2f} apart (median {np.median(margins):.2f}). The largest error of a token's logits is {np.median(error):.2f} in the median, "
            f"{np.quantile(error, 0.99):.2f} at the 99th percentile.")  # fmt: skip


def draw(trained: list[list[Layer]], random: list[list[Layer]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 110})
    figure, ((tail, distance, sink), (rank, error, none)) = plt.subplots(2, 3, figsize=(15, 8))
    colours = {"trained": ["#f6c177", "#e08214", "#7f3b08"], "random": ["#bbbbbb", "#888888", "#555555"]}
    for kind, runs in (("trained", trained), ("random", random)):
        for number, colour in enumerate(colours[kind]):
            layers = [run[number] for run in runs]
            label = f"{kind}, layer {number}"
            x = np.abs(np.concatenate([layer.exact["ffn_y"].reshape(-1) / rms(layer.exact["ffn_y"]) for layer in layers]))
            tail.semilogy(np.sort(x), 1 - np.arange(len(x)) / len(x), color=colour, lw=1.3, label=label)
            back = np.arange(0, 128)
            by_distance = np.mean([layer.mass[:, np.arange(LATE, 256)[:, None], np.arange(LATE, 256)[:, None] - back].mean((0, 1)) for layer in layers], 0)
            distance.loglog(back + 1, by_distance, color=colour, lw=1.3, label=label)
            ranked = np.mean([-np.sort(-layer.deployed["indexer_logits"][255]) / layer.deployed["indexer_logits"][255].std() for layer in layers], 0)
            rank.plot(np.arange(1, 257), ranked, color=colour, lw=1.3, label=label)
    z = np.linspace(0, 5, 200)
    tail.semilogy(z, [np.mean(np.abs(np.random.default_rng(0).normal(size=200_000)) >= v) for v in z], "k:", lw=1, label="bell")
    tail.set(xlabel="|x| / rms", ylabel="share of numbers beyond", title="What the feed-forward adds: trained layers have outliers", ylim=(2e-5, 1.5))
    distance.set(xlabel="distance of the token, 1: the query itself", ylabel="attention mass", title="Where dense attention looks")
    rank.axvline(32, color="k", lw=0.8)
    rank.text(35, rank.get_ylim()[1] * 0.9, "k = 32", va="top")
    rank.set(xlabel="rank of the token", ylabel="indexer's score / deviation", title="Scores of the last query, best first")
    rank.legend(fontsize=8, ncols=2)
    place = np.arange(3)
    for i, (kind, runs) in enumerate((("trained", trained), ("random", random))):
        for j, word in enumerate(("with", "without")):
            heights = [np.mean([run[n].facts[f"error of scores {word} Hadamard, % of rms"] for run in runs]) for n in place]
            error.bar(place + (2 * i + j - 1.5) * 0.2, heights, 0.19, color=colours[kind][1], alpha=1 if j == 0 else 0.45, label=f"{kind}, {word} Hadamard")
    error.set_xticks(place, [f"layer {n}" for n in place])
    error.set(ylabel="error of scores, % of rms", title="What e4m3 costs the scores")
    error.set_ylim(0, 1.25 * error.get_ylim()[1])
    error.legend(fontsize=8, ncols=2)
    tail.legend(fontsize=8)
    for axes, kind, runs in ((sink, "trained", trained), (none, "random", random)):
        run = runs[-1]  # over Paradise Lost, whose lines are short
        number, head = max(((n, h) for n in range(3) for h in range(4)), key=lambda at: run[at[0]].mass[at[1], LATE:, run[0].line_ends].sum())
        image = axes.imshow(run[number].mass[head] ** 0.5, cmap="magma", vmin=0, vmax=0.8)
        axes.set(xlabel="position", ylabel="query", title=f"{kind}, layer {number}, head {head}: root of the mass; line ends above")
        ends = np.flatnonzero(run[0].line_ends)
        axes.plot(ends, np.full(len(ends), -7), "v", color="k", ms=4, clip_on=False)
        axes.title.set_y(1.04)
        figure.colorbar(image, shrink=0.8)
    figure.tight_layout()
    figure.savefig(path)
    print(f"{path} is drawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", action="store_true", help="draw docs/pictures/trained_weights.png too")
    parser.add_argument("--greedy", action="store_true", help="compare greedy decoding in both tiers instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.greedy:
            print(greedy(make.reference_program(), Path(scratch)))
            return
        trained, random = models(make.reference_program(), Path(scratch))
        print(table(measured(sum(trained, [])), measured(sum(random, []))))
        if given.picture:
            draw(trained, random, REPOSITORY / "docs" / "pictures" / "trained_weights.png")


if __name__ == "__main__":
    main()
