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
# # A warp-specialised kernel, one instruction at a time
#
# *Who waits for whom in a kernel whose copies and products run beside its threads?*
#
# The kernel is the smallest one that has all the parts: the bf16 product `C = A B^T` of `tests/optimized/conformance/product.cuh`. One warp brings tiles by
# tensor copies (TMA) into a ring of three stages, two warpgroups multiply them by `wgmma`, tensor stores bring C away. We run it on the simulator
# ([chapter 20](../docs/20-the-simulator.md)), look at what happens when, and then break one line of it at a time. No GPU is needed; build with
# `cmake --build build --target dsa_simulated` once before. [Chapter 21](../docs/21-a-warp-specialised-kernel.md) walks through the same kernel in gdb.

# %%
import collections
import json
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

REPOSITORY = Path.cwd().resolve()
while not (REPOSITORY / "tools" / "pipeline_faults.py").exists():
    REPOSITORY = REPOSITORY.parent
sys.path.insert(0, str(REPOSITORY / "tools"))
import pipeline_faults as lab

plt.rcParams.update({"figure.figsize": (10, 3.6), "axes.spines.top": False, "axes.spines.right": False, "font.size": 10})
home = Path(tempfile.mkdtemp())
program = lab.build(home)
print("C under six schedules:", dict(collections.Counter(lab.run(program, seed) for seed in lab.SEEDS)))

# %% [markdown]
# The same bytes under every schedule. The roles, as the source has them:

# %%
source = lab.KERNEL.read_text()


def shown(first, last):
    """The source from one line to another."""
    text = source[source.index(first) :]
    return text[: text.index(last) + len(last)]


print(shown("// One lane of one warp.", "\n}\n"))

# %%
print(shown("// One warpgroup.", "hold(sums);\n"))

# %% [markdown]
# ## Where a number lies
#
# A tile of A in shared memory has rows of 64 bf16, 128 bytes. Eight rows one below the other would all begin in the same bank, and a product reads them
# together. So the copy swizzles: the 16-byte chunk `c` of row `r` goes to chunk `c xor (r mod 8)` (PTX ISA, "Swizzling modes"). The picture has, for each place in
# shared memory, the column of A that lies there.

# %%
rows, chunks = 16, 8
lies = np.array([[(chunk ^ (row % 8)) * 8 for chunk in range(chunks)] for row in range(rows)])
fig, axes = plt.subplots(1, 2, figsize=(10, 4))
for ax, numbers, title in ((axes[0], np.tile(np.arange(chunks) * 8, (rows, 1)), "without a swizzle"), (axes[1], lies, "128-byte swizzle")):
    ax.imshow(numbers, cmap="viridis", aspect="auto")
    for row in range(rows):
        for chunk in range(chunks):
            ax.text(chunk, row, numbers[row, chunk], ha="center", va="center", color="white" if numbers[row, chunk] < 40 else "black", fontsize=8)
    ax.set(title=title, xlabel="16-byte chunk of the 128 bytes (4 banks each)", ylabel="row of the tile", xticks=range(chunks))
fig.suptitle("first column of A in each chunk of shared memory")
fig.tight_layout()
plt.show()

# %% [markdown]
# And the sums: no thread has a row of C. Warp `w` of a warpgroup has rows `16 w` to `16 w + 15`; its lane `4 g + p` has rows `g` and `g + 8`, in pairs of columns
# (`hopper/wgmma.h`). The picture has the lane of the first warp that holds each element of C's first 16 columns.

# %%
lane_of = np.zeros((16, 16), int)
register_of = np.zeros((16, 16), int)
for lane in range(32):
    for i in range(8):
        row, column = lane // 4 + i // 2 % 2 * 8, i // 4 * 8 + lane % 4 * 2 + i % 2
        lane_of[row, column], register_of[row, column] = lane, i
fig, ax = plt.subplots(figsize=(10, 4.6))
ax.imshow(lane_of, cmap="twilight", aspect="auto")
for row in range(16):
    for column in range(16):
        ax.text(column, row, f"{lane_of[row, column]}: d[{register_of[row, column]}]", ha="center", va="center", fontsize=7,
                color="white" if 6 < lane_of[row, column] < 26 else "black")  # fmt: skip
ax.set(title="lane: register, of the first 16 x 16 sums of warp 0", xlabel="column of C", ylabel="row of C")
fig.tight_layout()
plt.show()

# %% [markdown]
# ## What happens when
#
# `DSA_SIMULATOR_TRACE` writes who waited where and which operation was under way. Time is counted in turns of the schedule: it says what is before what, not how long
# it takes on the hardware.


# %%
def trace_of(seed):
    """The events of block (0, 0, 0) under one schedule."""
    file = home / f"trace_{seed}.json"
    lab.run(program, seed, DSA_SIMULATOR_TRACE=str(file))
    events = json.loads(file.read_text())
    (block,) = [e["pid"] for e in events if e["ph"] == "M" and e["args"]["name"] == "block (0, 0, 0)"]
    return [e for e in events if e["pid"] == block and e["ph"] == "X"]


LINES = source.splitlines()
COLOURS = {"copy of A": "tab:blue", "copy of B": "tab:cyan", "wgmma": "tab:red", "waits for a full stage": "lightskyblue",
           "waits for an empty stage": "khaki", "waits for its products": "lightcoral"}  # fmt: skip


def kind_of(event):
    """What an event is in this kernel: by its instruction, and by its line."""
    name = event["name"]
    line = LINES[int(name.rsplit(":", 1)[1].split(" ")[0]) - 1] if "product.cuh:" in name else ""
    if event["tid"] >= 10_000:
        return "wgmma" if name.startswith("wgmma") else "copy of A" if "stage.a" in line else "copy of B" if "stage.b" in line else None
    if "mbarrier" in name:
        return "waits for an empty stage" if "memory.empty" in line else "waits for a full stage"
    return "waits for its products" if "wgmma.wait_group" in name else None


def draw(seed, ax):
    """A row a role: what was under way, and who waited. Copies of A above those of B, every other group of products below."""
    per_row, products = collections.defaultdict(list), collections.Counter()
    for event in sorted(trace_of(seed), key=lambda e: e["ts"]):
        kind = kind_of(event)
        thread = event["tid"] % 10_000
        if kind is None or thread // 128 > 0 and thread % 128 != 0:
            continue  # of a warpgroup, its first thread speaks
        role = "producer" if thread < 128 else f"consumer {thread // 128 - 1}"
        below, height = 0, 0.8
        if event["tid"] >= 10_000:
            below, height = int(kind == "copy of B"), 0.4
            if kind == "wgmma":
                below = products[role] // 4 % 2  # four products are a group
                products[role] += 1
        what = "under way" if event["tid"] >= 10_000 else "waits"
        per_row[f"{role}: {what}"].append((event["ts"], max(event["dur"], 30), kind, 0.4 - height * (1 + below), height))
    for y, row in enumerate(sorted(per_row, reverse=True)):
        for begin, length, kind, bottom, height in per_row[row]:
            ax.broken_barh([(begin, length)], (y + bottom, height), color=COLOURS[kind], alpha=0.8, linewidth=0)
    ax.set(yticks=range(len(per_row)), yticklabels=sorted(per_row, reverse=True), title=f"schedule {seed}", xlabel="turns")
    return per_row


fig, axes = plt.subplots(2, 1, figsize=(10, 6.4))
for ax, seed in zip(axes, (1, 4)):
    rows_drawn = draw(seed, ax)
    starts = [begin for row in rows_drawn.values() for begin, _, kind, *_ in row if kind.startswith("copy")]
    ax.set_xlim(min(starts) - 50, None)
fig.legend([plt.Rectangle((0, 0), 1, 1, color=c) for c in COLOURS.values()], COLOURS, ncols=6, fontsize=8, loc="lower center")
fig.tight_layout(rect=(0, 0.05, 1, 1))
plt.show()

# %% [markdown]
# The producer issues copies until the ring is full, then waits for an empty stage. The consumers wait for full stages; a product is under way until a later `wgmma_wait`
# asks for it. In one schedule copies come late, in the other products: the kernel must be right in both.
#
# ## One wrong line
#
# Each of these faults is one line. On a GPU most of them give the right answer most of the time. The simulator says what is wrong under every schedule that we try:

# %%
TOLD = ("the tile is not waited for", "the stage is freed before its products are done", "no fence between the proxies",
        "the producer waits for the wrong phase", "C is written without the swizzle")  # fmt: skip
(right,) = lab.answers()
caught = {}
for fault in lab.FAULTS:
    if fault.name not in TOLD:
        continue
    said = lab.answers(fault)
    caught[fault.name] = sum(count for text, count in said.items() if text != right)
    print(f"{fault.name}\n  - {fault.line.strip()}\n  + {fault.instead.strip()}\n  {said.most_common(1)[0][0][:300]}\n")

# %%
fig, ax = plt.subplots(figsize=(10, 2.6))
ax.barh(list(caught)[::-1], list(caught.values())[::-1], color="tab:red")
ax.set(xlabel=f"schedules that tell, of {len(lab.SEEDS)}", xlim=(0, len(lab.SEEDS)))
fig.tight_layout()
plt.show()

# %% [markdown]
# The swizzle has no sentence: nothing undefined happens, C is simply wrong, and the goldens see it. `tools/pipeline_faults.py` has fifteen more faults, two of which
# no schedule can show, and says why.
#
# ## Exercises
# 1. Let the ring have two stages, then one. What changes in the picture, and is one stage still right?
# 2. Give the producer a second warp that brings B. Which counts of which mbarriers change?
# 3. `wgmma_wait<1>` keeps one group under way. What would `wgmma_wait<0>` in its place cost on the hardware, and what does the picture show of it?
# 4. Break a line that is not in the list, and predict the sentence before you run it.
