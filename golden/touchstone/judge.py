"""Is a result right? Derived bounds for numbers, must / may / must-not for selections, equality for bytes.

docs/08-precision-and-bounds.md derives the bounds, docs/04-selection.md the rule for selections. Every comparison is
written so that NaN fails: `~(error <= bound)`.
"""

from __future__ import annotations

import numpy as np

from . import dtypes
from .choices import in_the_slots_of, judge_experts, judge_selection
from .verdict import Golden, Verdict

# A float64 result against the exact tier: roundings of 2^-53 in place of 2^-24, and 2^5 units for constants (a
# frequency is exp(-x ln theta): its argument, up to 9.2, is rounded).
FLOAT64_SHARE = 2.0**-24
# A scale made from a largest magnitude that two correct kernels hold up to two bf16 steps apart (rope, Hadamard).
SCALE_OF_ROUNDED = 2.0**-6
# A scale made from given numbers: one multiplication or division, correctly rounded or by an approximate reciprocal.
SCALE_OF_GIVEN = 2.0**-22
# Through a whole layer worst-case bounds say nothing. A right kernel rounds where the reference's deployed path does, so
# its error is as large as that path's: four times the rms, and eight times the largest, are 12 and 18 dB of room.
END_TO_END_RMS, END_TO_END_LARGEST = 4.0, 8.0
E4M3_STEP, E4M3_SUBNORMAL = 2.0**-3, 2.0**-9
# Of numbers whose scale is not shown, the share that may lie further than one step from the deployed ones, and as many of
# a few numbers. Where the order of a sum turns a bf16 store to the other side, a Hadamard transform spreads half of an 11th
# of its step over the whole vector; to a vector's smallest numbers, below a 500th of the largest, that is several steps of
# theirs. Such stores are one in some hundreds, and such numbers as few, so 1 % is ample. How far: the derived bound, but
# no more than a bf16 step of the largest number, which is what all 128 stores of a vector on the other side, with signs
# at random, would come to (sqrt(128) of them, each divided by sqrt(128)).
FAR_SHARE, FAR_COUNT = 0.01, 4
FAR = 448 * 2.0**-7


def judge(golden: Golden, got: dict[str, np.ndarray], names: list[str], tier: str = "deployed",
          against: str = "both", claims: tuple = ()) -> list[Verdict]:  # fmt: skip
    """One verdict a tensor. got: arrays in storage dtypes. tier: in which the plug-in computed."""
    return [judge_one(golden, got, name, tier, against, claims) for name in names]


def judge_one(golden: Golden, got: dict, name: str, tier: str, against: str, claims: tuple) -> Verdict:
    """The verdict on one output or stage."""
    if name not in got:
        return Verdict(name, False, f"{name} is missing: the op {golden.op} must write it")
    array, want = got[name], golden.stored("deployed", name)
    dtype = golden.dtype(name)
    exact_number = tier == "exact" and dtype not in ("int32", "uint8")
    stored = np.dtype(np.float64) if exact_number else dtypes.storage(dtype)
    if array.shape != want.shape:
        return Verdict(name, False, f"{name} must have the shape {list(want.shape)}; it has {list(array.shape)}")
    if array.dtype != stored:
        logical = "float64" if exact_number else dtype
        return Verdict(name, False, f"{name} must be {logical}, stored as {stored}; it is {array.dtype}")
    base = name.rsplit(".", 1)[-1]
    if dtype == "uint8":
        return _equal(name, array, want)
    if base in ("indices", "topk_indices"):
        return judge_selection(golden, name, array, claims)
    if base in ("experts", "expert_ids"):
        return judge_experts(golden, name, array)
    if dtype == "int32":
        return _equal(name, array, want)
    if base == "scale" or base.endswith("_scale"):
        return _judge_scale(golden, name, array)
    if base == "expert_weights":
        aligned, rows = in_the_slots_of(golden, got, name)
        return _judge_numbers(golden, got | {name: aligned}, name, tier, against, rows)
    return _judge_numbers(golden, got, name, tier, against)


def _place(index) -> str:
    return "[" + ", ".join(str(int(i)) for i in index) + "]"


def _equal(name: str, array, want) -> Verdict:
    wrong = array != want
    if not wrong.any():
        return Verdict(name, True, "equal, byte for byte")
    first = tuple(np.argwhere(wrong)[0])
    return Verdict(name, False, f"{name}{_place(first)} must be {want[first]}; it is {array[first]} "
                   f"({wrong.sum()} of {wrong.size} differ)", np.inf, wrong_share=float(wrong.mean()))  # fmt: skip


def _scaled(golden: Golden, tensors, name: str, x: np.ndarray):
    """Numbers with the scales that they are in units of taken into account. tensors: name -> array of one tier"""
    rule = golden.scale(name)
    if not rule:
        return x, None
    divides = rule.startswith("1/")
    scale = tensors(rule[2:] if divides else rule)
    if scale is None:
        return None, None
    scale = np.asarray(scale, np.float64)
    spread = np.repeat(scale.reshape(-1), x.size // scale.size).reshape(x.shape) if scale.size else np.ones(x.shape)
    with np.errstate(all="ignore"):
        return (x / spread if divides else x * spread), spread


def _judge_numbers(golden: Golden, got: dict, name: str, tier: str, against: str, rows=None) -> Verdict:
    dtype = golden.dtype(name)
    x = got[name] if tier == "exact" else dtypes.from_storage(got[name], dtype)
    x = x.astype(np.float64)
    want, exact = golden.deployed(name), golden.stored("exact", name)
    exact_bound, deployed_bound = golden.stored("exact_bound", name), golden.stored("deployed_bound", name)
    verdict = Verdict(name, True, "")
    no_number = np.isnan(want) & (tier == "deployed")  # by convention: an all-zero block under a quantiser without a floor
    if no_number.any():
        verdict.notes.append(f"{no_number.sum()} elements are NaN by convention, and must be")
        if not np.isnan(x[no_number]).all():
            place = tuple(np.argwhere(no_number & ~np.isnan(x))[0])
            return Verdict(name, False, f"{name}{_place(place)} must be NaN under these conventions; it is {x[place]}", np.inf)
    judged = ~no_number
    if rows is not None:
        judged &= np.broadcast_to(rows.reshape(rows.shape + (1,) * (x.ndim - rows.ndim)), x.shape)
    if tier == "exact":
        return _fits(_within(verdict, x, exact, exact_bound.astype(np.float64) * FLOAT64_SHARE, judged, "exact"))
    mine, my_scale = _scaled(golden, got.get, name, x)
    theirs, their_scale = _scaled(golden, lambda n: golden.deployed(n) if n in golden.meta["tensors"] else None, name, want)
    if mine is None:
        # The scales were not shown: the numbers must then be the deployed ones, up to one step of e4m3, but for a few.
        step = bound = E4M3_STEP * np.abs(want) + E4M3_SUBNORMAL
        with np.errstate(all="ignore"):
            far = judged & ~(np.abs(x - want) <= step)
            if their_scale is not None and far.sum() <= max(FAR_COUNT, FAR_SHARE * judged.sum()):
                bound = np.where(far, np.minimum(deployed_bound / their_scale, FAR) + step, step)
        deployed_bound = bound
        mine, theirs, my_scale, their_scale = x, want, None, None
        exact = None
        verdict.notes.append("judged without its scale, which was not shown")
    if against in ("both", "deployed") and deployed_bound is not None:
        bound = deployed_bound.astype(np.float64)
        if my_scale is not None:
            differ = my_scale != their_scale
            step = E4M3_STEP * np.abs(theirs) + E4M3_SUBNORMAL * np.maximum(my_scale, their_scale)
            step = SCALE_OF_ROUNDED * np.abs(theirs) if golden.scale(name).startswith("1/") else step
            bound = np.where(differ, bound + step, bound)
        verdict = _within(verdict, mine, theirs, bound, judged, "deployed")
    if verdict.right and against in ("both", "exact") and exact is not None:
        verdict = _within(verdict, mine, exact, exact_bound, judged, "exact")
    if exact is not None:
        verdict.snr = _snr(mine[judged], exact[judged])
    return _fits(verdict)


def _fits(verdict: Verdict) -> Verdict:
    if verdict.right:
        verdict.sentence = f"within its bounds; worst error {verdict.ratio:.2g} of the bound, {verdict.snr:.0f} dB"
    return verdict


def _within(verdict: Verdict, x, want, bound, judged, tier: str) -> Verdict:
    with np.errstate(all="ignore"):
        error = np.where(x == want, 0.0, np.abs(x - want))  # equal infinities differ by nothing
        good = (error <= bound) & (np.isfinite(x) | (x == want))
        ratio = np.where(error == 0, 0.0, error / bound)
    wrong = judged & ~good
    known = judged & np.isfinite(bound)
    if known.any():
        verdict.ratio = max(verdict.ratio, float(np.nanmax(np.where(known, ratio, 0), initial=0)))
    if not wrong.any():
        return verdict
    first = tuple(np.argwhere(wrong)[0])
    with np.errstate(all="ignore"):
        worst = tuple(np.unravel_index(np.argmax(np.where(wrong, np.where(np.isnan(ratio), np.inf, ratio), -1)), x.shape))
    allowed = np.broadcast_to(bound, x.shape)[first]
    ratio_text = f"off by {ratio[first]:.3g} times the bound {allowed:.3g}" if allowed > 0 and np.isfinite(ratio[first]) else "they must be equal"
    verdict.right = False
    verdict.wrong_share = float(wrong.sum() / max(1, judged.sum()))
    verdict.ratio = np.inf if np.isnan(x[worst]) else float(ratio[worst])
    verdict.sentence = (
        f"{verdict.name}{_place(first)} is {x[first]:.8g}, the {tier} tier has {want[first]:.8g}; {ratio_text}. "
        f"{wrong.sum()} of {judged.sum()} elements are wrong"
        + (f", the worst at {_place(worst)}" if wrong.sum() > 1 else "")
    )
    return verdict


def _snr(x, want) -> float:
    finite = np.isfinite(x) & np.isfinite(want)
    with np.errstate(all="ignore"):
        noise, signal = np.sum((x[finite] - want[finite]) ** 2), np.sum(want[finite] ** 2)
        return float("inf") if noise == 0 else float(10 * np.log10(signal / noise)) if signal else float("-inf")


def _judge_scale(golden: Golden, name: str, array) -> Verdict:
    """A quantiser's scales: of given numbers to a rounding, of rounded ones to a bf16 step; a power of two may move
    to the next where the largest magnitude lies as close to it."""
    want = golden.deployed(name)
    x = array.astype(np.float64)
    share = SCALE_OF_GIVEN if golden.op == "act_quant" else SCALE_OF_ROUNDED
    verdict = Verdict(name, True, "")
    if golden.conventions["scale_format"] == "ue8m0" and golden.conventions["quantizer"] != "none" and golden.op != "act_quant":
        share_up = np.where(np.isin(x / np.where(want == 0, 1, want), (0.5, 1, 2)), 1.0, 0.0)
        return _within(verdict, x, want, share_up * want, np.ones(x.shape, bool), "deployed")
    if golden.conventions["scale_format"] == "ue8m0":
        share = 0.0
    verdict = _within(verdict, x, want, share * np.abs(want), np.ones(x.shape, bool), "deployed")
    if verdict.right:
        verdict.sentence = "the scales fit"
    return verdict


def judge_end_to_end(golden: Golden, got: dict, names: list[str]) -> list[Verdict]:
    """Outputs of a chain of stages against the exact tier's whole chain. golden: given the plug-in's own choices.

    Each error is measured with the error of the reference's deployed chain.
    """
    verdicts = []
    for name in names:
        exact = golden.stored("exact", name)
        if golden.dtype(name) in ("int32", "uint8", "float8_e4m3") or golden.scale(name) or exact is None:
            continue
        x, want = dtypes.from_storage(got[name], golden.dtype(name)).astype(np.float64), golden.deployed(name)
        with np.errstate(invalid="ignore"):
            own = np.where(want == exact, 0.0, np.abs(want - exact))
            error = np.where(x == exact, 0.0, np.abs(x - exact))
        rms, largest = np.sqrt(np.mean(own**2)), own.max(initial=0)
        verdict = _within(Verdict(name, True, ""), x, exact, np.full(x.shape, END_TO_END_LARGEST * largest), np.ones(x.shape, bool), "exact")
        if verdict.right and not np.sqrt(np.mean(error**2)) <= END_TO_END_RMS * rms:
            verdict = Verdict(name, False, f"{name}: from x to here errors add up to an rms of {np.sqrt(np.mean(error**2)):.3g}; the reference's "
                              f"own low-precision chain has {rms:.3g}, and {END_TO_END_RMS:g} times that is allowed", np.inf)  # fmt: skip
        verdicts.append(verdict)
    return verdicts


def right(verdicts: list[Verdict]) -> bool:
    """Whether all are; nothing judged is not right."""
    return bool(verdicts) and all(v.right for v in verdicts)
