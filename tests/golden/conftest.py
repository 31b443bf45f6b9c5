"""What the Python tests share: where the reference is, and a tiny model to run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def reference() -> Path:
    path = Path(os.environ.get("TOUCHSTONE_REFERENCE") or REPOSITORY / "build" / "dsa-reference")
    assert path.is_file(), f"{path} is not built: run `make reference`"
    return path


@pytest.fixture(scope="session")
def goldens(reference) -> Path:
    """The folder of the small set, made if it is not there."""
    from touchstone import cases, make

    made = make.make(cases.choose([], "small"), make.DEFAULT, reference, 2, lambda *_: None)
    assert not [problem for m in made for problem in m.problems]
    return make.DEFAULT


@pytest.fixture(scope="session")
def text_goldens(reference) -> dict[str, Path]:
    """The folders of whole models over texts, by the goldens' names."""
    from touchstone import make, text

    return {reading.name: text.make_text(reading, make.DEFAULT, reference) for reading in text.READINGS}


@pytest.fixture
def run(reference):
    """run("model", ...) -> CompletedProcess with text output."""

    def call(*arguments) -> subprocess.CompletedProcess:
        return subprocess.run([str(reference), *map(str, arguments)], capture_output=True, text=True, check=False)

    return call


TINY = {
    "vocab_size": 61, "hidden_size": 48, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "q_lora_rank": 40, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "index_n_heads": 4, "index_head_dim": 16, "index_topk": 6, "first_k_dense_replace": 1, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 32},
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path, run) -> Path:
    """A folder with config.json, model.safetensors and tokens.npy [2, 20]."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    made = run("init", "--config", tmp_path / "config.json", "--seed", 5, "--out", tmp_path / "model.safetensors")
    assert made.returncode == 0, made.stderr
    np.save(tmp_path / "tokens.npy", np.random.default_rng(1).integers(0, 61, (2, 20)).astype(np.int32))
    return tmp_path


ALICE = REPOSITORY / "recipes" / "text" / "alice_in_wonderland.txt"


@pytest.fixture(scope="session")
def training_run(reference, tmp_path_factory) -> Path:
    """The folder of a run of a few steps: 2 layers, 64 bytes a sequence, of which 8 are attended to. One held-out sequence,
    the first 64 bytes of the text's last tenth."""
    config = TINY | {"vocab_size": 256, "index_topk": 8, "num_hidden_layers": 2, "max_position_embeddings": 64}
    del config["rope_scaling"]
    stage = {"kind": "dense", "steps": 60, "learning_rate": 3e-3}
    recipe = {
        "version": 1, "config": config, "task": {"kind": "text", "files": [str(ALICE)]}, "length": 64, "batch": 4, "held_out_sequences": 1,
        "stages": [
            stage | {"name": "dense"},
            stage | {"name": "warmup", "kind": "warmup", "from": "dense", "steps": 20},
            stage | {"name": "sparse", "kind": "sparse", "from": "warmup", "steps": 10, "learning_rate": 1e-3},
        ],
        "evaluations": [
            {"name": "dense", "weights": "dense", "selection": "dense"},
            {"name": "sparse", "weights": "sparse", "selection": "indexer"},
        ],
    }  # fmt: skip
    home = tmp_path_factory.mktemp("training")
    (home / "recipe.json").write_text(json.dumps(recipe))
    made = subprocess.run([reference, "train", home / "recipe.json", "--out", home / "run"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return home / "run"


@pytest.fixture(scope="session")
def looks(training_run, reference) -> list:
    """Its stages as `touchstone page` sees them over that held-out sequence."""
    from touchstone import page, runs

    tokens, _ = page.window_of(ALICE, None, 64)
    return [page.look(stage, tokens, reference) for stage in runs.read_run(training_run).stages]
