"""What happens in one case? Every stage with its shape, its numbers, its bounds, and the mistakes that it catches."""

from __future__ import annotations

import numpy as np

from . import contract
from .cases import Case
from .choices import candidates_of, must_and_must_not
from .diff import place_of
from .mistakes import catalogue, killed
from .verdict import Golden


def _numbers(x: np.ndarray) -> str:
    finite = x[np.isfinite(x)]
    if not finite.size:
        return "no finite number"
    text = f"{finite.min():.4g} ... {finite.max():.4g}"
    others = x.size - finite.size
    return text + (f", {others} not finite" if others else "")


def explained(case: Case, golden: Golden) -> list[str]:
    """The lines of an explanation."""
    lines = [f"{case.name}: {case.entry['note']}", ""]
    conventions = case.entry["conventions"]
    lines.append(f"conventions  {conventions if isinstance(conventions, str) else ', '.join(f'{k} = {v}' for k, v in conventions.items())}")
    if case.entry["parameters"]:
        lines.append("parameters   " + ", ".join(f"{k} = {v}" for k, v in case.entry["parameters"].items()))
    lines += ["", "inputs"]
    for name, entry in case.entry["tensors"].items():
        fill = next(iter(entry["fill"]))
        lines.append(f"  {name:22} {entry['dtype']:12} {str(entry['shape']):22} {fill} {entry['fill'][fill]}"[:150])
    lines += ["", "stages and outputs (deployed), with the errors that they may have"]
    outputs = {t.name for t in contract.OPS[case.op].outputs} if case.op in contract.OPS else set()
    for name in sorted(golden.names, key=lambda n: (n in outputs, place_of(n))):
        x, bound = golden.deployed(name), golden.stored("exact_bound", name)
        mark = "->" if name in outputs else "  "
        line = f"  {mark} {name:22} {golden.dtype(name):12} {str(list(x.shape)):22} {_numbers(x)}"
        if bound is not None and bound.size:
            finite = bound[np.isfinite(bound)]
            line += f"; bound up to {finite.max():.2g}" if finite.size else ""
        lines.append(line)
        if name.rpartition(".")[2] in ("indices", "topk_indices"):
            lines += _selection(golden, name)
    caught = [name for name, mistake in catalogue().items() if case.op in mistake.ops and killed(mistake, golden)[0]]
    lines += ["", "catches the mistakes " + ", ".join(caught) if caught else "catches none of the known mistakes by itself"]
    return lines


def _selection(golden: Golden, name: str) -> list[str]:
    pairs, start, end = candidates_of(golden, name)
    scores, bounds = pairs[0]
    k = golden.stored("deployed", name).shape[-1]
    lines = []
    for t in range(min(3, len(scores))):
        must, must_not = must_and_must_not(scores[t, start[t] : end[t]], bounds[t, start[t] : end[t]], k)
        lines.append(f"       row {t}: {len(must)} candidates, {must.sum()} must be selected, {must_not.sum()} must not, {(~must & ~must_not).sum()} may")
    return lines
