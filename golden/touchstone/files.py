"""Hashes, manifests and the lock: how goldens are known to be the ones that were made."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from .cases import HOME, read_json

LOCK = HOME / "tensors" / "lock.json"
KEPT = HOME / "tensors"
TIERS = ("inputs", "exact", "exact_bound", "deployed", "deployed_bound")


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(stream)


def _sha256(stream) -> str:  # Python 3.10
    digest = hashlib.sha256()
    for chunk in iter(lambda: stream.read(1 << 20), b""):
        digest.update(chunk)
    return digest.hexdigest()


def write_json(path: Path, content) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but its manifest, by path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def combined(hashes: dict[str, str], tier: str) -> str | None:
    """One hash for all files of a tier; None if it has none. For the choices of words see `sha256sum`."""
    lines = [f"{digest}  {path}\n" for path, digest in sorted(hashes.items()) if path.startswith(tier + "/")]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def lock_entry(hashes: dict[str, str]) -> dict[str, str]:
    """What lock.json keeps of a golden: one hash a tier."""
    return {tier: value for tier in TIERS if (value := combined(hashes, tier)) is not None}


def read_lock() -> dict:
    return read_json(LOCK)["goldens"] if LOCK.exists() else {}


def write_lock(goldens: dict) -> None:
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    write_json(LOCK, {"version": 1, "goldens": goldens})


def shapes_and_dtypes(folder: Path) -> dict[str, dict]:
    """What each .npy file holds, without reading its data."""
    out = {}
    for path in sorted(folder.rglob("*.npy")):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        out[path.relative_to(folder).as_posix()] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    return out
