"""Where do two runs part? The first stage, in the order of computation, that differs by more than it may."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Refusal, dtypes, require
from .cases import read_json

# The order of computation within a layer, as dsa-reference shows its stages.
STAGES = ("attention_input q_latent c_q q_heads q_nope q_rope kv_latent c_kv k_rope kv_heads indexer_q indexer_q_scale indexer_k "
          "indexer_k_scale indexer_weights kv indexer_logits topk_indices q attention_out attention_target attention_lse "
          "attention_max_logit attention_y "
          "after_attention ffn_input gate_scores expert_ids expert_weights ffn_y after_ffn").split()  # fmt: skip
BEFORE, AFTER = ("embedding", "hidden_0"), ("final_norm", "logits", "decode_tokens", "decode_logits", "y", "language_loss", "kl_loss")


@dataclass
class Difference:
    """One stage of both runs."""

    name: str
    equal: bool  # bit for bit
    snr: float  # decibels, of the first against the second
    sentence: str
    parted: bool


def place_of(name: str) -> tuple:
    """Where a tensor stands in the order of computation: gradients d_NAME come back in the opposite order."""
    layer, _, stage = name.rpartition(".")
    if stage.startswith("d_"):
        part, *place = place_of(name.replace("d_", "", 1))
        return (5 - part, *(-p for p in place if isinstance(p, int)), name)
    if layer.startswith("layer_") and layer[6:].isdigit():
        return 1, int(layer[6:]), STAGES.index(stage) if stage in STAGES else len(STAGES), name
    if name.startswith("hidden_") and name[7:].isdigit() and name != "hidden_0":
        return 1, int(name[7:]) - 1, len(STAGES), name
    if name in BEFORE:
        return 0, 0, 0, name
    if name in AFTER:
        return 2, AFTER.index(name), 0, name
    if name.startswith("d") and name not in STAGES:  # dx, dweight: what a backward op gives
        return 6, 0, 0, name
    return 1, 0, STAGES.index(name) if name in STAGES else len(STAGES), name


def tensors_in(folder: Path) -> dict[str, Path]:
    """The .npy files of a run: of a folder, or of a golden's deployed tier."""
    require(folder.is_dir(), f"{folder} is no folder: name two folders of .npy files, or two goldens")
    inner = folder / "deployed" if (folder / "deployed").is_dir() else folder
    found = {path.stem: path for path in inner.glob("*.npy")}
    require(bool(found), f"{inner} has no .npy files")
    return found


def dtypes_in(folder: Path) -> dict[str, str]:
    """The logical dtypes that a golden beside the files states."""
    golden = folder / "golden.json"
    return {n: t["dtype"] for n, t in read_json(golden)["tensors"].items()} if golden.exists() else {}


def as_numbers(path: Path, dtype: str | None) -> np.ndarray:
    """float64. Without a stated dtype uint16 is bf16, and uint8 is e4m3 where its name is a quantised tensor's."""
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise Refusal(f"{path} is not a readable .npy file: {error}") from None
    stem = path.stem.rpartition(".")[2]
    guess = {"uint16": "bfloat16", "uint8": "float8_e4m3" if stem in ("indexer_q", "indexer_k", "q", "k") else "uint8"}
    dtype = dtype if dtype and dtypes.storage(dtype) == array.dtype else guess.get(array.dtype.name)
    return (dtypes.from_storage(array, dtype) if dtype else array).astype(np.float64)


def compare(name: str, a: np.ndarray, b: np.ndarray, least: float) -> Difference:
    """Two versions of one stage. least: decibels that must remain."""
    if a.shape != b.shape:
        return Difference(name, False, -np.inf, f"shapes differ: {list(a.shape)} and {list(b.shape)}", True)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return Difference(name, True, np.inf, "equal", False)
    place = tuple(np.argwhere(~same)[0])
    where = "[" + ", ".join(map(str, map(int, place))) + "]"
    finite = np.isfinite(a) & np.isfinite(b)
    noise, signal = np.sum((a[finite] - b[finite]) ** 2), np.sum(b[finite] ** 2)
    with np.errstate(divide="ignore"):
        snr = float(10 * np.log10(signal / noise)) if noise else np.inf
    lost = int((~finite & ~same).sum())
    whole = name.rpartition(".")[2] in ("topk_indices", "expert_ids", "decode_tokens")
    text = f"{(~same).sum()} of {same.size} differ, first {where}: {a[place]:.8g} and {b[place]:.8g}"
    text += f", {lost} of them not finite" if lost else "" if whole else f", {snr:.0f} dB"
    return Difference(name, False, snr, text, bool(whole or lost or not snr >= least))


def differences(a: Path, b: Path, least: float) -> list[Difference]:
    """Every stage that both runs show, in the order of computation."""
    first, second = tensors_in(a), tensors_in(b)
    common = sorted(first.keys() & second.keys(), key=place_of)
    require(bool(common), f"{a} and {b} have no tensor in common: {', '.join(sorted(first)[:5])} ... and {', '.join(sorted(second)[:5])} ...")
    stated = dtypes_in(a) | dtypes_in(b)
    return [compare(n, as_numbers(first[n], stated.get(n)), as_numbers(second[n], stated.get(n)), least) for n in common]
