# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Teaching the indexer
#
# *Can one watch an indexer learn where attention looks?*
#
# [Chapter 13](../docs/13-teaching-the-indexer.md) tells how DeepSeek-V3.2 became sparse: a dense model first, then its indexer alone, then both under the
# indexer's selection. Here we do it, in half a minute, with a model of some 365 thousand weights; look at one query on the way; and take the loss's gradient
# apart by hand. Run `make reference` once before.

# %%
import json
import os
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

REPOSITORY = Path.cwd().resolve().parent if Path.cwd().name == "notebooks" else Path.cwd().resolve()
reference = Path(os.environ.get("TOUCHSTONE_REFERENCE", REPOSITORY / "build" / "dsa-reference"))
assert reference.is_file(), f"{reference} is not built yet: run `make reference` in {REPOSITORY}"

plt.rcParams.update({"figure.figsize": (10, 3.4), "axes.spines.top": False, "axes.spines.right": False, "font.size": 10})
folder = Path(tempfile.mkdtemp())
STAGES = ("dense", "warmup", "sparse")
COLOURS = dict(zip(STAGES, ("#888888", "#6ea3d8", "#e08214")))

# %% [markdown]
# ## The recipe
# That of `recipes/text_small.json`, cut down: sequences of 128 bytes, of which 16 are attended to, and fewer steps. The last tenth of each book is held out.

# %%
recipe = json.loads((REPOSITORY / "recipes" / "text_small.json").read_text())
recipe["task"]["files"] = [str(REPOSITORY / "recipes" / file) for file in recipe["task"]["files"]]
recipe |= {"length": 128, "held_out_sequences": 24, "measure_every": 5}
recipe["config"]["index_topk"] = k = 16
for stage, steps in zip(recipe["stages"], (200, 60, 30)):
    stage["steps"] = steps
(folder / "recipe.json").write_text(json.dumps(recipe))
ran = subprocess.run([reference, "train", folder / "recipe.json", "--out", folder], capture_output=True, text=True, check=True)
print(ran.stderr)
logs = {stage: [json.loads(line) for line in (folder / stage / "log.jsonl").read_text().splitlines()] for stage in STAGES}

# %% [markdown]
# ## What do the losses do?
# The main model learns while it is dense, is frozen while its indexer warms up, and learns on under the selection. From then on each token sees 16 others only, and the
# KL is over those; the loss hardly notices.

# %%
figure, axes = plt.subplots(1, 2)
first = 0
for stage in STAGES:
    steps = first + np.arange(len(logs[stage]))
    axes[0].plot(steps, [line["loss"] for line in logs[stage]], color=COLOURS[stage], lw=1, label=stage)
    if stage != "dense":
        axes[1].plot(steps, [line["kl"] for line in logs[stage]], color=COLOURS[stage], lw=1, label=stage)
        # What the same target would cost a predictor that knows nothing: KL / (1 - captured).
        axes[1].plot(steps, [line["kl"] / (1 - line["captured"]) for line in logs[stage]], color=COLOURS[stage], lw=1, ls=":")
    first += len(logs[stage])
axes[0].set(xlabel="step", ylabel="nats a byte", title="Language loss", ylim=(1.5, 4))
axes[1].set(xlabel="step", ylabel="nats a query", title="KL of the indexer (dotted: of a uniform guess)", ylim=(0, None))
axes[0].legend()
axes[1].legend()
plt.tight_layout()
plt.show()
assert logs["dense"][-1]["loss"] < logs["dense"][0]["loss"] - 2
assert logs["warmup"][-1]["kl"] < logs["warmup"][0]["kl"] / 2

# %% [markdown]
# ## How good is the indexer?
# *captured* says how much of the target's information the scores hold, *recall* how much of the dense attention's mass lies on the selected tokens. The second is measured
# every fifth step, and in the warm-up, where nothing is selected yet, only afterwards.

# %%
figure, axes = plt.subplots(1, 2)
for stage in ("warmup", "sparse"):
    axes[0].plot([line["captured"] for line in logs[stage]], color=COLOURS[stage], label=stage)
measured = [(line["step"], line["recall"]) for line in logs["sparse"] if "recall" in line]
axes[1].plot(*zip(*measured), "o-", color=COLOURS["sparse"], ms=3)
axes[0].set(xlabel="step of the stage", title="captured = 1 - KL / KL(target || uniform)", ylim=(-0.2, 1))
axes[1].set(xlabel="step of the sparse stage", title="recall in sparse training", ylim=(0, 1))
axes[0].legend()
plt.tight_layout()
plt.show()
assert logs["warmup"][0]["captured"] < 0.1 and logs["warmup"][-1]["captured"] > 0.5

# %% [markdown]
# ## What does one query see?
# A passage that was held out goes through the three sets of weights. `q` and `kv` give the dense attention of a query, `topk_indices` what its indexer selects. Before
# the warm-up the indexer is random; afterwards its choice should cover the peaks. (The warm-up leaves the main model as it is. Its attention here changes all the same, since
# the layer below selects, too, and hands other numbers up.)

# %%
config = recipe["config"]
tokens = np.frombuffer((REPOSITORY / "golden" / "trained" / "alice_in_wonderland.txt").read_bytes()[:128], np.uint8).astype(np.int32)
np.save(folder / "tokens.npy", tokens)
for stage in STAGES:
    subprocess.run([reference, "model", "--config", folder / stage / "config.json", "--weights", folder / stage / "model.safetensors", "--tokens",
                    folder / "tokens.npy", "--out", folder / stage / "shown", "--tier", "exact", "--trace", "all"], check=True)  # fmt: skip


def show(stage, layer, name):
    return np.load(folder / stage / "shown" / f"layer_{layer}.{name}.npy")[0]


scale = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5


def dense_mass(stage, layer, t):
    """The target of query t: the heads' probabilities over all tokens so far, summed and scaled to one. -> [t + 1]"""
    score = show(stage, layer, "q")[t] @ show(stage, layer, "kv")[: t + 1].T * scale  # [H, t + 1]
    p = np.exp(score - score.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True)).mean(0)


t, layer = 100, 1
moments = dict(zip(STAGES, ("before the warm-up", "after the warm-up", "after sparse training")))
figure, axes = plt.subplots(3, 1, figsize=(12, 6.6), sharex=True)
for ax, stage in zip(axes, STAGES):
    p, chosen = dense_mass(stage, layer, t), show(stage, layer, "topk_indices")[t]
    ax.bar(range(t + 1), p, 0.9, color="#cccccc", label="dense attention")
    ax.bar(chosen, p[chosen], 0.9, color=COLOURS[stage], label="... on selected tokens")
    ax.plot(chosen, np.full(len(chosen), -0.03 * p.max()), "^", color=COLOURS[stage], ms=5, clip_on=False)
    ax.set(ylabel="probability", title=f"{moments[stage]}: {p[chosen].sum():.0%} of the mass of query {t} in layer {layer} is selected")
    ax.legend(loc="upper left", fontsize=8)
axes[-1].set_xticks(range(t + 1), [chr(c) if c > 32 else "\u21b5" if c == 10 else "\u00b7" for c in tokens[: t + 1]], fontsize=7, family="monospace")
plt.tight_layout()
plt.show()

# %% [markdown]
# Every query, layer by layer: the share of the mass that is selected. The dashed line is what chance gives, `k / (t + 1)`.

# %%
figure, axes = plt.subplots(1, config["num_hidden_layers"], figsize=(12, 3.2), sharey=True)
recall = {}
for number, ax in enumerate(axes):
    for stage in STAGES:
        chosen = show(stage, number, "topk_indices")
        recall[stage, number] = [dense_mass(stage, number, i)[chosen[i][chosen[i] >= 0]].sum() for i in range(len(tokens))]
        ax.plot(recall[stage, number], color=COLOURS[stage], lw=1, label=moments[stage])
    ax.plot(np.minimum(1, k / (1 + np.arange(len(tokens)))), "k--", lw=0.8, label="chance")
    ax.set(xlabel="query", title=f"layer {number}", ylim=(0, 1.05))
axes[0].set_ylabel("recall")
figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8, bbox_to_anchor=(0.5, -0.06))
plt.tight_layout()
plt.show()
late = {stage: np.mean([recall[stage, number][64:] for number in range(config["num_hidden_layers"])]) for stage in STAGES}
print("recall of the queries from 64 on:", {stage: f"{mean:.2f}" for stage, mean in late.items()})
assert late["warmup"] > late["dense"] + 0.2

# %% [markdown]
# ## Is it better than something simple?
# `evaluation.json` has the held-out loss under several selections of k tokens: by lot, the last k, and the k on which *this* dense attention has most mass, which no
# indexer can know before it has looked.

# %%
rows = json.loads((folder / "evaluation.json").read_text())["rows"]
figure, axes = plt.subplots(1, 2, figsize=(12, 3.6), sharey=True)
names = [row["name"] for row in rows][::-1]
colours = [COLOURS["sparse"] if "after" in name else "#bbbbbb" for name in names]
bars = axes[0].barh(names, [row["loss"] for row in rows][::-1], color=colours, xerr=[row["loss_standard_error"] for row in rows][::-1])
axes[0].bar_label(bars, [f"{row['loss']:.2f}" for row in rows][::-1], padding=6, fontsize=8)
bars = axes[1].barh(names, [row["recall"] for row in rows][::-1], color=colours)
axes[1].bar_label(bars, [f"{row['recall']:.2f}" for row in rows][::-1], padding=3, fontsize=8)
axes[0].set(xlabel="nats a byte, held out", xlim=(1.5, None))
axes[1].set(xlabel="recall of dense attention's mass")
plt.tight_layout()
plt.show()
result = {row["name"]: row for row in rows}
assert result["random k"]["recall"] < result["sparse, after warm-up"]["recall"] <= result["best k of dense"]["recall"]
assert result["sparse, no training"]["loss"] > result["sparse, after warm-up"]["loss"]

# %% [markdown]
# The window is hard to beat here: a byte depends on its word above all. Where what matters lies far away, it fails (`"kind": "recall"` in a recipe's task makes such
# sequences). And the comparison of the last two bars is not quite fair: the last model has seen more text.
#
# ## The gradient, by hand
# `L = sum_t KL(p_t || softmax(I_t))` with `I(t, s) = sum_j w(t, j) ReLU(q(t, j) . k(s))`. Then `dL/dI = softmax(I) - p`, and the rest is the chain rule. We take the
# indexer in the middle of its life, four queries of it, and ask `dsa-reference op indexer_kl_loss` for the same.

# %%
queries = np.arange(len(tokens) - 4, len(tokens))  # the last four: their candidates are all tokens up to themselves
q, w = show("dense", layer, "indexer_q")[queries], show("dense", layer, "indexer_weights")[queries]  # [T, H_I, D_I], [T, H_I]
keys = show("dense", layer, "indexer_k")  # [S, D_I]
p = np.zeros((len(queries), len(tokens)))  # [T, S]
for row, i in enumerate(queries):
    p[row, : i + 1] = dense_mass("dense", layer, i)
causal = np.arange(len(tokens)) <= queries[:, None]

dots = np.einsum("tjd,sd->tjs", q, keys)
I = np.where(causal, np.einsum("tj,tjs->ts", w, np.maximum(dots, 0)), -np.inf)
softmax = np.exp(I - I.max(-1, keepdims=True))
softmax /= softmax.sum(-1, keepdims=True)
loss = np.sum(p[causal] * np.log(p[causal] / softmax[causal]))
dI = softmax - p  # [T, S], 0 outside the causal part
through_relu = dI[:, None, :] * w[:, :, None] * (dots > 0)  # dL / d(q_j . k_s), [T, H_I, S]
mine = {
    "loss": np.array([loss]),
    "dq": np.einsum("tjs,sd->tjd", through_relu, keys),
    "dk": np.einsum("tjs,tjd->sd", through_relu, q),
    "dweights": np.einsum("ts,tjs->tj", dI, np.maximum(dots, 0)),
}

question, answer = folder / "question", folder / "answer"
question.mkdir()
arrays = {"q": q, "k": keys, "weights": w, "p": p}
for name, array in arrays.items():
    np.save(question / f"{name}.npy", array)
case = {"version": 1, "op": "indexer_kl_loss", "tier": "exact", "conventions": "deepseek-v3.2-exp",
        "tensors": {name: {"dtype": "float64", "shape": list(array.shape)} for name, array in arrays.items()}}  # fmt: skip
(question / "case.json").write_text(json.dumps(case))
subprocess.run([reference, "op", "indexer_kl_loss", question, answer], check=True)
for name, array in mine.items():
    theirs = np.load(answer / f"{name}.npy")
    error = np.abs(array - theirs).max() / np.abs(theirs).max()
    print(f"{name:9s} largest difference / largest number: {error:.1e}")
    assert error <= 4096 * 2.0**-53  # sums of up to 128 terms in another order, behind an exp of scores below 32

figure, axes = plt.subplots(2, 1, figsize=(12, 4.6), sharex=True)
axes[0].plot(p[0], color="k", lw=1, label="target p")
axes[0].plot(softmax[0], color=COLOURS["warmup"], lw=1, label="softmax(I)")
axes[0].set(ylabel="probability", title=f"Query {queries[0]}, before the warm-up")
axes[0].legend()
axes[1].bar(range(len(tokens)), -dI[0], 0.9, color=np.where(dI[0] < 0, COLOURS["sparse"], "#bbbbbb"))
axes[1].set(xlabel="position s", ylabel="-dL/dI", title="Where descent moves the scores: up where attention looks and the indexer does not")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Exercises
# 1. Set `k` to 4. Which of the bars move: the random, the window's or the indexer's? Why does the last lose least?
# 2. Leave the warm-up out: let the sparse stage begin `"from": "dense"`. Does it recover in 30 steps? In 300?
# 3. Give the stage `sparse` the entry `"leak_into_the_main_model": true`. What do `kl` and `loss` do, and which of the two is fooled?
# 4. In the gradient, find the heads with `dots > 0` nowhere for a query. What will ever move their `q`?
# 5. `conventions: {"sparse_kl_target": "renormalised"}` in the sparse stage: is the difference larger than between two seeds?
# 6. Make `"task"` a `"recall"` one (chapter 13) with sequences of 128. Where does the window end up now?
