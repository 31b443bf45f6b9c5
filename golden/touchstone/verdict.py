"""What a judgement is made of: a golden, and a verdict on one tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from . import dtypes
from .cases import read_json


class Golden:
    """A golden's folder: golden.json, inputs, and the tensors of each tier. docs/case-format.md"""

    def __init__(self, folder: Path):
        self.folder = folder
        self.meta = read_json(folder / "golden.json")
        self.case = self.meta["case"]
        self.op = self.case["op"]
        self.conventions = self.meta["conventions"]
        self._read: dict = {}

    @property
    def names(self) -> list[str]:
        """Every output and stage, in the order of computation where golden.json keeps it."""
        return list(self.meta["tensors"])

    def dtype(self, name: str) -> str:
        return self.meta["tensors"][name]["dtype"]

    def scale(self, name: str) -> str:
        return self.meta["tensors"][name].get("scale", "")

    def stored(self, tier: str, name: str) -> np.ndarray | None:
        """As the file has it; None where there is none."""
        key = tier, name
        if key not in self._read:
            path = self.folder / tier / f"{name}.npy"
            self._read[key] = np.load(path, allow_pickle=False) if path.exists() else None
        return self._read[key]

    def deployed(self, name: str) -> np.ndarray:
        """float64 numbers of the deployed tier."""
        return dtypes.from_storage(self.stored("deployed", name), self.dtype(name)).astype(np.float64)

    @cached_property
    def inputs(self):
        from .telling.inputs import Inputs

        return Inputs.of_case(self.case, self.folder / "inputs")


@dataclass
class Verdict:
    """What became of one tensor."""

    name: str
    right: bool
    sentence: str  # what is wrong, or how well it fits
    ratio: float = 0.0  # worst error over bound
    snr: float = float("inf")  # decibels, against the exact tier
    notes: list[str] = field(default_factory=list)
    wrong_share: float = 0.0
