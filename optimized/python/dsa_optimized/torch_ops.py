"""How does PyTorch see the kernels? As torch.ops.dsa.OP, one custom op each, made from the contract.

    from dsa_optimized import torch_ops
    torch_ops.load("build/libdsa_optimized.so")           # for tensors on a GPU; libdsa_simulated.so for those of the host
    out, lse, max_logit = torch.ops.dsa.sparse_prefill(q, kv, indices, scale=0.135)

Arguments are those of Library's methods; `conventions` is a preset's name or an object's JSON, `rope` an object's JSON.
Shapes and dtypes follow from the contract without a kernel, so that torch.compile(fullgraph=True) traces through. Where the
contract has a gradient, autograd uses it; elsewhere there is none, and it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from touchstone import contract
from touchstone.conventions import expanded
from touchstone.signatures import type_of

from . import torch_gradients
from ._native import BadArgument
from .library import QUANTISED, Library
from .torch_gradients import order, read

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float8_e4m3": torch.float8_e4m3fn,
          "uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64, "bool": torch.bool}  # fmt: skip
_libraries: dict[str, Library] = {}  # by the device type whose tensors they take


def load(path: str | Path) -> Library:
    """Calls on tensors of this library's memory, the host's or CUDA's, go to it from now on."""
    library = Library(path)
    _libraries["cuda" if library.wants_device_memory else "cpu"] = library
    return library


def allocator(device: torch.device) -> Callable:
    """allocate(shape, dtype) for Library's calls: PyTorch's own memory, which knows of streams."""
    return lambda shape, dtype: torch.empty(tuple(shape), dtype=DTYPES[dtype], device=device)


def _library_for(tensor: torch.Tensor) -> Library:
    found = _libraries.get(tensor.device.type)
    if found is None:
        which = "libdsa_optimized.so" if tensor.device.type == "cuda" else "libdsa_simulated.so"
        raise BadArgument(f"no library is loaded for tensors on {tensor.device}: torch_ops.load(\"build/{which}\") loads one")
    return found


def _schema(op: contract.Op) -> str:
    kinds = {"int": "SymInt?", "float": "float?", "bool": "bool?", "str": "str?", "dict": "str?"}
    tensors = [f"Tensor {t.name}" for t in op.inputs if not t.optional]
    tensors += [f"Tensor? {t.name}=None" for t in op.inputs if t.optional]
    keywords = [f"{kinds[type_of(p)]} {p}=None" for p in op.parameters] + ["str? conventions=None"]
    gives = ", ".join("Tensor" for _ in op.outputs)
    return f"({', '.join(tensors)}, *, {', '.join(keywords)}) -> {gives if len(op.outputs) == 1 else f'({gives})'}"


def _kernel(op: contract.Op) -> Callable:
    names = order(op)

    def run(*tensors, conventions=None, **parameters):
        given = dict(zip(names, tensors)) | {n: parameters.pop(n) for n in names if n in parameters}
        library = _library_for(tensors[0])
        stream = torch.cuda.current_stream(tensors[0].device).cuda_stream if tensors[0].is_cuda else None
        about = {n: read(n, v) for n, v in parameters.items()}
        # A tensor that learns does not pass through DLPack; the kernel sees its numbers.
        plain = {n: v if v is None else v.detach() for n, v in given.items()}
        return getattr(library, op.name)(**plain, **about, conventions=read("conventions", conventions), stream=stream)

    return run


def _fake(op: contract.Op) -> Callable:
    """The outputs' shapes and dtypes from the inputs', as the contract has them."""
    names = order(op)

    def shapes(*tensors, conventions=None, **parameters):
        given = dict(zip(names, tensors)) | {n: parameters.pop(n) for n in names if n in parameters}
        sizes = {n: tuple(t.shape) for n, t in given.items() if t is not None}
        asked = {n: v for n, v in parameters.items() if v is not None}
        quantised = "float8_e4m3"
        if op.name in QUANTISED and expanded(read("conventions", conventions) or "deepseek-v3.2-exp")["quantizer"] == "none":
            quantised = "bfloat16"
        made = contract.output_shapes(op, sizes, asked)
        outputs = tuple(tensors[0].new_empty(made[t.name], dtype=DTYPES[quantised if t.dtype == "quantised" else t.dtype])
                        for t in op.outputs)  # fmt: skip
        return outputs[0] if len(outputs) == 1 else outputs

    return shapes


def _register(op: contract.Op) -> torch.library.CustomOpDef:
    made = torch.library.custom_op(f"dsa::{op.name}", _kernel(op), mutates_args=(), schema=_schema(op))
    made.register_fake(_fake(op))
    return made


OPS = {name: _register(op) for name, op in contract.OPS.items()}
torch_gradients.register(OPS)

# Steps of decoding over pages (serving.py). They write new tokens into kv_pages and k_pages, which their schemas say.
FLAT = {"serving_step": "dsa_attention", "serving_block_step": "transformer_block"}  # the op whose arguments they share
CONTEXT = ("start", "cache_kv", "cache_k", "cache_k_scale")  # of the flat op
PAGES = ("kv_pages", "k_pages", "block_table", "context_lens")  # instead


def _serving(step: str, op: contract.Op) -> torch.library.CustomOpDef:
    inputs = [t for t in op.inputs if t.name not in CONTEXT]
    names = [t.name for t in inputs if not t.optional] + list(PAGES)
    written = {name: f"Tensor({alias}!)" for alias, name in zip("ab", PAGES)}
    kinds = {"int": "SymInt?", "float": "float?", "bool": "bool?", "str": "str?", "dict": "str?"}
    optional = [t.name for t in inputs if t.optional]
    arguments = [f"{written.get(name, 'Tensor')} {name}" for name in names] + [f"Tensor? {name}=None" for name in optional]
    keywords = [f"{kinds[type_of(p)]} {p}=None" for p in op.parameters] + ["str? conventions=None"]
    all_names = (*names, *optional)

    def run(*tensors, conventions=None, **parameters):
        given = dict(zip(all_names, tensors)) | {n: parameters.pop(n) for n in all_names if n in parameters}
        tokens, positions = (given.pop(n) for n in all_names[:2])
        pages = {n: given.pop(n) for n in PAGES}
        weights = {n: t.detach() for n, t in given.items() if t is not None}
        about = {n: read(n, v) for n, v in parameters.items()} | {"conventions": read("conventions", conventions)}
        return getattr(_library_for(tokens), f"plan_{step}")(tokens.detach(), positions, weights, **pages, **about).run()

    made = torch.library.custom_op(f"dsa::{step}", run, mutates_args=tuple(written), schema=f"({', '.join(arguments)}, *, {', '.join(keywords)}) -> Tensor")
    made.register_fake(lambda tokens, *_, **__: torch.empty_like(tokens))
    return made


SERVING = {step: _serving(step, contract.OPS[op]) for step, op in FLAT.items()}
