"""What did a training run leave? Its stages with their logs, and the table. docs/13-teaching-the-indexer.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from . import Refusal, require
from .cases import read_json


IN_A_ROW = ("name", "loss", "loss_standard_error", "accuracy", "recall", "pairs")  # what is read of evaluation.json's


@dataclass(frozen=True)
class Stage:
    """One stage's folder, as `dsa-reference train` writes it."""

    folder: Path
    settings: dict  # the stage as the recipe has it
    log: list[dict]  # one entry a step; empty where there is no log.jsonl
    first: int  # steps of the stages before it

    @property
    def name(self) -> str:
        return self.settings["name"]

    @property
    def steps(self) -> int:
        """How many the recipe asks for."""
        return self.settings["steps"]

    @property
    def kind(self) -> str:
        """dense, warmup or sparse."""
        return self.settings["kind"]

    def of_log(self, entry: str) -> tuple[list[int], list[float]]:
        """The steps, counted from the run's first, at which the log has the entry, and its values."""
        lines = [line for line in self.log if entry in line]
        return [self.first + line["step"] for line in lines], [line[entry] for line in lines]


@dataclass(frozen=True)
class Run:
    """A whole run."""

    folder: Path
    stages: list[Stage]  # each after the one that it started from
    rows: list[dict]  # of evaluation.json; empty where there is none


def read_log(path: Path) -> list[dict]:
    """log.jsonl: one JSON object a line."""
    lines: list[dict] = []
    if not path.exists():
        return lines
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise Refusal(f"line {number} of {path} must be a JSON object: {error}") from None
        require(isinstance(lines[-1], dict) and isinstance(lines[-1].get("step"), int),
                f'line {number} of {path} must be a JSON object with a "step"')  # fmt: skip
    return lines


def read_table(path: Path) -> list[dict]:
    """The rows of evaluation.json; none where it is not there."""
    rows = read_json(path).get("rows", []) if path.exists() else []
    for row in rows:
        absent = [name for name in IN_A_ROW if name not in row]
        require(not absent, f"each row of {path} must have {', '.join(IN_A_ROW)}; one has no {', '.join(absent)}: "
                "let `dsa-reference train` write it again")  # fmt: skip
    return rows


def read_run(folder: Path) -> Run:
    """The run in `folder`."""
    found = {}
    for recipe in sorted(folder.glob("*/recipe.json")):
        settings = read_json(recipe).get("stage", {})
        for needed in ("name", "kind", "steps"):
            require(needed in settings, f'{recipe} must have a "stage" with "{needed}": is it `dsa-reference train`\'s?')
        found[settings["name"]] = settings, recipe.parent
    require(bool(found), f"{folder} holds no stage of training (STAGE/recipe.json): name the folder that "
            "`dsa-reference train RECIPE --out` was given")  # fmt: skip

    stages: dict[str, Stage] = {}
    while len(stages) < len(found):
        # A stage may start from one that is not there any more: then its steps count from 0.
        ready = [n for n, (s, _) in found.items() if n not in stages and (s.get("from") in stages or s.get("from") not in found)]
        require(bool(ready), f"the stages {', '.join(sorted(set(found) - set(stages)))} in {folder} start from one another")
        for name in ready:
            settings, home = found[name]
            parent = stages.get(settings.get("from", ""))
            stages[name] = Stage(home, settings, read_log(home / "log.jsonl"), parent.first + parent.steps if parent else 0)
    return Run(folder, list(stages.values()), read_table(folder / "evaluation.json"))
