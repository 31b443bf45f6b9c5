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
# # A sentence through every stage
#
# *What happens to a sentence inside DeepSeek-V3.2, stage by stage?*
#
# A small model of V3.2's shape (four layers, some three million random weights) reads a passage of Shakespeare as bytes.
# The reference runs it and shows every stage under the names of the book's picture. Here we look at the tensors, recompute the interesting
# ones in NumPy, and check with assertions that the two agree. Run `make golden` or `make reference` once before.

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

plt.rcParams.update({"figure.figsize": (10, 3.6), "axes.spines.top": False, "axes.spines.right": False, "font.size": 10})

folder = Path(tempfile.mkdtemp())
config_file = REPOSITORY / "golden" / "text" / "config.json"
config = json.loads(config_file.read_text())
text = (REPOSITORY / "golden" / "text" / "as_you_like_it.txt").read_bytes()[:384]
tokens = np.frombuffer(text, np.uint8).astype(np.int32)  # [T]
np.save(folder / "tokens.npy", tokens)


def run(*arguments):
    subprocess.run([reference, *map(str, arguments)], check=True)


run("init", "--config", config_file, "--seed", 7, "--out", folder / "model.safetensors")
for tier in ("exact", "deployed"):
    run("model", "--config", config_file, "--weights", folder / "model.safetensors", "--tokens", folder / "tokens.npy",
        "--out", folder / tier, "--tier", tier, "--trace", "all", "--decode", 24)  # fmt: skip


def show(name, tier="exact"):
    """A stage of our one sequence."""
    return np.load(folder / tier / f"{name}.npy")[0]


T, layer = len(tokens), "layer_1"
topk = config["index_topk"]
print(text[:120].decode())

# %% [markdown]
# ## How does a token enter?
# Its embedding is looked up, and RMSNorm brings it to size 1 before every block. The residual stream grows from layer to layer; what the blocks see does not.

# %%
hidden = [show(f"hidden_{i}") for i in range(config["num_hidden_layers"] + 1)]  # each [T, D]
normed = show(f"{layer}.attention_input")  # [T, D]
rms = lambda x: np.sqrt((x**2).mean(-1))
figure, axes = plt.subplots()
for i, h in enumerate(hidden):
    axes.plot(rms(h), label="embedding" if i == 0 else f"after layer {i - 1}", lw=1)
axes.plot(rms(normed), "k", lw=1.4, label=f"{layer}.attention_input")
axes.set(xlabel="token t", ylabel="root mean square over D", title="The residual stream, and what a block sees of it")
axes.legend(ncols=3, fontsize=8)
plt.show()
assert np.array_equal(hidden[0], show("embedding"))

# %% [markdown]
# ## How small is the cache?
# MLA keeps `c_kv` and `k_rope` for each token, not keys and values for each head. (V3.2's own sizes on the right.)

# %%
H = config["num_attention_heads"]
per_head = config["qk_nope_head_dim"] + config["qk_rope_head_dim"] + config["v_head_dim"]
c_kv, k_rope = show(f"{layer}.c_kv"), show(f"{layer}.k_rope")  # [T, R_kv], [T, d_rope]
here = {"keys and values\nof every head": 2 * H * per_head, "MLA's latent\nand k_rope": 2 * (c_kv.shape[1] + k_rope.shape[1])}
v32 = {"keys and values\nof every head": 2 * 128 * (128 + 64 + 128), "MLA's latent\nand k_rope": 2 * 576, "the same,\nFP8 cache": 656}
figure, axes = plt.subplots(1, 2)
for ax, sizes, name in zip(axes, (here, v32), ("this model", "DeepSeek-V3.2")):
    bars = ax.bar(list(sizes), list(sizes.values()), color=["#b8b8b8", "#6ea3d8", "#f0a860"][: len(sizes)])
    ax.bar_label(bars, [f"{v:,}" for v in sizes.values()])
    ax.set(ylabel="bytes a token and layer", title=name)
    ax.tick_params(axis="x", labelsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## How does a token know its place?
# Pairs of numbers turn by an angle that grows with the position. YaRN leaves fast pairs alone and slows the slow ones, here by a factor of 40.

# %%
d_rope = config["qk_rope_head_dim"]
pair = np.arange(d_rope // 2)
plain = config["rope_theta"] ** (-2.0 * pair / d_rope)
yarn = config["rope_scaling"]
correction = lambda r: d_rope * np.log(yarn["original_max_position_embeddings"] / (2 * np.pi * r)) / (2 * np.log(config["rope_theta"]))
low, high = max(np.floor(correction(yarn["beta_fast"])), 0), min(np.ceil(correction(yarn["beta_slow"])), d_rope - 1)
ramp = np.clip((pair - low) / (high - low), 0, 1)
slowed = plain / yarn["factor"] * ramp + plain * (1 - ramp)
figure, axes = plt.subplots(1, 2)
axes[0].semilogy(pair, plain, "o--", label="plain RoPE", ms=4)
axes[0].semilogy(pair, slowed, "o-", label="with YaRN", ms=4)
axes[0].set(xlabel="pair i", ylabel="radians a position", title="Frequencies")
axes[0].legend()
image = axes[1].imshow(np.cos(np.arange(T)[:, None] * slowed), aspect="auto", cmap="RdBu", vmin=-1, vmax=1)
axes[1].set(xlabel="pair i", ylabel="position", title="cos(angle)")
figure.colorbar(image)
plt.tight_layout()
plt.show()

# Turning k_rope back by the angles must give vectors of the same length: RoPE only rotates.
pairs = k_rope.reshape(T, -1, 2)  # MLA's pairs are neighbours
back = np.stack([pairs[..., 0] * np.cos(a := np.arange(T)[:, None] * slowed) + pairs[..., 1] * np.sin(a),
                 pairs[..., 1] * np.cos(a) - pairs[..., 0] * np.sin(a)], -1)  # fmt: skip
assert np.abs(np.linalg.norm(back, axis=-1) - np.linalg.norm(pairs, axis=-1)).max() <= 16 * 2.0**-53 * np.abs(pairs).max() * 4

# %% [markdown]
# ## What does the indexer compare?
# Its queries and keys are 8-bit numbers with one scale a vector. Exact and deployed differ by the rounding, at most 2^-4 of each number or half a smallest step.

# %%
q_exact, q8, q_scale = show(f"{layer}.indexer_q"), show(f"{layer}.indexer_q", "deployed"), show(f"{layer}.indexer_q_scale", "deployed")
t = 300
figure, axes = plt.subplots(1, 2)
axes[0].bar(range(q8.shape[2]), q8[t, 0], color="#f0a860")
axes[0].set(xlabel="coordinate", ylabel="e4m3 value", title=f"indexer_q of token {t}, head 0; scale {q_scale[t, 0]:.2g}")
levels, counts = np.unique(np.abs(q8), return_counts=True)
axes[1].bar(np.arange(len(levels)), counts, width=1.0, color="#f0a860")
ticks = np.linspace(0, len(levels) - 1, 8).astype(int)
axes[1].set_xticks(ticks, [f"{levels[i]:g}" for i in ticks], rotation=30, fontsize=8)
axes[1].set(xlabel="magnitude (each bar one e4m3 number)", ylabel="how often", title=f"{len(levels)} magnitudes hold every query")
plt.tight_layout()
plt.show()
assert np.abs(q8).max() <= 448
assert np.array_equal(np.log2(q_scale), np.round(np.log2(q_scale)))  # ue8m0: powers of two

# %% [markdown]
# ## Which tokens does it prefer?
# `logits[t, s] = k_scale[s] * sum_j weights[t, j] * ReLU(q[t, j] . k[s])`. We recompute them from the deployed bytes and compare.

# %%
k8, k_scale = show(f"{layer}.indexer_k", "deployed"), show(f"{layer}.indexer_k_scale", "deployed")
w = show(f"{layer}.indexer_weights", "deployed")
logits = show(f"{layer}.indexer_logits", "deployed")  # [T, S], -inf where s > t
dots = np.einsum("tjd,sd->tjs", q8.astype(np.float64), k8.astype(np.float64))
mine = np.einsum("tj,tjs->ts", w.astype(np.float64), np.maximum(dots, 0)) * k_scale
causal = np.tril(np.ones((T, T), bool))
# Float32 sums of n terms err by at most n 2^-24 times the sum of magnitudes: D_I products, H_I heads, one scale.
size = np.einsum("tj,tjs->ts", np.abs(w).astype(np.float64), np.einsum("tjd,sd->tjs", np.abs(q8).astype(np.float64), np.abs(k8).astype(np.float64))) * k_scale
bound = (q8.shape[2] + q8.shape[1] + 2) * 2.0**-24 * size
assert np.all((np.abs(mine - logits) <= bound)[causal]) and np.isneginf(logits[~causal]).all()

figure, axes = plt.subplots(figsize=(7, 5.4))
image = axes.imshow(np.where(causal, logits, np.nan), cmap="viridis", aspect="auto")
axes.set(xlabel="position s", ylabel="query t", title=f"{layer}.indexer_logits: the causal edge is the diagonal")
figure.colorbar(image, label="score")
plt.show()

# %% [markdown]
# ## Which head votes for what?
# ReLU silences a head whose dot is negative; a negative weight turns its vote around.

# %%
votes = w[t][:, None] * np.maximum(dots[t], 0) * k_scale  # [H_I, S]
figure, axes = plt.subplots()
bottom_up, bottom_down = np.zeros(t + 1), np.zeros(t + 1)
for j in range(len(votes)):
    v = votes[j, : t + 1]
    axes.bar(range(t + 1), np.maximum(v, 0), 1.0, bottom_up, label=f"head {j}, weight {w[t, j]:+.2g}", color=f"C{j}")
    axes.bar(range(t + 1), np.minimum(v, 0), 1.0, bottom_down, color=f"C{j}")
    bottom_up += np.maximum(v, 0)
    bottom_down += np.minimum(v, 0)
axes.plot(range(t + 1), votes[:, : t + 1].sum(0), "k.", ms=2, label="score")
axes.set(xlabel="position s", ylabel="vote", title=f"Votes for query {t}, head by head")
axes.legend(fontsize=8, ncols=3)
plt.show()

# %% [markdown]
# ## Which tokens are selected?
# The `k` best, ties to the lower position. We sort by hand and compare, then light the selected characters.

# %%
indices = show(f"{layer}.topk_indices", "deployed")  # [T, k], ascending, -1 at the end
for q in range(T):
    order = np.lexsort((np.arange(q + 1), -logits[q, : q + 1]))[:topk]
    assert np.array_equal(np.sort(order), indices[q][indices[q] >= 0])

columns, queries = 128, (150, 300, 383)
figure, axes = plt.subplots(len(queries), 1, figsize=(14, 5.2))
for ax, q in zip(axes, queries):
    chosen = set(indices[q])
    for s in range(T):
        x, y = s % columns, -(s // columns)
        if s in chosen:
            ax.add_patch(plt.Rectangle((x - 0.5, y - 0.45), 1, 0.9, color="#ffd27f"))
        ax.text(x, y, chr(tokens[s]) if tokens[s] >= 32 else "\u21b5", ha="center", va="center", family="monospace", fontsize=8,
                color="red" if s == q else "black" if s < q else "#bbbbbb")  # fmt: skip
    ax.set(xlim=(-1, columns), ylim=(-(T // columns), 1), title=f"query {q} (red): its {len(chosen - {-1})} tokens")
    ax.axis("off")
plt.tight_layout()
plt.show()

# %%
figure, axes = plt.subplots()
scores = logits[t, : t + 1]
threshold = scores[indices[t]].min()
axes.hist([scores[scores < threshold], scores[scores >= threshold]], bins=60, stacked=True, label=["left out", "selected"], color=["#b8b8b8", "#f0a860"])
axes.axvline(threshold, color="k", lw=1)
axes.set(xlabel="score", ylabel="positions", title=f"Scores of query {t}: {np.sum(scores == 0)} of {t + 1} are exactly 0, the line is the {topk}th best")
axes.legend()
plt.show()

# %% [markdown]
# ## How does attention use them?
# The absorbed query meets the selected latents only. We recompute one query from the traced `q`, `kv` and `topk_indices`.

# %%
q, kv = show(f"{layer}.q"), show(f"{layer}.kv")  # [T, H, R_kv + d_rope], [T, R_kv + d_rope]
chosen = show(f"{layer}.topk_indices")
R_kv = config["kv_lora_rank"]
m = 0.1 * yarn["mscale_all_dim"] * np.log(yarn["factor"]) + 1
scale = m * m / np.sqrt(config["qk_nope_head_dim"] + config["qk_rope_head_dim"])


def attention(q_t, rows):
    s = q_t @ rows.T * scale  # [H, n]
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p, p @ rows[:, :R_kv]


selected = chosen[t][chosen[t] >= 0]
p, out = attention(q[t], kv[selected])
difference = np.abs(out - show(f"{layer}.attention_out")[t]).max()
# Float64: sums of 160 and 64 terms, exp of scores up to their largest; all below 4096 units of 2^-53.
assert difference <= 4096 * 2.0**-53 * max(1, np.abs(q[t] @ kv.T * scale).max()) * np.abs(kv).max(), difference
dense, _ = attention(q[t], kv[: t + 1])
recall = dense[:, selected].sum(-1)

figure, axes = plt.subplots(2, 1, figsize=(10, 4.6), sharex=True)
image = axes[0].imshow(np.log10(dense + 1e-12), aspect="auto", cmap="magma", vmin=-6)
axes[0].set(ylabel="head", title=f"Dense attention of query {t}, logarithm of the probability")
axes[1].vlines(selected, 0, 1, color="#f0a860", lw=1.2)
axes[1].set(xlabel="position s", yticks=[], ylim=(0, 1), title="Selected positions")
plt.tight_layout()
plt.show()
print("attention mass that the selection holds, head by head:", np.round(recall, 2))

# %% [markdown]
# Random weights have not been taught to select, so the recall is about what chance gives (`k / t`). Teaching the indexer is what training is for.

# %%
def mean_recall(layer):
    q, kv, chosen = show(f"{layer}.q"), show(f"{layer}.kv"), show(f"{layer}.topk_indices")
    return [attention(q[i], kv[: i + 1])[0][:, chosen[i][chosen[i] >= 0]].sum(-1).mean() for i in range(T)]


figure, axes = plt.subplots()
for i in range(config["num_hidden_layers"]):
    axes.plot(mean_recall(f"layer_{i}"), lw=1, label=f"layer {i}")
axes.plot(np.minimum(1, topk / (np.arange(T) + 1)), "k--", lw=1, label="k / (t + 1)")
axes.set(xlabel="query t", ylabel="mass in the selection", title="Recall of dense attention, mean over heads", ylim=(0, 1.05))
axes.legend(ncols=5, fontsize=8)
plt.show()

# %% [markdown]
# ## Which experts does a character visit?

# %%
experts = show(f"{layer}.expert_ids")  # [T, E_a]
weights = show(f"{layer}.expert_weights")
assert np.allclose(weights.sum(-1), config["routed_scaling_factor"], rtol=8 * 2.0**-53, atol=0)
visits = np.zeros((config["n_routed_experts"], T))
np.put_along_axis(visits, experts.T, weights.T, 0)
span = slice(0, 90)
figure, axes = plt.subplots(figsize=(13, 3.6))
image = axes.imshow(visits[:, span], aspect="auto", cmap="Purples")
axes.set_xticks(range(90), [chr(c) if c >= 32 else "\u21b5" for c in tokens[span]], fontsize=7, family="monospace")
axes.set(ylabel="expert", title="Weights of the experts that each character visits")
figure.colorbar(image)
plt.show()

# %% [markdown]
# ## What does the low precision cost?
# The same formulas in both tiers. Every stage's error, relative to its size, along the layers. Where a selection differs, its query differs from there on:
# with random weights the scores lie close together, so this happens often.

# %%
stages = ["attention_input", "c_q", "c_kv", "q", "attention_out", "attention_y", "after_attention", "ffn_y", "after_ffn"]
figure, axes = plt.subplots()
for i in range(config["num_hidden_layers"]):
    error = [np.sqrt(np.mean((show(f"layer_{i}.{s}") - show(f"layer_{i}.{s}", "deployed")) ** 2) / np.mean(show(f"layer_{i}.{s}") ** 2)) for s in stages]
    axes.semilogy(stages, error, "o-", ms=4, label=f"layer {i}")
axes.axhline(2.0**-8, color="k", lw=0.8, ls="--")
axes.text(8.4, 2.0**-8, "half a bf16 step", fontsize=8, va="bottom", ha="right")
axes.set(ylabel="rms error / rms", title="Deployed against exact, end to end")
axes.tick_params(axis="x", rotation=20)
axes.legend()
plt.show()
same = [np.mean([len(np.intersect1d(a[a >= 0], b[b >= 0])) / max(1, (a >= 0).sum()) for a, b in zip(show(f"layer_{i}.topk_indices"), show(f"layer_{i}.topk_indices", "deployed"))])
        for i in range(config["num_hidden_layers"])]  # fmt: skip
print("share of selected tokens that both tiers agree on, by layer:", np.round(same, 3))
assert same[0] > 0.9

# %% [markdown]
# ## And what does it say?
# The logits choose the next byte. With random weights that is noise; the cached decoding is checked all the same, byte for byte, in the tests.

# %%
logits_of_model = show("logits")  # [T, V]
generated = np.load(folder / "exact" / "decode_tokens.npy")[0]
assert generated[0] == logits_of_model[-1].argmax()
figure, axes = plt.subplots()
axes.bar(range(256), logits_of_model[-1], width=1.0)
axes.plot(generated[0], logits_of_model[-1].max(), "rv")
axes.set(xlabel="byte", ylabel="logit", title=f"The next byte would be {generated[0]}")
plt.show()
print("".join(chr(b) if 32 <= b < 127 else "\u00b7" for b in generated))
