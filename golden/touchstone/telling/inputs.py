"""A case's input tensors, as numbers of a tier. docs/case-format.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import dtypes, fill, require

BLOCK = 128


class Inputs:
    """Tensors by name, in storage dtypes: read from files, generated from fills, or given."""

    def __init__(self, tensors: dict, seed: int = 0, folder: Path | None = None, arrays: dict | None = None):
        """tensors: name -> {"dtype", "shape", "fill"}, case.json's. arrays: name -> array in its storage dtype."""
        self.tensors, self.seed, self.folder = tensors, seed, folder
        self.arrays = dict(arrays or {})
        self.numbers: dict = {}

    @classmethod
    def of_case(cls, description: dict, folder: Path | None = None) -> Inputs:
        """The inputs of a case.json's content, with the folder that it lies in."""
        return cls(description["tensors"], description.get("seed", 0), folder)

    def has(self, name: str) -> bool:
        return name in self.tensors

    def dtype(self, name: str) -> str:
        return self.tensors[name]["dtype"]

    def shape(self, name: str) -> tuple:
        """The shape that case.json says; a missing tensor is refused."""
        require(self.has(name), f"this op needs a tensor named {name}; case.json has none")
        return tuple(self.tensors[name]["shape"])

    def is_fp8(self, name: str) -> bool:
        """Whether this is a weight in e4m3, with NAME_scale beside it."""
        return "W_" in name and self.has(name) and self.dtype(name) == "float8_e4m3"

    def stored(self, name: str) -> np.ndarray:
        """The tensor in its storage dtype."""
        shape = self.shape(name)
        if name not in self.arrays:
            path = self.folder / f"{name}.npy" if self.folder else None
            if path is not None and path.exists():
                self.arrays[name] = np.load(path, allow_pickle=False)
            else:
                self.arrays[name] = fill.materialise(self.tensors[name], name, self.seed)
        array = self.arrays[name]
        require(array.shape == shape, f"{name} must have the shape that case.json says, {list(shape)}; it has {list(array.shape)}")
        return array

    def number(self, name: str, tier) -> np.ndarray:
        """Floating-point numbers of the tier; FP8 weights are dequantised by their 128 x 128 blocks."""
        key = name, tier.name
        if key not in self.numbers:
            values = dtypes.from_storage(self.stored(name), self.dtype(name))
            if self.is_fp8(name):
                scale = dtypes.from_storage(self.stored(name + "_scale"), self.dtype(name + "_scale"))
                values = self._dequantized(values, scale)
            self.numbers[key] = values.astype(tier.real)
        return self.numbers[key]

    def number_of(self, name: str, expert: int, tier) -> np.ndarray:
        """Matrix `expert` of a stack [E, K, N]."""
        values = dtypes.from_storage(self.stored(name)[expert], self.dtype(name))
        if self.is_fp8(name):
            scale = dtypes.from_storage(self.stored(name + "_scale")[expert], self.dtype(name + "_scale"))
            values = self._dequantized(values, scale)
        return values.astype(tier.real)

    def integers(self, name: str) -> np.ndarray:
        require(self.has(name), f"this op needs a tensor named {name}; case.json has none")
        require(self.dtype(name) in ("int32", "int64"), f"{name} must be int32; it is {self.dtype(name)}")
        return self.stored(name).astype(np.int64)

    @staticmethod
    def _dequantized(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """values [..., K, N] * scale of each block, [..., K / 128, N / 128]; seen as [K, N] = [first, all others]."""
        rows = values.shape if scale.ndim == 3 else (values.shape[0], values[0].size)
        spread = np.repeat(np.repeat(scale, BLOCK, axis=-2), BLOCK, axis=-1)[..., : rows[-2], : rows[-1]]
        return (values.reshape(rows) * spread).reshape(values.shape)
