"""Draws docs/pictures/stack.svg: the stages of one layer, under the names that the trace gives them.

    python docs/pictures/stack.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

plt.rcParams.update({"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "touchstone"})
MLA, INDEXER, ATTENTION, MOE, STREAM = "#dbe9f6", "#fde3c8", "#d9efd8", "#ead9f2", "#eeeeee"

figure, axes = plt.subplots(figsize=(11, 8.6))
axes.set_xlim(0, 110)
axes.set_ylim(0, 86)
axes.axis("off")


def box(x, y, width, title, detail, colour, height=7.4):
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.2,rounding_size=1", fc=colour, ec="#555555", lw=1))
    axes.text(x + width / 2, y + height * 0.66, title, ha="center", va="center", fontsize=10, weight="bold")
    axes.text(x + width / 2, y + height * 0.28, detail, ha="center", va="center", fontsize=8.6, color="#333333")


def arrow(x1, y1, x2, y2, style="-"):
    axes.annotate("", (x2, y2), (x1, y1), arrowprops={"arrowstyle": "-|>", "color": "#555555", "lw": 1.2, "ls": style,
                                                      "shrinkA": 0, "shrinkB": 0})  # fmt: skip


box(36, 77, 38, "hidden states", "bf16 [T, D]", STREAM)
arrow(55, 77, 55, 73.6)
box(36, 66, 38, "attention_input", "RMSNorm   [T, D]", STREAM)

# MLA on the left, the indexer on the right.
arrow(44, 66, 20, 62.6)
arrow(52, 66, 44, 62.6)
arrow(62, 66, 68, 62.6)
arrow(70, 66, 93, 62.6)
box(6, 55, 28, "c_q", "query latent   [T, 1536]", MLA)
box(36, 55, 18, "c_kv, k_rope", "cache   [S, 512 + 64]", MLA)
box(58, 55, 22, "indexer_k", "e4m3, one for all heads", INDEXER)
box(84, 55, 22, "indexer_weights", "[T, 64]", INDEXER)
arrow(20, 55, 20, 51.6)
arrow(28, 55, 62, 51.6)
box(6, 44, 28, "q_nope, q_rope", "128 heads   [T, 128, 128 + 64]", MLA)
box(58, 44, 22, "indexer_q", "rope, Hadamard, e4m3", INDEXER)
arrow(20, 44, 20, 40.6)
arrow(69, 44, 76, 40.6)
arrow(80, 56, 83, 40.6)
arrow(95, 55, 92, 40.6)
box(6, 33, 28, "q", "absorbed: q_nope W_uk, q_rope", MLA)
box(70, 33, 36, "indexer_logits", "sum over heads of weight x ReLU   [T, S]", INDEXER)
arrow(88, 33, 88, 29.6)
box(70, 22, 36, "topk_indices", "the best 2048, ties to the lower position", INDEXER)

arrow(20, 33, 30, 29.4)
arrow(45, 55, 45, 29.6)
arrow(70, 25.7, 62.4, 25.7)
box(28, 22, 34, "attention_out", "softmax over the selected tokens only", ATTENTION)
arrow(45, 22, 45, 18.6)
box(28, 11, 34, "attention_y, after_attention", "W_uv, W_o; added to the stream", ATTENTION)
arrow(62, 14.7, 69.6, 14.7)
box(70, 11, 36, "ffn_input, gate_scores, expert_ids", "8 of 256 experts, in two steps", MOE)
arrow(88, 11, 88, 7.6)
box(70, 0.2, 36, "ffn_y, after_ffn", "their weighted sum, and the shared expert", MOE)
box(28, 0.2, 34, "the next layer", "61 of them, then the head", STREAM)
arrow(70, 3.9, 62.4, 3.9)

for x, name, colour in [(6, "multi-head latent attention", MLA), (6, "lightning indexer", INDEXER), (6, "sparse attention", ATTENTION),
                        (6, "mixture of experts", MOE)]:  # fmt: skip
    y = {MLA: 17, INDEXER: 13.5, ATTENTION: 10, MOE: 6.5}[colour]
    axes.add_patch(FancyBboxPatch((1, y - 1), 2, 2, boxstyle="round,pad=0.1", fc=colour, ec="#555555", lw=0.8))
    axes.text(4.6, y, name, va="center", fontsize=8.8)
axes.text(1, 83.4, "One layer of DeepSeek-V3.2", fontsize=11.5, weight="bold", va="top")
axes.text(1, 79.8, "the names are those of the trace", fontsize=9.5, color="#333333", va="top")
figure.savefig(Path(__file__).with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
