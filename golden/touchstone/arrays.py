"""How do a case's tensors become the arrays of the user's library, and back? DLPack, the array interface, ml_dtypes."""

from __future__ import annotations

import importlib

import ml_dtypes
import numpy as np

from . import Missing, Refusal, dtypes, require

LIBRARIES = ("numpy", "torch", "cupy", "jax")
LOGICAL = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn)}


def library_of(name: str):
    """The module. Refuses where it is unknown or not installed."""
    require(name in LIBRARIES, f"the arrays' library must be one of {', '.join(LIBRARIES)}; it is {name}")
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(f"the library {name} is not installed: install it, or ask for another with --arrays") from None


def logical(array: np.ndarray, dtype: str) -> np.ndarray:
    """A stored array seen in its logical dtype: uint16 as ml_dtypes.bfloat16, uint8 as ml_dtypes.float8_e4m3fn."""
    return array.view(LOGICAL[dtype]) if dtype in LOGICAL else array


def given(array: np.ndarray, dtype: str, library: str = "numpy", device: str = "cpu"):
    """A copy of a stored array in the user's library and, where it has one, its own bf16 and e4m3 dtype."""
    array = np.array(array, order="C", copy=True)
    if library == "numpy":
        return logical(array, dtype)
    module = library_of(library)
    if library == "torch":
        bits = {"bfloat16": np.int16}.get(dtype)
        tensor = module.from_numpy(array.view(bits) if bits else array)
        own = {"bfloat16": module.bfloat16, "float8_e4m3": getattr(module, "float8_e4m3fn", None)}.get(dtype)
        return (tensor.view(own) if own is not None else tensor).to(device)
    if library == "jax":
        return importlib.import_module("jax.numpy").asarray(logical(array, dtype))
    return module.asarray(array)  # CuPy has no bf16 and no e4m3: their bits, as uint16 and uint8


def taken(array, name: str) -> np.ndarray:
    """Anybody's array as a NumPy array in a storage dtype. Refuses what is no array."""
    if type(array).__module__.partition(".")[0] == "torch":
        torch = importlib.import_module("torch")
        tensor = array.detach().cpu().contiguous()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(np.uint16)
        if tensor.dtype == getattr(torch, "float8_e4m3fn", None):
            return tensor.view(torch.uint8).numpy()
        return tensor.numpy()
    if type(array).__module__.partition(".")[0] == "cupy":
        return array.get()
    if isinstance(array, (int, float)) or not (
        hasattr(array, "__array__") or hasattr(array, "__array_interface__") or hasattr(array, "__dlpack__")
    ):
        raise Refusal(f"the output {name} must be an array (DLPack, or the array interface); it is a {type(array).__name__}")
    result = np.asarray(array) if hasattr(array, "__array__") or hasattr(array, "__array_interface__") else np.from_dlpack(array)
    if result.dtype in LOGICAL.values():
        result = result.view(dtypes.storage({v: k for k, v in LOGICAL.items()}[result.dtype]))
    return np.ascontiguousarray(result)
