"""Are the goldens the ones that were made? Every file against its manifest, every golden against the lock."""

from __future__ import annotations

from pathlib import Path

from . import Refusal
from .cases import read_json
from .files import KEPT, hashes_of, lock_entry, read_lock, sha256
from .make import lock_problems


def manifest_problems(folder: Path, name: str) -> list[str]:
    """Files that are missing, added, cut short or changed since the manifest was written."""
    try:
        manifest = read_json(folder / "manifest.json")
        wanted = dict(manifest["files"])
    except (Refusal, KeyError, TypeError) as error:
        return [f"{name}: its manifest.json cannot be used ({error}): remake it with `touchstone make {name}`"]
    found = hashes_of(folder)
    problems = []
    for path in sorted(set(wanted) | set(found)):
        if path not in found:
            problems.append(f"{name}: the file {path} is missing: remake it with `touchstone make {name}`")
        elif path not in wanted:
            problems.append(f"{name}: the file {path} does not belong here: remake it with `touchstone make {name}`")
        elif wanted[path] != found[path]:
            problems.append(f"{name}: the file {path} is not as it was written: remake it with `touchstone make {name}`")
    return problems


def goldens_in(out: Path) -> list[tuple[str, Path]]:
    """(full name, folder) of every golden below `out`."""
    found = sorted(p.parent for p in out.glob("*/*/manifest.json"))
    return [(folder.relative_to(out).as_posix(), folder) for folder in found]


def verify(out: Path) -> tuple[int, list[str]]:
    """How many goldens were looked at, and a sentence for everything that is wrong with them."""
    goldens = goldens_in(out)
    if not goldens:
        return 0, [f"there are no goldens in {out}: run `touchstone make`"]
    locked = read_lock()
    problems = []
    for name, folder in goldens:
        own = manifest_problems(folder, name)
        problems += own or lock_problems(folder, name, locked)
    return len(goldens), problems


def kept_goldens() -> list[tuple[str, Path]]:
    """(full name, folder) of every golden that is kept in the repository."""
    found = sorted(p.parent for p in KEPT.glob("*/*/golden.json"))
    return [(folder.relative_to(KEPT).as_posix(), folder) for folder in found]


def verify_kept() -> tuple[int, list[str]]:
    """The goldens kept in the repository against the lock."""
    locked = read_lock()
    problems = []
    goldens = kept_goldens()
    for name, folder in goldens:
        now = lock_entry(hashes_of(folder))
        if name not in locked or any(now.get(tier) != value for tier, value in locked[name].items()):
            problems.append(f"the kept golden {name} is not the one in lock.json: run `touchstone keep` after `touchstone make`")
    return len(goldens), problems


__all__ = ["goldens_in", "kept_goldens", "manifest_problems", "sha256", "verify", "verify_kept"]
