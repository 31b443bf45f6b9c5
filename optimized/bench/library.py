"""Calls a library of dsa.h on torch tensors that lie on the GPU, on torch's current stream."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import torch
from touchstone import clib, contract

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float8_e4m3": torch.float8_e4m3fn,
          "uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64, "bool": torch.bool}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Library:
    """A library whose functions take device memory.

    call(op, tensors, parameters) prepares a call once: outputs and workspace are allocated, and what comes back can be
    run again and again, inside a CUDA graph too, since it allocates nothing.
    """

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path.resolve()))
        self.library.dsa_last_error.restype = ctypes.c_char_p

    def error_text(self) -> str:
        """The last refusal's sentence."""
        return self.library.dsa_last_error().decode()

    def call(self, op: str, tensors: dict[str, torch.Tensor], parameters: dict | None = None, conventions="deepseek-v3.2-exp") -> Call:
        """One prepared call. tensors: by the contract's names, packed, on the GPU."""
        return Call(self, op, tensors, parameters or {}, conventions)


class Call:
    """outputs: name -> tensor; run() fills them."""

    def __init__(self, library: Library, op: str, tensors: dict, parameters: dict, conventions):
        spec = contract.OPS[op]
        self.tensors = tensors  # kept alive
        self.args = clib.STRUCTS[op]()
        for name, tensor in tensors.items():
            setattr(self.args, name, described(tensor))
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        sizes = contract.bound_axes(spec, shapes, parameters)
        self.outputs = {}
        for (field, _), output in zip(clib.fields(spec)[len(spec.inputs) :], spec.outputs):
            shape = contract.output_shapes(spec, shapes, parameters)[output.name]
            dtype = DTYPES["float8_e4m3" if output.dtype == "quantised" else output.dtype]
            self.outputs[output.name] = torch.empty(shape, dtype=dtype, device="cuda")
            setattr(self.args, field, described(self.outputs[output.name]))
        for name, kind in clib.fields(spec):
            if kind in ("int64_t", "double") and name in parameters:
                setattr(self.args, name, parameters[name])
            elif kind == "int64_t" and name in sizes:
                setattr(self.args, name, sizes[name])
        self.case_json = json.dumps({"parameters": parameters, "conventions": conventions}).encode()
        self.args.case_json = self.case_json
        self.function = getattr(library.library, "dsa_" + op)
        self.error = library.error_text
        measure = getattr(library.library, f"dsa_{op}_workspace")
        measure.restype = ctypes.c_int64
        size = measure(ctypes.byref(self.args))
        if size < 0:
            raise RuntimeError(self.error())
        self.workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        self.args.workspace, self.args.workspace_bytes = self.workspace.data_ptr(), size

    def run(self) -> None:
        """Starts the op on torch's current stream; refuses with its sentence."""
        self.args.stream = torch.cuda.current_stream().cuda_stream
        if self.function(ctypes.byref(self.args)) != 0:
            raise RuntimeError(self.error())


def described(tensor: torch.Tensor) -> clib.Tensor:
    """A torch tensor as dsa.h's struct."""
    one = clib.Tensor(tensor.data_ptr(), clib.DTYPES[NAMES[tensor.dtype]], tensor.dim())
    one.shape[: tensor.dim()] = tensor.shape
    one.stride[: tensor.dim()] = tensor.stride()
    return one
