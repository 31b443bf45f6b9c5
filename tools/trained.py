#!/usr/bin/env python3
"""Where do the trained weights in golden/trained come from? From recipes/text_small.json, by this one command:

    build/venv/bin/python tools/trained.py

It trains (a minute or two), keeps the last stage's weights, matrices in bf16, and the activations that cases with the
fill "stored" ask for. Training multiplies with Eigen, so its bytes follow from the CPU's vector units: the files are in
git because another machine gives other ones, as good but not the same. Then: `touchstone make --update-lock`,
`touchstone text --update-lock`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "golden"))
from touchstone import dtypes, make, text  # noqa: E402

KEPT = REPOSITORY / "golden" / "trained"
RECIPE = REPOSITORY / "recipes" / "text_small.json"
QUERIES = slice(224, 256)  # the last 32 of 256 tokens: each has far more candidates than k = 32


def keep_weights(stage: Path) -> None:
    """Matrices in bf16, as checkpoints have them; norms and the router's bias, which are small, in float32."""
    weights = load_file(stage / "model.safetensors")
    rounded = {name: w.astype(ml_dtypes.bfloat16) if w.ndim == 2 else w for name, w in weights.items()}
    save_file(rounded, KEPT / "model.safetensors", {"format": "pt", "made_by": "tools/trained.py"})
    (KEPT / "model.safetensors").chmod(0o644)
    shutil.copy(stage / "config.json", KEPT / "config.json")


def write_activations(program: Path, folder: Path) -> None:
    """What flows through the model on a text that it has not seen, a few tensors of it, each in its contract's dtype.
    These follow from the kept weights alone, on any machine (tests/golden/test_trained.py)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    weights = load_file(KEPT / "model.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "tokens.npy", text.ALICE.tokens())
        for tier in ("exact", "deployed"):
            subprocess.run(
                [program, "model", "--config", KEPT / "config.json", "--weights", KEPT / "model.safetensors", "--tokens",
                 Path(scratch) / "tokens.npy", "--out", Path(scratch) / tier, "--tier", tier, "--trace", "all"],
                check=True,
            )  # fmt: skip

        def shown(stage: str, rows: slice = slice(None), tier: str = "deployed") -> np.ndarray:
            return np.load(Path(scratch) / tier / f"{stage}.npy")[0][rows]

        def keep(name: str, numbers: np.ndarray, dtype: str) -> None:
            stored = dtypes.to_storage(numbers.astype(np.float64), dtype)
            np.save(folder / f"{name}.npy", np.ascontiguousarray(stored), allow_pickle=False)

        def weight(name: str) -> np.ndarray:
            return weights[f"model.layers.1.{name}.weight"].astype(np.float32).T  # [in, out], as ops have them

        # The residual stream at its end, where it is widest.
        keep("hidden_3", shown("hidden_3", QUERIES), "bfloat16")
        keep("norm", weights["model.norm.weight"], "float32")
        # Layer 0 has the heaviest tails in its queries: all heads of a token in one row of 128.
        queries = [shown(f"layer_0.{part}", QUERIES).reshape(32, -1) for part in ("q_nope", "q_rope")]
        keep("layer_0.queries", np.concatenate(queries, -1), "bfloat16")
        # Layer 1: attention, on the whole context.
        keep("layer_1.q", shown("layer_1.q", QUERIES), "bfloat16")
        keep("layer_1.kv", shown("layer_1.kv"), "bfloat16")
        keep("layer_1.topk_indices", shown("layer_1.topk_indices", QUERIES), "int32")
        # Its indexer, as deployed and as it was trained.
        keep("layer_1.attention_input", shown("layer_1.attention_input", QUERIES), "bfloat16")
        keep("layer_1.c_q", shown("layer_1.c_q", QUERIES), "bfloat16")
        keep("layer_1.W_qI", weight("self_attn.indexer.wq_b").reshape(32, 4, 32), "bfloat16")
        keep("layer_1.W_kI", weight("self_attn.indexer.wk"), "bfloat16")
        keep("layer_1.W_w", weight("self_attn.indexer.weights_proj"), "bfloat16")
        keep("layer_1.k_norm", weights["model.layers.1.self_attn.indexer.k_norm.weight"], "float32")
        keep("layer_1.k_bias", weights["model.layers.1.self_attn.indexer.k_norm.bias"], "float32")
        keep("layer_1.indexer_q", shown("layer_1.indexer_q", QUERIES), "float8_e4m3")
        keep("layer_1.indexer_k", shown("layer_1.indexer_k"), "float8_e4m3")
        keep("layer_1.indexer_k_scale", shown("layer_1.indexer_k_scale"), "float32")
        keep("layer_1.indexer_weights", shown("layer_1.indexer_weights", QUERIES), "float32")
        keep("layer_1.indexer_logits", shown("layer_1.indexer_logits", QUERIES), "float32")
        for part, rows in (("q", QUERIES), ("k", slice(None)), ("weights", QUERIES)):
            keep(f"layer_1.unquantised_{part}", shown(f"layer_1.indexer_{part}", rows, "exact"), "float32")
        # Its router.
        keep("layer_1.ffn_input", shown("layer_1.ffn_input", QUERIES), "bfloat16")
        keep("layer_1.W_g", weight("mlp.gate"), "float32")
        keep("layer_1.bias", weights["model.layers.1.mlp.gate.e_score_correction_bias"], "float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=make.REPOSITORY / "build" / "text_small", help="where the run is, or goes to")
    given = parser.parse_args()
    program = make.reference_program()
    subprocess.run([program, "train", RECIPE, "--out", given.run], check=True)
    KEPT.mkdir(exist_ok=True)
    keep_weights(given.run / "sparse")
    write_activations(program, KEPT / "activations")
    size = sum(p.stat().st_size for p in KEPT.rglob("*") if p.is_file())
    print(f"{KEPT}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
