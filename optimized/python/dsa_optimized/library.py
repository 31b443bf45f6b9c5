"""How is a kernel called from Python? As a method of its library, on arrays of any framework that speaks DLPack.

    dsa = Library("build/libdsa_optimized.so")            # or libdsa_simulated.so, on arrays of the host
    out, lse, max_logit = dsa.sparse_prefill(q, kv, indices, scale=0.135)

What a call refuses is an exception with one sentence: BadArgument (a ValueError), Misaligned, NoDevice and LaunchFailed
(RuntimeErrors), MemoryError, and NotImplementedError where a library, a level or a convention is not offered.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from touchstone.conventions import expanded

from . import _native
from .ops import Ops
from .serving import Serving

NUMPY = {"float64": np.float64, "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float8_e4m3": ml_dtypes.float8_e4m3fn,
         "uint8": np.uint8, "int32": np.int32, "int64": np.int64, "bool": np.bool_}  # fmt: skip
QUANTISED = ("act_quant", "indexer_project")  # their outputs' dtype follows the quantiser


class Library(Ops, Serving):
    """A library of dsa.h, loaded by path. Its ops are methods; `offers` names those that it has. Beside them it plans steps of
    decoding over pages (serving.py)."""

    def __init__(self, path: str | Path):
        self._native = _native.Library(str(Path(path).resolve()))
        self._scratch: dict[int, _native.Array] = {}  # by stream

    @property
    def offers(self) -> list[str]:
        """The ops that it has."""
        return self._native.offers

    @property
    def wants_device_memory(self) -> bool:
        """Whether arrays must lie on a GPU; otherwise on the host."""
        return self._native.wants_device_memory

    def choose_level(self, level: int) -> None:
        """Which level this thread's calls run; 0: the highest that takes the call."""
        self._native.choose_level(level)

    @contextlib.contextmanager
    def at_level(self, level: int) -> Iterator[None]:
        """The same for a while."""
        self._native.choose_level(level)
        try:
            yield
        finally:
            self._native.choose_level(0)

    def synchronise(self) -> None:
        """Waits for all kernels."""
        self._native.synchronise()

    def empty(self, shape: tuple, dtype: str) -> _native.Array:
        """Room in the library's memory. dtype: one of dsa.h's"""
        return self._native.empty(list(shape), dtype)

    def put(self, array: np.ndarray, dtype: str | None = None) -> _native.Array:
        """A NumPy array in the library's memory. dtype: one of dsa.h's, where the array holds its bytes only"""
        array = np.ascontiguousarray(array)
        placed = self.empty(array.shape, dtype or _named(array.dtype))
        placed.write(array.reshape(-1).view(np.uint8))
        return placed

    @staticmethod
    def numpy(array: _native.Array) -> np.ndarray:
        """What an array of the library's memory holds, once the kernels are through."""
        held = np.empty(array.shape, NUMPY[array.dtype])
        array.read(held)
        return held

    def _call(self, op, inputs, outputs, parameters, conventions, stream, allocate, stages=None):
        given = {n: v.item() if isinstance(v, np.generic) else v for n, v in parameters.items() if v is not None}
        about = {"parameters": given} if given else {}
        if conventions is not None:
            about["conventions"] = conventions
        quantised = "float8_e4m3"
        if op in QUANTISED and expanded(conventions or "deepseek-v3.2-exp")["quantizer"] == "none":
            quantised = "bfloat16"
        allocate = allocate or self._allocator(inputs[0])
        scratch = (lambda size: self._workspace(size, stream)) if allocate == self._in_library else (lambda size: allocate((size,), "uint8"))
        filled = self._native.call(op, inputs, outputs, given, json.dumps(about) if about else None, stream or 0, quantised, allocate,
                                   scratch, stages)  # fmt: skip
        return filled[0] if len(filled) == 1 else tuple(filled)

    def _allocator(self, first) -> Callable:
        """allocate(shape, dtype) in the framework of a call's first array, where that can allocate."""
        framework = type(first).__module__.partition(".")[0]
        if framework == "torch":
            from .torch_ops import allocator

            return allocator(first.device)
        if self.wants_device_memory or framework == "dsa_optimized":
            return self._in_library
        return _in_numpy

    def _in_library(self, shape, dtype: str) -> _native.Array:
        return self._native.empty(shape, dtype)

    def _workspace(self, size: int, stream: int | None) -> _native.Array:
        """One a stream, since work that stands in it may still use it; a larger one takes its place."""
        held = self._scratch.get(stream or 0)
        if held is None or held.nbytes < size:
            if held is not None:
                self.synchronise()
            held = self._scratch[stream or 0] = self.empty((size,), "uint8")
        return held


def _in_numpy(shape, dtype: str) -> np.ndarray:
    return np.empty(shape, NUMPY[dtype])


def _named(dtype: np.dtype) -> str:
    for name, known in NUMPY.items():
        if dtype == known:
            return name
    raise _native.BadArgument(f"dsa.h has no dtype {dtype}; it has {', '.join(NUMPY)}")
