"""How is a case checked whose weights are tens of gigabytes? V3.2's experts: 11.3e9 numbers, of which two tokens visit 5 percent.

NumPy would draw them for half an hour, and a plug-in's worker may not hold them. Here the GPU draws each tensor from its
recipe, the same numbers bit for bit (docs/case-format.md, "Fills"), and the library is called on them where they lie. The
reference's answer makes only the experts that are visited; it takes the CPU minutes all the same, is computed beside the
other checks (`answers`) and kept in build/golden.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from touchstone import cases, check, dtypes, fill, judge, make, philox
from touchstone.files import sha256

from .library import DTYPES, Library

LARGE = 8 << 30  # bytes of inputs; smaller cases go through files, as everybody's
SMALL_TENSOR = 1 << 22  # elements that NumPy may draw
AT_ONCE = 1 << 25  # elements, in some ten words of 8 bytes each


def is_large(case: cases.Case) -> bool:
    """Whether its inputs are drawn on the GPU."""
    entries = case.entry["tensors"].values()
    return sum(math.prod(e["shape"]) * dtypes.storage(e["dtype"]).itemsize for e in entries) > LARGE


def words(elements: torch.Tensor, tensor_id: int, seed: int) -> tuple:
    """philox.philox on int64 tensors: products wrap at 2^64, which keeps both of their halves. -> w0 ... w3"""
    m0, m1 = (int(m) for m in philox.MULTIPLIERS)
    word = philox.WORD
    c0, c1, c2, c3 = elements & word, elements >> 32, torch.full_like(elements, tensor_id), torch.zeros_like(elements)
    low, high = seed & word, seed >> 32
    for _ in range(10):
        a, b = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (b >> 32 & word) ^ c1 ^ low, b & word, (a >> 32 & word) ^ c3 ^ high, a & word
        low, high = (low + philox.KEY_STEPS[0]) & word, (high + philox.KEY_STEPS[1]) & word
    return c0, c1, c2, c3


def drawn(entry: dict, name: str, seed: int, device: str = "cuda") -> torch.Tensor:
    """fill.materialise on the device: large tensors of normal numbers there, others by NumPy."""
    shape, dtype = entry["shape"], DTYPES[entry["dtype"]]
    count, recipe = math.prod(shape), entry["fill"].get("normal", {})
    if count <= SMALL_TENSOR or set(recipe) != {"std"} or "set" in entry or "set_rows" in entry:
        array = np.ascontiguousarray(fill.materialise(entry, name, seed))
        return torch.from_numpy(array.view(np.uint8)).to(device).view(dtype).view(shape)
    scale = float(np.float32(recipe["std"] / fill.BELL_DEVIATION))
    out = torch.empty(count, dtype=dtype, device=device)
    for first in range(0, count, AT_ONCE):
        elements = torch.arange(first, min(first + AT_ONCE, count), device=device)
        bell = sum((w & 0xFFFF) + (w >> 16) for w in words(elements, philox.tensor_id(name), seed)) - 262140
        numbers = bell.to(torch.float32) * scale
        out[first : first + len(elements)] = (numbers.clamp(-448, 448) if entry["dtype"] == "float8_e4m3" else numbers).to(dtype)
    return out.view(shape)


def answers(chosen: list[cases.Case], pool: concurrent.futures.Executor) -> dict[str, concurrent.futures.Future]:
    """The reference's answers to the large ones, begun now. -> case's name -> what to wait for"""
    program = make.reference_program()
    return {c.name: pool.submit(make.make_one, c, make.DEFAULT, program, sha256(program)) for c in chosen if is_large(c)}


def checked(case: cases.Case, library: Library, options: check.Options) -> check.Checked:
    """Outputs against the reference's whole chain: with other experts than its own they would be far from it."""
    description = check.described(case, options)
    tensors = {n: drawn(e, n, description["seed"]) for n, e in description["tensors"].items()}
    try:
        call = library.call(case.op, tensors, description["parameters"], description["conventions"])
    except RuntimeError as refusal:
        return check.Checked(case, "not implemented", str(refusal))
    runs = []
    for _ in range(2):
        for tensor in call.outputs.values():
            tensor.view(torch.uint8).fill_(0xFF)  # NaN
        call.run()
        torch.cuda.synchronize()
        runs.append({n: t.view(torch.uint8).cpu().numpy() for n, t in call.outputs.items()})
    for name, array in runs[0].items():
        if array.tobytes() != runs[1][name].tobytes():
            return check.Checked(case, "wrong", f"{name} differs between two runs on the same inputs")
    with tempfile.TemporaryDirectory(prefix="touchstone_") as scratch:
        golden = check.made_golden(case, options)
        if golden is None:
            folder = Path(scratch) / "in"
            folder.mkdir()
            (folder / "case.json").write_text(json.dumps(description), encoding="utf-8")  # the reference draws for itself
            golden = check.golden_of(description, folder, Path(scratch) / "out", options)
        outputs = {n: a.view(dtypes.storage(golden.dtype(n))).reshape(call.outputs[n].shape) for n, a in runs[0].items()}
        verdicts = judge.judge(golden, outputs, sorted(outputs), options.tier, options.against, options.claims)
    wrong = next((v.sentence for v in verdicts if not v.right), "")
    return check.Checked(case, "right" if judge.right(verdicts) else "wrong", wrong, verdicts)
