"""The second telling: every op in NumPy, written from the specification and not from the C++.

Two tellings that agree within derived bounds are the basis of trust in the goldens. Formulas are small methods, so
that a known mistake (golden/mistakes) is a subclass that overrides one of them.

    telling = Telling(conventions, parameters, inputs, tier="deployed")
    record = telling.run("sparse_prefill")          # {"out": Shown(...), "lse": ..., "max_logit": ...}
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import dtypes, require
from ..conventions import expanded
from .attention import Attention
from .experts import Experts
from .gradient_ops import GradientOps
from .gradients import Gradients
from .inputs import Inputs
from .layers import Layers
from .model import Model
from .numbers import TIERS, Deployed
from .ops import Ops
from .projections import Projections
from .selection import Selection
from .training import Training
from .training_step import TrainingStep
from .vectors import Vectors

__all__ = ["Inputs", "Shown", "Telling"]


@dataclass
class Shown:
    """A tensor that a stage showed: stored in `dtype` in the deployed tier, float64 numbers in the exact tier."""

    array: np.ndarray
    dtype: str
    scale: str = ""  # as in golden.json


class Telling(Ops, GradientOps, TrainingStep, Model, Layers, Training, Gradients, Experts, Attention, Selection, Projections, Vectors):
    """One op on one case's inputs, in one tier.

    conventions: a preset's name or an object of switches. parameters: the case's. follow: a record, by name, of
    tensors that later stages work on in place of this telling's own; integer ones suffice to follow choices.
    """

    def __init__(self, conventions, parameters: dict, inputs: Inputs, tier: str = "deployed", follow: dict | None = None):
        require(tier in TIERS, f'the tier must be "exact" or "deployed"; it is {tier!r}')
        self.tier = TIERS[tier]
        self.conventions = expanded(conventions)
        self.parameters = parameters
        self.inputs = inputs
        self.follow = follow or {}
        self.record: dict[str, Shown] = {}
        self.eps = parameters.get("eps", 1e-6)

    @property
    def topk(self) -> int:
        """How many tokens a query may select."""
        require("topk" in self.parameters, "this op needs the parameter topk: how many tokens a query may select")
        return self.parameters["topk"]

    def run(self, op: str) -> dict[str, Shown]:
        """Every output and stage of the op, by name."""
        require(op in self.told(), f'there is no op named "{op}"; `touchstone list` shows them')
        with np.errstate(invalid="ignore", over="ignore", divide="ignore", under="ignore"):
            getattr(self, "op_" + op)()
        return self.record

    @classmethod
    def told(cls) -> list[str]:
        """The ops that this telling tells."""
        return [name[3:] for name in dir(cls) if name.startswith("op_")]

    def show(self, name: str, numbers, dtype: str, scale: str = "") -> None:
        """Shows an output: nothing works on it any more."""
        if self.tier is Deployed or dtype in ("int32", "uint8"):
            self.record[name] = Shown(dtypes.to_storage(numbers, dtype), dtype, scale)
        else:
            self.record[name] = Shown(np.asarray(numbers, np.float64), "float64", scale)

    def pass_(self, name: str, numbers, dtype: str, scale: str = ""):
        """Shows a stage, and gives back what the next one works on."""
        self.show(name, numbers, dtype, scale)
        return self._followed(name, numbers)

    def pass_scale(self, name: str, numbers):
        """A quantiser's scales: shown where there are any, which is in the deployed tier."""
        if self.tier.quantises:
            self.show(name, numbers, "float32")
        return self._followed(name, numbers)

    def _followed(self, name: str, numbers):
        recorded = self.follow.get(name)
        if recorded is None:
            return numbers
        stored = dtypes.from_storage(recorded.array, recorded.dtype)
        require(stored.shape == np.shape(numbers), f"the record to follow has {name} of shape {stored.shape}; "
                f"{np.shape(numbers)} is needed")  # fmt: skip
        return stored if recorded.dtype == "int32" else stored.astype(self.tier.real)

    # Bytes to numbers and back, in this tier's numbers.

    def from_e4m3(self, bits):
        return dtypes.from_e4m3(bits).astype(self.tier.real)

    def from_bf16(self, bits):
        return dtypes.from_bfloat16(bits).astype(self.tier.real)

    def from_float32_bytes(self, x):
        """The little-endian float32 numbers in the last axis' bytes."""
        return np.ascontiguousarray(x).view("<f4").astype(self.tier.real)

    @staticmethod
    def to_e4m3(x):
        return dtypes.to_e4m3(np.asarray(x, np.float32))

    @staticmethod
    def to_bf16(x):
        return dtypes.to_bfloat16(np.asarray(x, np.float32))
