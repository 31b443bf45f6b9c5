"""What several adapters do to arrays: padding, bytes, pages, and the rows of a selection."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from touchstone import require

BF16 = np.dtype(ml_dtypes.bfloat16)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
PAGE = 64  # tokens
SCALE = 0.1352337788608801  # V3.2's softmax scale, the default of our attention ops


def up_to(n: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least n, and at least one of them."""
    return max(1, -(-n // multiple)) * multiple


def padded(x: np.ndarray, axis: int, size: int, value) -> np.ndarray:
    """x with `value` behind it along `axis`, up to `size`; x itself where it has that size."""
    require(x.shape[axis] <= size, f"an axis of {x.shape[axis]} cannot be padded to {size}")
    if x.shape[axis] == size:
        return x
    shape = list(x.shape)
    shape[axis] = size - x.shape[axis]
    return np.concatenate([x, np.full(shape, value, x.dtype)], axis=axis)


def split_row(x: np.ndarray, first: int, sizes: tuple[int, int]) -> np.ndarray:
    """The last axis as two parts, each padded with zeros to its size.

    x: [..., first + rest] -> [..., sizes[0] + sizes[1]], the rest beginning at sizes[0]
    """
    return np.concatenate([padded(x[..., :first], -1, sizes[0], 0), padded(x[..., first:], -1, sizes[1], 0)], axis=-1)


def raw(x: np.ndarray) -> np.ndarray:
    """The bytes of each row. [..., n] -> uint8 [..., n * itemsize]"""
    return np.ascontiguousarray(x).view(np.uint8)


def pages_for(tokens: int) -> int:
    return -(-tokens // PAGE)


def has_duplicates(indices: np.ndarray) -> bool:
    """Whether a row of [..., k] names a position twice; negative entries are no positions."""
    rows = np.sort(indices, axis=-1)
    return bool(((rows[..., 1:] == rows[..., :-1]) & (rows[..., 1:] >= 0)).any())


def candidates_first(logits: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Each row's candidates [start, end) moved to its front, -inf behind them.

    logits: float32 [T, S]  start, end: int32 [T] -> float32 [T, S]
    """
    moved = np.full_like(logits, -np.inf)
    for t, (first, last) in enumerate(zip(start, end)):
        moved[t, : last - first] = logits[t, first:last]
    return moved
