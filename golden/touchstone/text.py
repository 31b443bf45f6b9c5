"""The real texts: a V3.2-shaped model of some million random weights reads Shakespeare byte by byte, and a smaller one,
trained (golden/trained), goes on with two books whose ends it has not seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import Refusal
from .cases import HOME
from .files import hashes_of, sha256, write_json

DECODED = 16


@dataclass(frozen=True)
class Reading:
    """One model over the beginning of one text."""

    text: Path
    config: Path
    length: int  # T, bytes
    seed: int = 0  # of random weights
    weights: Path | None = None  # trained ones instead

    @property
    def name(self) -> str:
        """The golden's full name."""
        return f"model/{self.text.stem}"

    def tokens(self) -> np.ndarray:
        """The first bytes of the text, int32 [T]."""
        return np.frombuffer(self.text.read_bytes()[: self.length], dtype=np.uint8).astype(np.int32)

    def recipe(self) -> dict:
        """Everything that the golden follows from."""
        weights = {"weights": sha256(self.weights)} if self.weights else {"seed": self.seed}
        return weights | {"text": sha256(self.text), "tokens": self.length, "decoded": DECODED, "config": json.loads(self.config.read_text())}


TRAINED = HOME / "trained"
SHAKESPEARE = Reading(HOME / "text" / "as_you_like_it.txt", HOME / "text" / "config.json", 768, seed=20261124)
ALICE, PARADISE = (
    Reading(TRAINED / name, TRAINED / "config.json", 256, weights=TRAINED / "model.safetensors")
    for name in ("alice_in_wonderland.txt", "paradise_lost.txt")
)
READINGS = (SHAKESPEARE, ALICE, PARADISE)


def run_program(*command) -> None:
    """Runs a program; what it says when it fails is the refusal."""
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise Refusal(run.stderr.strip() or f"{command[0]} stopped with status {run.returncode}")


def make_text(reading: Reading, out: Path, program: Path) -> Path:
    """Runs the model over the text in both tiers; every stage of every layer is a golden. -> the golden's folder."""
    folder = out / reading.name
    recipe = reading.recipe()
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
        shutil.copy(reading.config, inputs / "config.json")
        np.save(inputs / "tokens.npy", reading.tokens())
        weights = inputs / "model.safetensors"
        if reading.weights:
            shutil.copy(reading.weights, weights)
        else:
            run_program(program, "init", "--config", reading.config, "--seed", reading.seed, "--out", weights)
        for tier in ("exact", "deployed"):
            run_program(
                program, "model", "--config", reading.config, "--weights", weights, "--tokens", inputs / "tokens.npy",
                "--out", unfinished / tier, "--tier", tier, "--trace", "all", "--decode", DECODED,
            )  # fmt: skip
        made_by = "kept weights, then dsa-reference model" if reading.weights else "dsa-reference init, then dsa-reference model"
        write_json(
            unfinished / "manifest.json",
            {"version": 1, "case": recipe, "files": hashes_of(unfinished), "program": program_hash,
             "provenance": made_by + " in each tier, every stage traced"},
        )  # fmt: skip
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    return folder
