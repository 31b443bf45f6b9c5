"""The story that `make golden` ends with: what ran, how well it holds, where it lies, what to look at next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from .cases import REPOSITORY_HINT, all_cases
from .text import READINGS
from .verify import goldens_in

# The block whose stages make the error budget.
BUDGET = "transformer_block/moe"


def printable(data: bytes) -> str:
    """Bytes as text; what cannot be printed as a dot."""
    return "".join(chr(b) if 32 <= b < 127 else "\u00b7" for b in data)


def _worst(goldens) -> list[tuple[float, str, str]]:
    """(ratio of error to bound, case, tensor), largest first."""
    found = []
    for name, folder in goldens:
        for tensor, entry in json.loads((folder / "manifest.json").read_text()).get("tensors", {}).items():
            if isinstance(entry.get("worst_ratio"), (int, float)):
                found.append((entry["worst_ratio"], name, tensor))
    return sorted(found, reverse=True)


def error_budget(folder: Path) -> Table:
    """What each stage of a layer may lose and what it does lose, relative to the size of its numbers."""
    table = Table(title=f"Error budget of one layer, stage by stage ({BUDGET})", title_justify="left")
    for heading in ("stage", "bound / rms", "error / rms", "worst error / bound", "end to end / rms"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    golden = json.loads((folder / "golden.json").read_text())
    order = ("attention_input c_q q_nope q_rope c_kv k_rope indexer_q indexer_k indexer_weights indexer_logits q kv attention_out "
             "attention_y after_attention ffn_input gate_scores expert_weights ffn_y after_ffn").split()  # fmt: skip
    for stage in order:
        entry = golden["tensors"].get(stage)
        if not entry or not entry.get("value_rms"):
            continue
        rms = entry["value_rms"]
        cells = [entry["bound_rms"] / rms, entry["error_rms"] / rms, entry["worst_ratio"], entry["end_to_end_rms"] / rms]
        table.add_row(stage, *(f"{x:.1e}" if i != 2 else f"{x:.2f}" for i, x in enumerate(cells)))
    return table


def tell(out: Path, console: Console) -> None:
    """Prints the story of the goldens in `out`."""
    goldens = goldens_in(out)
    files = [p for _, folder in goldens for p in folder.rglob("*.npy")]
    ops = {name.split("/")[0] for name, _ in goldens}
    size = sum(p.stat().st_size for p in files) / 2**20
    console.rule("What happened")
    console.print(
        f"The reference answered {len(goldens)} of {len(all_cases()) + len(READINGS)} cases of {len(ops)} ops: {len(files)} tensors, {size:.0f} MiB.",
        highlight=False,
    )
    worst = _worst(goldens)
    if worst:
        ratio, name, tensor = worst[0]
        console.print(
            f"In every one of them the low-precision tier stays within the bound derived for it; it comes closest in {name}, "
            f"where {tensor} uses {100 * ratio:.1f} % of its bound.",
            highlight=False,
        )
    block = out / BUDGET
    if block.exists():
        console.print()
        console.print(error_budget(block))
        console.print(
            "The first three columns judge each stage on the inputs that it had; the last is what has added up since the layer's input.",
            highlight=False,
        )
    for reading in READINGS:
        model = out / reading.name
        if model.exists():
            read, decoded = (np.load(model / path).reshape(-1).astype(np.uint8).tobytes() for path in ("inputs/tokens.npy", "exact/decode_tokens.npy"))
            kind = "A small trained model" if reading.weights else "A model of V3.2's shape with random weights"
            console.print(f"\n{kind} has read {len(read)} bytes of {reading.text.stem.replace('_', ' ')},", highlight=False)
            console.print(f'    "...{printable(read[-60:])}"', highlight=False)
            console.print(f'and goes on: "{printable(decoded)}".', highlight=False)
    console.print("\nWhere things are:", highlight=False)
    console.print(f"    {out}/<op>/<case>/   inputs, exact, deployed, their bounds, manifest.json", highlight=False)
    console.print(f"    {out}/model/<text>/   every stage of every layer of a model over a text", highlight=False)
    console.print("What to look at next:", highlight=False)
    for line in REPOSITORY_HINT:
        console.print(f"    {line}", highlight=False)
