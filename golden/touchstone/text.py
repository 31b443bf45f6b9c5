"""The real text: a V3.2-shaped model of some million weights reads a passage of Shakespeare, byte by byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from . import Refusal
from .cases import HOME
from .files import hashes_of, sha256, write_json

TEXT = HOME / "text" / "as_you_like_it.txt"
CONFIG = HOME / "text" / "config.json"
NAME = "model/as_you_like_it"
SEED = 20261124
TOKENS = 768
DECODED = 16


def tokens() -> np.ndarray:
    """The first bytes of the text, int32 [T]."""
    return np.frombuffer(TEXT.read_bytes()[:TOKENS], dtype=np.uint8).astype(np.int32)


def run_program(*command) -> None:
    """Runs a program; what it says when it fails is the refusal."""
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise Refusal(run.stderr.strip() or f"{command[0]} stopped with status {run.returncode}")


def make_text(out: Path, program: Path) -> Path:
    """Runs the model over the text in both tiers; every stage of every layer is a golden. -> the golden's folder."""
    folder = out / NAME
    recipe = {"text": TEXT.name, "tokens": TOKENS, "decoded": DECODED, "seed": SEED, "config": json.loads(CONFIG.read_text())}
    manifest = folder / "manifest.json"
    program_hash = sha256(program)
    if manifest.exists():
        known = json.loads(manifest.read_text())
        if known["case"] == recipe and known["program"] == program_hash and known["files"] == hashes_of(folder):
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making_", dir=out) as scratch:
        unfinished = Path(scratch) / "out"
        inputs = unfinished / "inputs"
        inputs.mkdir(parents=True)
        shutil.copy(CONFIG, inputs / "config.json")
        np.save(inputs / "tokens.npy", tokens())
        weights = inputs / "model.safetensors"
        run_program(program, "init", "--config", CONFIG, "--seed", SEED, "--out", weights)
        for tier in ("exact", "deployed"):
            run_program(
                program, "model", "--config", CONFIG, "--weights", weights, "--tokens", inputs / "tokens.npy",
                "--out", unfinished / tier, "--tier", tier, "--trace", "all", "--decode", DECODED,
            )  # fmt: skip
        write_json(
            unfinished / "manifest.json",
            {"version": 1, "case": recipe, "files": hashes_of(unfinished), "program": program_hash,
             "provenance": "dsa-reference init, then dsa-reference model in each tier, every stage traced"},
        )  # fmt: skip
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    return folder
