"""In which numbers does a formula run? The same two answers as everywhere in Touchstone: exact and deployed.

Spec section 8. A formula of this package is written once and asks its tier where a deployed kernel would round.
"""

from __future__ import annotations

import numpy as np

from .. import dtypes


class Exact:
    """What the mathematics says: float64, nothing rounded, nothing quantised."""

    name = "exact"
    real = np.float64
    quantises = False

    @staticmethod
    def bf16(x: np.ndarray) -> np.ndarray:
        """x as a bf16 store would leave it: here, as it is."""
        return x

    @staticmethod
    def e4m3(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """x in units of scale as an e4m3 store would leave it: here x itself, since no scale is used."""
        return x


class Deployed:
    """What a correct low-precision kernel computes: float32 sums, bf16 stores, e4m3 operands."""

    name = "deployed"
    real = np.float32
    quantises = True

    @staticmethod
    def bf16(x: np.ndarray) -> np.ndarray:
        """float32 rounded to bf16, to nearest even, as float32."""
        return dtypes.from_bfloat16(dtypes.to_bfloat16(x))

    @staticmethod
    def e4m3(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """x / scale rounded to e4m3, to nearest even, saturating at 448, as float32."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return dtypes.from_e4m3(dtypes.to_e4m3(x / scale))


TIERS = {"exact": Exact, "deployed": Deployed}
