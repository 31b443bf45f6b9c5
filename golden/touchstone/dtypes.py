"""How do bf16 and fp8 live in NumPy, which has neither? As their bytes: uint16 and uint8. docs/case-format.md."""

import ml_dtypes
import numpy as np

from touchstone import require

# logical dtype -> the NumPy dtype in which it is stored
STORAGE = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "float8_e4m3": np.dtype(np.uint8),
    "uint8": np.dtype(np.uint8),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}
FLOATING = ("float64", "float32", "bfloat16", "float8_e4m3")
E4M3_MAX = np.float32(448.0)  # 1.75 * 2^8
FLOAT32_MAX = float(np.finfo(np.float32).max)


def storage(dtype: str) -> np.dtype:
    """The NumPy dtype that stores the logical `dtype`. Refuses an unknown one."""
    require(dtype in STORAGE, f'there is no dtype named "{dtype}"; there are {", ".join(STORAGE)}')
    return STORAGE[dtype]


def to_bfloat16(x) -> np.ndarray:
    """Rounds float32 numbers to bfloat16, to nearest, ties to even. NaN is 0x7fff. -> uint16, x's shape"""
    x = np.asarray(x, dtype=np.float32)
    with np.errstate(over="ignore"):
        bits = x.astype(ml_dtypes.bfloat16).view(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), bits)


def from_bfloat16(bits) -> np.ndarray:
    """uint16 -> float32, exactly."""
    return np.asarray(bits, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)


def to_e4m3(x) -> np.ndarray:
    """Rounds float32 numbers to e4m3, to nearest, ties to even.

    Magnitudes beyond 448, infinity included, saturate (a plain ml_dtypes cast makes NaN of them); NaN keeps its
    sign. -> uint8, x's shape
    """
    x = np.asarray(x, dtype=np.float32)
    bits = np.clip(x, -E4M3_MAX, E4M3_MAX).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return np.where(np.isnan(x), np.where(np.signbit(x), np.uint8(0xFF), np.uint8(0x7F)), bits)


def from_e4m3(bits) -> np.ndarray:
    """uint8 -> float32, exactly."""
    return np.asarray(bits, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def to_storage(numbers, dtype: str) -> np.ndarray:
    """Rounds numbers into the logical dtype: to nearest even, bf16 and e4m3 by way of float32.

    Integer dtypes take whole numbers in their range; others are refused. -> `storage(dtype)`, same shape
    """
    numbers = np.asarray(numbers)
    stored = storage(dtype)
    if dtype in FLOATING:
        with np.errstate(over="ignore"):
            if dtype == "bfloat16":
                return to_bfloat16(numbers.astype(np.float32))
            if dtype == "float8_e4m3":
                return to_e4m3(numbers.astype(np.float32))
            return numbers.astype(stored)
    lowest, highest = whole_range(dtype)
    fits = (numbers >= lowest) & (numbers <= highest) & (numbers == np.trunc(numbers))
    if not fits.all():
        require(False, f"the number {numbers[~fits].flat[0]} cannot be stored as {dtype}")
    return numbers.astype(stored)


def from_storage(array, dtype: str) -> np.ndarray:
    """Stored numbers as NumPy's own: float32 for bf16 and e4m3, others as they are."""
    array = np.asarray(array)
    require(array.dtype == storage(dtype), f"{dtype} is stored as {storage(dtype)}; the array is {array.dtype}")
    if dtype == "bfloat16":
        return from_bfloat16(array)
    if dtype == "float8_e4m3":
        return from_e4m3(array)
    return array


def whole_range(dtype: str) -> tuple[int, int]:
    """The lowest and highest whole number that an integer dtype holds and float64 holds exactly."""
    if dtype == "bool":
        return 0, 1
    if dtype == "int64":
        return -(2**53), 2**53
    info = np.iinfo(storage(dtype))
    return int(info.min), int(info.max)
