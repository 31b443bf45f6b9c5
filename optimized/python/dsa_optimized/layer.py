"""How does one layer run through dsa_transformer_block? Its weights lie on the device, and so does its cache.

The block shows its new latents, keys and scales (dsa_show); they are copied behind those of the tokens before, device
to device, in the order of the stream.
"""

from __future__ import annotations

import ctypes
import json

import numpy as np
from touchstone import clib, dtypes, require

CACHED = {"kv": "cache_kv", "indexer_k": "cache_k", "indexer_k_scale": "cache_k_scale"}  # stage -> input


class Device:
    """A loaded library, the memory it wants, and one workspace for all calls."""

    def __init__(self, path: str):
        self.library = clib.Library(path)
        self.memory = self.library.memory
        self.workspace, self.workspace_bytes = 0, 0

    def put(self, array: np.ndarray, dtype: str) -> clib.Tensor:
        """A packed array on the device. dtype: its logical one"""
        array = np.ascontiguousarray(array)
        tensor = self.room(array.shape, dtype)
        if array.nbytes:
            self.memory.write(tensor.data, array)
        return tensor

    def room(self, shape: tuple, dtype: str) -> clib.Tensor:
        """Room for a tensor, as it is found."""
        size = int(np.prod(shape, dtype=np.int64)) * dtypes.storage(dtype).itemsize
        return clib.tensor_at(self.memory.allocate(max(size, 1)), tuple(shape), dtype)

    def get(self, tensor: clib.Tensor) -> np.ndarray:
        """A tensor's numbers as they are stored, on the host."""
        shape, dtype = tuple(tensor.shape[: tensor.rank]), dtypes.storage(clib.DTYPE_NAMES[tensor.dtype])
        self.memory.synchronise()
        return np.frombuffer(self.memory.read(tensor.data, size_of(tensor)), dtype).reshape(shape)

    def free(self, tensor: clib.Tensor) -> None:
        """Gives a tensor's memory back."""
        self.memory.free(tensor.data)

    def call(self, op: str, args) -> None:
        """One call, in a workspace as large as it wants."""
        measure = getattr(self.library.library, f"dsa_{op}_workspace")
        measure.restype = ctypes.c_int64
        size = measure(ctypes.byref(args))
        require(size >= 0, f"dsa_{op}: {self.library.error()}")
        if size > self.workspace_bytes:
            if self.workspace:
                self.memory.synchronise()
                self.memory.free(self.workspace)
            self.workspace, self.workspace_bytes = self.memory.allocate(size), size
        args.workspace, args.workspace_bytes = self.workspace, self.workspace_bytes
        status = getattr(self.library.library, "dsa_" + op)(ctypes.byref(args))
        require(status == 0, f"dsa_{op}: {self.library.error()}")


def size_of(tensor: clib.Tensor) -> int:
    """Bytes of a packed tensor."""
    count = int(np.prod(tensor.shape[: tensor.rank], dtype=np.int64))
    return count * dtypes.storage(clib.DTYPE_NAMES[tensor.dtype]).itemsize


def rows(tensor: clib.Tensor, first: int, count: int) -> clib.Tensor:
    """Rows first ... first + count - 1 of a packed tensor."""
    shape = tuple(tensor.shape[: tensor.rank])
    row = size_of(tensor) // shape[0]
    return clib.tensor_at(tensor.data + first * row, (count, *shape[1:]), clib.DTYPE_NAMES[tensor.dtype])


class Layer:
    """One transformer block with its weights and its cache of `capacity` tokens."""

    def __init__(self, device: Device, weights, parameters: dict, conventions, quantised: str, capacity: int):
        """weights: names -> (array, logical dtype), the contract's. quantised: the dtype of the indexer's keys"""
        self.device, self.tokens = device, 0
        self.args = clib.STRUCTS["transformer_block"]()
        known = {name for name, _ in self.args._fields_}
        for name, (array, dtype) in weights.items():
            require(name in known, f"dsa.h has no place for {name}: FP8 weights are for the feed-forward nets only; dequantise the others")
            setattr(self.args, name, device.put(array, dtype))
        self.args.case_json = json.dumps({"parameters": parameters, "conventions": conventions}).encode()
        latent, key = weights["W_dkv"][0].shape[1], weights["W_kI"][0].shape[1]
        self.cache = {"kv": device.room((capacity, latent), "bfloat16"), "indexer_k": device.room((capacity, key), quantised),
                      "indexer_k_scale": device.room((capacity,), "float32")}  # fmt: skip
        self.failure: Exception | None = None
        self.listener = clib.LISTENER(self._listen)

    def _listen(self, _self, name, tensor, _stream) -> None:
        try:
            stage = name.decode()
            if stage in self.cache:
                room = rows(self.cache[stage], self.tokens, tensor.contents.shape[0])
                self.device.memory.copy(room.data, tensor.contents.data, size_of(tensor.contents))
        except Exception as error:  # noqa: BLE001 - an exception cannot pass through C
            self.failure = self.failure or error

    def run(self, hidden: clib.Tensor, positions: clib.Tensor, y: clib.Tensor) -> None:
        """hidden [T, D] of tokens that follow on those in the cache -> y [T, D]"""
        self.args.hidden, self.args.positions, self.args.y = hidden, positions, y
        for stage, name in CACHED.items():
            setattr(self.args, name, rows(self.cache[stage], 0, self.tokens) if self.tokens else clib.Tensor())
        show = self.device.library.library.dsa_show
        show(self.listener, None)
        try:
            self.device.call("transformer_block", self.args)
        finally:
            show(clib.LISTENER(), None)
        if self.failure is not None:
            raise self.failure
        self.tokens += hidden.shape[0]
