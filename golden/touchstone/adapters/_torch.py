"""How do our arrays become CUDA tensors and come back? Bit for bit; PyTorch is imported when it is needed.

NumPy's bf16 and e4m3 (ml_dtypes) are unknown to PyTorch's from_numpy and .numpy(): they cross as int16 and uint8 and
are viewed as what they are on the other side.
"""

from __future__ import annotations

import importlib
from typing import Callable

import numpy as np

from touchstone import Missing

from ._arrays import BF16, E4M3


def imported(peer: str, module: str, install: str):
    """A peer's module. Refuses where it, or PyTorch, is not installed.

    peer: its name in the sentence  module: what to import  install: the command that brings it
    """
    try:
        importlib.import_module("torch")
    except ImportError:
        raise Missing(f"{peer} needs PyTorch, which is not installed: install it for your CUDA first") from None
    try:
        return importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - half an installation may raise anything
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Missing(f"{peer} cannot be imported as {module} ({why}): install it with `{install}`") from None


def member(module, peer: str, name: str):
    """module.name. Refuses where this version of the peer does not have it."""
    if not hasattr(module, name):
        raise Missing(f"this version of {peer} has no {module.__name__}.{name}: install one that has")
    return getattr(module, name)


def cuda():
    """The device that peers run on. Refuses where there is none."""
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise Missing("the peer needs a CUDA GPU, and PyTorch sees none: run on a machine with one")
    return torch.device("cuda")


def compute_capability() -> tuple[int, int]:
    """Of the GPU: (9, 0) is Hopper. Refuses where there is none."""
    return importlib.import_module("torch").cuda.get_device_capability(cuda())


def to_torch(x: np.ndarray, device):
    """A tensor with x's shape, dtype and bits."""
    torch = importlib.import_module("torch")
    x = np.ascontiguousarray(x)
    if not x.flags.writeable:
        x = x.copy()
    if x.dtype == BF16:
        return torch.from_numpy(x.view(np.int16)).to(device).view(torch.bfloat16)
    if x.dtype == E4M3:
        return torch.from_numpy(x.view(np.uint8)).to(device).view(torch.float8_e4m3fn)
    return torch.from_numpy(x).to(device)


def from_torch(x) -> np.ndarray:
    """An array with x's shape, dtype and bits."""
    torch = importlib.import_module("torch")
    x = x.detach().contiguous()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).cpu().numpy().view(BF16)
    if x.dtype == torch.float8_e4m3fn:
        return x.view(torch.uint8).cpu().numpy().view(E4M3)
    return x.cpu().numpy()


def over(container, change: Callable, kind: type):
    """`container` with `change` applied to every `kind` in it: through tuples, lists and dicts."""
    if isinstance(container, kind):
        return change(container)
    if isinstance(container, (tuple, list)):
        return type(container)(over(x, change, kind) for x in container)
    if isinstance(container, dict):
        return {key: over(x, change, kind) for key, x in container.items()}
    return container


def on_cuda(function: Callable, writes: tuple[str, ...] = (), device=None) -> Callable:
    """`function`, which takes and gives tensors, as one that takes and gives NumPy arrays.

    writes: the keyword arguments that it writes into; the caller's arrays then hold what it wrote.
    """
    torch = importlib.import_module("torch")
    where = device or cuda()

    def call(*args, **kwargs):
        args, tensors = over((args, kwargs), lambda x: to_torch(x, where), np.ndarray)
        result = function(*args, **tensors)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for name in writes:
            kwargs[name][...] = from_torch(tensors[name])
        return over(result, from_torch, torch.Tensor)

    return call
