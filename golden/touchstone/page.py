"""What does an indexer choose, and what does it miss? One HTML page over a window of text, by stage and layer.

Each stage's model reads the window in the exact tier, as the stage trains: a dense stage and the warm-up attend to
everything, a sparse stage to the k best. The trace gives the indexer's scores, the queries and the latents; the second
telling makes the dense attention's mass of them. page.html and page.js show it.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Refusal, require
from .cases import PACKAGE, read_json
from .runs import Run, Stage
from .telling import Inputs, Telling
from .telling.model import rope_of
from .text import run_program

CONVENTIONS = "deepseek-v3.2-exp"  # what `dsa-reference train` and `model` follow unless told otherwise
LIMIT = 3 << 20  # bytes of a page: what opens at once on a telephone
UNIT = 65535  # a share of 1 as uint16


@dataclass(frozen=True)
class Layer:
    """What one layer did over the window."""

    scores: np.ndarray  # [T, T] float64, of the indexer, -inf above the diagonal
    mass: np.ndarray  # [T, T] float64, the dense attention's probabilities, mean over heads; rows sum to 1
    attended: np.ndarray  # [T, k] int32, the positions that were attended to, -1 in unused slots


@dataclass(frozen=True)
class Look:
    """One stage over the window."""

    stage: Stage
    topk: int  # k of the model
    layers: list[Layer]


def window_of(path: Path, first: int | None, length: int) -> tuple[np.ndarray, int]:
    """`length` bytes of a text from byte `first`; without one, from where the recipes' held-out tenth begins. -> int32 [T], first"""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Refusal(f"the text {path} cannot be read: {error.strerror}") from None
    start = int(len(text) * 0.9) if first is None else first
    require(start + length <= len(text), f"{path} must have {length} bytes from byte {start}; it ends at byte {len(text)}: "
            "choose a smaller --first or --length")  # fmt: skip
    return np.frombuffer(text[start : start + length], np.uint8).astype(np.int32), start


def stages_of(run: Run, names: list[str]) -> list[Stage]:
    """The stages of these names; without any, all but those that were trained to attend by lot or by window."""
    known = {stage.name: stage for stage in run.stages}
    for name in names:
        require(name in known, f"the run {run.folder} has no stage named {name}: it has {', '.join(known)}")
    return [s for s in run.stages if (s.name in names if names else s.settings.get("selection", "indexer") == "indexer")]


def preset_of(stage: Stage) -> str:
    """The preset under which a stage is run. What concerns the loss alone does not matter here."""
    given = stage.settings.get("conventions", {})
    own = sorted(set(given) - {"preset", "sparse_kl_target", "kl_reduction", "kl_coefficient"})
    require(not own, f"the stage {stage.name} was trained with {', '.join(own)} switched by hand, and a page runs its model "
            "under a preset: leave the stage out with --stage")  # fmt: skip
    return given.get("preset", CONVENTIONS)


def dense_mass(q: np.ndarray, kv: np.ndarray, config: dict) -> np.ndarray:
    """The op `attention_target`. q [T, H, R_kv + d_rope], kv [T, R_kv + d_rope] -> [T, T]"""
    telling = Telling(CONVENTIONS, {"rope": rope_of(config)}, Inputs({}), tier="exact")
    return telling.attention_target(q, kv, None, telling.softmax_scale(config["qk_nope_head_dim"], config["qk_rope_head_dim"]))


def look(stage: Stage, tokens: np.ndarray, program: Path) -> Look:
    """Runs a stage's model over the window. tokens: int32 [T]"""
    weights = stage.folder / "model.safetensors"
    require(weights.exists(), f"the stage {stage.name} has no {weights}: let `dsa-reference train` finish it, or leave it out with --stage")
    config = read_json(stage.folder / "config.json")
    require(config["vocab_size"] >= 256, f"a page shows bytes of text, so vocab_size must be at least 256; that of {stage.name} is {config['vocab_size']}")
    topk = config["index_topk"]
    if stage.kind != "sparse":
        config["index_topk"] = len(tokens)  # attends to everything
    with tempfile.TemporaryDirectory(prefix="touchstone_page_") as scratch:
        folder = Path(scratch)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        np.save(folder / "tokens.npy", tokens)
        run_program(program, "model", "--config", folder / "config.json", "--weights", weights, "--tokens", folder / "tokens.npy",
                    "--out", folder / "out", "--conventions", preset_of(stage),
                    "--trace", "indexer_logits", "topk_indices", "q", "kv")  # fmt: skip

        def traced(layer: int, name: str) -> np.ndarray:
            return np.load(folder / "out" / f"layer_{layer}.{name}.npy")[0]

        layers = [
            Layer(traced(i, "indexer_logits"), dense_mass(traced(i, "q"), traced(i, "kv"), config), traced(i, "topk_indices"))
            for i in range(config["num_hidden_layers"])
        ]
    return Look(stage, topk, layers)


def order_of(scores: np.ndarray) -> list[np.ndarray]:
    """Each query's candidates from the best to the worst, equal scores by the lower position: its first k are the selection
    for every k. scores [T, T] -> [t + 1] for each t"""
    return [np.lexsort((np.arange(t + 1), -row[: t + 1])) for t, row in enumerate(scores)]


def prediction_of(scores: np.ndarray) -> np.ndarray:
    """The softmax of each query's scores: what the KL holds against the mass. [T, T] -> [T, T]"""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def packed(looks: list[Look]) -> bytes:
    """All stages and layers one after the other, each as prediction uint16, mass uint16, order uint16, little-endian, of the
    causal pairs row by row; shares of 1 in units of 1 / 65535. Deflated, as a browser's DecompressionStream reads it."""
    parts = []
    for a_look in looks:
        for layer in a_look.layers:
            causal = np.tril_indices(len(layer.scores))
            parts += [np.rint(x[causal] * UNIT).astype("<u2").tobytes() for x in (prediction_of(layer.scores), layer.mass)]
            parts.append(np.concatenate(order_of(layer.scores)).astype("<u2").tobytes())
    return zlib.compress(b"".join(parts), 9)


def shown(token: int) -> str:
    """A byte as the page writes it."""
    return "\u21b5" if token == 10 else chr(token) if 32 <= token < 127 else "\u00b7"


def in_script(text: str) -> str:
    """Text that no HTML parser takes for the end of a <script>."""
    return text.replace("<", "\\u003c")


def filled(looks: list[Look], tokens: np.ndarray, source: str) -> str:
    """The page: page.html with page.js and the data in their places."""
    about = {
        "source": source,
        "text": [shown(t) for t in tokens.tolist()],
        "topk": looks[0].topk,
        "layers": len(looks[0].layers),
        "stages": [{"name": a.stage.name, "kind": a.stage.kind, "steps": a.stage.first + a.stage.steps} for a in looks],
    }
    page = (PACKAGE / "page.html").read_text(encoding="utf-8")
    for place, content in (
        ("/*ABOUT*/", in_script(json.dumps(about, ensure_ascii=False))),
        ("/*TENSORS*/", base64.b64encode(packed(looks)).decode("ascii")),
        ("/*SCRIPT*/", (PACKAGE / "page.js").read_text(encoding="utf-8")),
    ):
        require(page.count(place) == 1, f"page.html must have {place} once: reinstall touchstone")
        page = page.replace(place, content)
    return page


def write(looks: list[Look], tokens: np.ndarray, source: str, out: Path) -> int:
    """Writes the page, whole or not at all. -> its size in bytes"""
    require(bool(looks), "a page needs a stage to look at: name one with --stage")
    require(len({(a.topk, len(a.layers)) for a in looks}) == 1,
            "the stages of a page must have the same index_topk and number of layers: choose some with --stage")  # fmt: skip
    data = filled(looks, tokens, source).encode("utf-8")
    require(len(data) <= LIMIT, f"the page would have {len(data) / 2**20:.1f} MiB, and {LIMIT >> 20} are the most: "
            "choose a smaller --length, or fewer stages with --stage")  # fmt: skip
    unfinished = out.with_name(out.name + ".unfinished")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        os.replace(unfinished, out)
    except OSError as error:
        raise Refusal(f"the page {out} cannot be written: {error.strerror}") from None
    return len(data)
