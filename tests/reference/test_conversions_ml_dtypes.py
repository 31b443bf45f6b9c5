"""bf16, e4m3 and ue8m0 against ml-dtypes, on every bf16 number, every midpoint and the float32 numbers beside them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def records():
    program = Path(os.environ.get("TOUCHSTONE_BUILD", REPOSITORY / "build")) / "tests" / "reference" / "dump_conversions"
    raw = subprocess.run([program], capture_output=True, check=True).stdout
    table = np.frombuffer(raw, [("x", "<f4"), ("bf16", "<u2"), ("e4m3", "u1"), ("ue8m0", "u1")])
    assert len(table) == 65536 * 6
    return table


def test_bf16(records):
    with np.errstate(invalid="ignore"):
        theirs = records["x"].astype(ml_dtypes.bfloat16).view(np.uint16)
    nan = np.isnan(records["x"])
    assert np.array_equal(theirs[~nan], records["bf16"][~nan])
    assert (records["bf16"][nan] == 0x7FFF).all()


def test_e4m3(records):
    # ml-dtypes turns what is too large into NaN; ours saturates, as kernels do. Clipping first makes them comparable.
    with np.errstate(invalid="ignore"):
        theirs = np.clip(records["x"], -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    nan = np.isnan(records["x"])
    assert np.array_equal(theirs[~nan], records["e4m3"][~nan])
    assert (records["e4m3"][nan] & 0x7F == 0x7F).all()


def test_ue8m0(records):
    x = records["x"].astype(np.float64)
    usable = np.isfinite(x) & (x > 0) & (x <= 2.0**127)
    mantissa, exponent = np.frexp(x[usable])  # x = mantissa 2^exponent, mantissa in [1/2, 1)
    ceiling = np.where(mantissa == 0.5, exponent - 1, exponent)
    assert np.array_equal(np.maximum(ceiling, -127) + 127, records["ue8m0"][usable])
    powers = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    assert np.array_equal(powers[:255], 2.0 ** (np.arange(255) - 127)) and np.isnan(powers[255])
    unusable = np.isnan(x) | np.signbit(x) & (x != 0)
    assert (records["ue8m0"][unusable] == 255).all()
