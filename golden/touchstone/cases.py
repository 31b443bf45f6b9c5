"""The questions: families of cases read from golden/cases, checked against their schema and expanded.

Format: docs/case-format.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import Refusal, require

PACKAGE = Path(__file__).resolve().parent
IN_REPOSITORY = (PACKAGE.parent / "cases" / "schema.json").exists()
HOME = PACKAGE.parent if IN_REPOSITORY else PACKAGE / "data"  # cases, mistakes, tensors, text
CASES = HOME / "cases"


@dataclass(frozen=True)
class Case:
    """One question: an op, its inputs' recipes and its conventions."""

    op: str
    entry: dict  # as the family's file has it

    @property
    def name(self) -> str:
        """The full name, "top_k/all_equal"."""
        return f"{self.op}/{self.entry['name']}"

    @property
    def size(self) -> str:
        return self.entry["size"]

    @property
    def flags(self) -> list[str]:
        return self.entry["flags"]

    @property
    def is_stored(self) -> bool:
        """Whether its numbers are kept in files: another seed would not change them."""
        return any(stored_file(entry) for entry in self.entry["tensors"].values())

    def description(self) -> dict:
        """What a plug-in finds in case.json, and what a golden follows from."""
        files = {name: stored_file(entry) for name, entry in self.entry["tensors"].items()}
        stored = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path and path.exists()}
        return ({"stored": stored} if stored else {}) | {
            "version": 1,
            "name": self.name,
            "op": self.op,
            "tier": "deployed",
            "note": self.entry["note"],
            "flags": self.flags,
            "seed": self.entry["seed"],
            "conventions": self.entry["conventions"],
            "parameters": self.entry["parameters"],
            "tensors": self.entry["tensors"],
        }


def read_json(path: Path):
    """A JSON file's content; a file that is missing or malformed is refused in one sentence."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(f"the file {path} does not exist: check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} must be well-formed JSON: {error}") from None


def read_family(path: Path) -> list[Case]:
    """The cases of one family's file, checked against golden/cases/schema.json."""
    import jsonschema  # here, so that all else works where it is not installed

    family = read_json(path)
    schema = read_json(CASES / "schema.json")
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(family), key=lambda e: list(map(str, e.path)))
    if errors:
        where = "/".join(map(str, errors[0].path)) or "the whole file"
        raise Refusal(f"{path} does not follow the case format at {where}: {errors[0].message}")
    require(family["op"] == path.stem, f"{path} must hold the family of the op {path.stem}; it says {family['op']}")
    names = [entry["name"] for entry in family["cases"]]
    for name in names:
        require(names.count(name) == 1, f"{path} has the case {name} twice: rename one")
    return [Case(family["op"], entry) for entry in family["cases"]]


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case of every family, by op and then in the file's order."""
    return tuple(
        case for path in sorted(CASES.glob("*.json")) if path.name != "schema.json" for case in read_family(path)
    )


def choose(names: list[str], size: str = "all", flag: str | None = None) -> list[Case]:
    """Cases by full name ("top_k/all_equal"), by op ("top_k"), by set ("small", "full", "all") and by flag."""
    chosen = []
    for case in all_cases():
        named = not names or case.name in names or case.op in names
        if named and size in ("all", case.size) and (flag is None or flag in case.flags):
            chosen.append(case)
    known = {case.name for case in all_cases()} | {case.op for case in all_cases()}
    for name in names:
        require(name in known, f"there is no case or op named {name}: `touchstone list` shows them")
    return chosen


def stored_file(entry: dict) -> Path | None:
    """The .npy file beside the cases that a tensor with the fill "stored" is; None for other fills."""
    name = entry.get("fill", {}).get("stored")
    if name is None:
        return None
    require(isinstance(name, str) and re.fullmatch(r"\w+(/\w[\w.]*)*", name) is not None,
            f'the fill "stored" must name a file below {HOME} without its ".npy", as "trained/activations/norm"; it is {name!r}')  # fmt: skip
    require(not entry.keys() & {"set", "set_rows"}, f'the stored tensor {name} is as it is: leave out "set" and "set_rows"')
    return HOME / f"{name}.npy"


def write_in_dir(case: Case, folder: Path) -> None:
    """An IN_DIR for a plug-in that makes its inputs from their fills."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in case.entry["tensors"].items():
        if path := stored_file(entry):
            require(path.exists(), f"{case.name}: the tensor {name} is stored in {path}, which does not exist: `git checkout` it")
            shutil.copy(path, folder / f"{name}.npy")
    (folder / "case.json").write_text(json.dumps(case.description(), indent=1) + "\n", encoding="utf-8")


REPOSITORY_HINT = (
    "docs/index.md                                      the book, from notation to error bounds",
    "notebooks/01_a_sentence_through_every_stage.py     one sentence through every stage, with pictures",
    "build/dsa-reference ops                            the ops, each of which takes your own inputs too",
)
