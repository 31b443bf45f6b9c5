"""Which conventions does a kernel follow? Those under which its answers are right."""

from __future__ import annotations

import json
import secrets
import tempfile
from pathlib import Path

from . import contract, judge
from .cases import Case
from .check import Options, golden_of, write_inputs
from .conventions import PRESETS, SWITCHES, expanded
from .plugins import read_outputs

CASES_AN_OP = 6  # asked of a plug-in; enough to tell any two switches apart that show in an op


def candidates() -> list[dict]:
    """Every preset, and every single switch away from the first."""
    found = [{"preset": name} for name in PRESETS]
    base = next(iter(PRESETS))
    for name, values in SWITCHES.items():
        for value in (1e-20,) if name == "router_eps" else () if values is float else values:
            if value != PRESETS[base][name]:
                found.append({"preset": base, name: value})
    return found


def told(conventions: dict) -> str:
    """A candidate in words."""
    switches = [f"{k} = {str(v).lower() if isinstance(v, bool) else v}" for k, v in conventions.items() if k != "preset"]
    return conventions["preset"] + (" with " + ", ".join(switches) if switches else "")


class Inference:
    """How many cases each candidate makes right."""

    def __init__(self, chosen: list[Case], run, options: Options):
        self.asked = 0
        self.scores: list[tuple[int, dict]] = []
        self.sentence = ""
        answered = []
        with tempfile.TemporaryDirectory(prefix="touchstone_") as scratch:
            home = Path(scratch)
            for op in dict.fromkeys(case.op for case in chosen):
                if op not in contract.OPS:
                    continue
                for case in [c for c in chosen if c.op == op][:CASES_AN_OP]:
                    description = case.description() | {"conventions": {"preset": next(iter(PRESETS))}}
                    folder, out_dir = home / secrets.token_hex(8), home / secrets.token_hex(8)
                    write_inputs(case, description, folder)
                    out_dir.mkdir()
                    ran = run(op, folder, out_dir)
                    if ran.state == "ran":
                        answered.append((description, folder, out_dir))
            self.asked = len(answered)
            for candidate in candidates():
                fitting = sum(self._fits(candidate, *answer, home, options) for answer in answered)
                self.scores.append((fitting, candidate))
        self.scores.sort(key=lambda pair: -pair[0])
        self._conclude()

    @staticmethod
    def _fits(candidate: dict, description: dict, in_dir: Path, out_dir: Path, home: Path, options: Options) -> bool:
        asked = description | {"conventions": candidate}
        (in_dir / "case.json").write_text(json.dumps(asked), encoding="utf-8")
        try:
            golden = golden_of(asked, in_dir, home / secrets.token_hex(8), options)
        except ValueError:  # conventions under which the case cannot be answered
            return False
        expected = {name: golden.stored("deployed", name).shape for name in golden.names}
        outputs, complaints = read_outputs(out_dir, expected)
        names = [t.name for t in contract.OPS[golden.op].outputs]
        return not complaints and judge.right(judge.judge(golden, outputs, names))

    def _conclude(self) -> None:
        if not self.asked:
            self.sentence = "nothing to infer from: the plug-in answered none of the cases"
            return
        best = self.scores[0][0]
        fitting = [c for score, c in self.scores if score == best]
        presets = [c for c in fitting if len(c) == 1]
        if best == 0:
            self.sentence = f"no preset and no single switch makes any of the {self.asked} cases right: this is an error, not a convention"
        elif best < self.asked:
            self.sentence = f"nothing fits all {self.asked} cases; {told(fitting[0])} fits most, {best}"
        else:
            named = presets or fitting
            self.sentence = f"all {self.asked} cases are right by {' and by '.join(told(c) for c in named[:4])}" + (
                f" (and {len(named) - 4} more)" if len(named) > 4 else "")  # fmt: skip
            undecided = [name for name in SWITCHES if len({str(expanded(c)[name]) for c in fitting}) > 1]
            if undecided:
                self.sentence += f"; these ops do not show {', '.join(undecided)}"
