"""Which known mistake does a wrong kernel look like? Each is a telling with one method changed: golden/mistakes.

A kernel that is wrong on some cases is compared with every mistake on these very cases: a number that is as far from
right as the mistake's, in the same direction, everywhere, is no coincidence.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path

import numpy as np

from . import Refusal, cases, contract, dtypes, require
from .conventions import SWITCHES, expanded
from .judge import judge
from .telling import Inputs, Shown, Telling
from .verdict import Golden

FOLDER = cases.HOME / "mistakes"
EXPLAINED = 0.05  # of the error's rms may remain when a mistake is to explain it
NOISY = 0.5  # ... or this much, if what remains is no more than roundings
ROUNDING = 2.0**-8  # relative rms that two right kernels may differ by: half a bf16 step


class Mistake(Telling):
    """A telling that is wrong in one place. Subclasses override one formula and say what they are."""

    row = ""  # of the list of pitfalls
    source = ""  # where it was seen
    shows = ""  # how it shows
    ops: tuple[str, ...] = ()
    unsteady = False  # whether only a second run shows it
    reference: tuple[tuple[str, str, str], ...] = ()  # the same in C++: (file, right text, wrong text)

    @classmethod
    def title(cls) -> str:
        """What is done wrong, in one sentence."""
        return sys.modules[cls.__module__].__doc__.strip().splitlines()[0]

    @classmethod
    def story(cls) -> str:
        """Why somebody would do it, and what follows."""
        return " ".join(sys.modules[cls.__module__].__doc__.strip().split("\n\n", 1)[1].split())

    @classmethod
    def code(cls) -> str:
        """The changed formula."""
        lines = inspect.getsource(cls).splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("    def ") or line.startswith("    BUFFER"))
        return "\n".join(line[4:] for line in lines[first:])


@cache
def catalogue() -> dict[str, type[Mistake]]:
    """Every mistake by its file's name."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"touchstone_mistake_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        own = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Mistake) and c is not Mistake]
        require(len(own) == 1, f"{path} must define one Mistake; it defines {len(own)}")
        found[path.stem] = own[0]
    return found


# The kill matrix: which case catches which mistake


def killed(mistake: type[Telling], golden: Golden) -> tuple[bool, bytes]:
    """Whether a case tells a mistake from the right answer, and a fingerprint of what the mistake gives.

    In ops of many stages each stage works on the right ones before it, so that a mistake shows where it is made.
    """
    op = golden.op
    staged = contract.OPS[op].staged
    follow = {n: Shown(golden.stored("deployed", n), golden.dtype(n)) for n in golden.names} if staged else {}

    def run():
        telling = mistake(golden.case["conventions"], golden.case["parameters"], golden.inputs, "deployed", follow)
        return telling.run(op)

    try:
        record = run()
        arrays = {name: shown.array for name, shown in record.items()}
        names = [name for name in golden.names if name in arrays]
        right = all(v.right for v in judge(golden, arrays, names))
        if right and getattr(mistake, "unsteady", False):
            again = run()
            right = all(again[n].array.tobytes() == record[n].array.tobytes() for n in names)
        return not right, b"".join(arrays[n].tobytes() for n in names)
    except (Refusal, ValueError, IndexError, ZeroDivisionError) as error:
        return True, f"{type(error).__name__}".encode()


class KillMatrix:
    """Mistakes down, cases across."""

    def __init__(self, goldens: Path, size: str = "small"):
        self.kills: dict[str, set[str]] = {name: set() for name in catalogue()}
        self.prints: dict[str, dict[str, bytes]] = {name: {} for name in catalogue()}
        self.cases: list[str] = []
        for case in cases.choose([], size):
            concerned = [name for name, mistake in catalogue().items() if case.op in mistake.ops]
            if not concerned or "huge" in case.flags and size != "all":
                continue
            folder = goldens / case.name
            require((folder / "golden.json").exists(), f"{case.name} is not made yet: run `touchstone make --set {size}` first")
            golden = Golden(folder)
            self.cases.append(case.name)
            for name in concerned:
                dead, fingerprint = killed(catalogue()[name], golden)
                self.prints[name][case.name] = fingerprint
                if dead:
                    self.kills[name].add(case.name)

    def survivors(self) -> list[str]:
        """Mistakes that no case catches."""
        return [name for name, kills in self.kills.items() if not kills]

    def inseparable(self) -> list[tuple[str, str]]:
        """Pairs of mistakes that no case tells apart."""
        names = [name for name in self.kills if self.kills[name]]
        pairs = []
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                common = self.prints[a].keys() & self.prints[b].keys()
                caught = (self.kills[a] | self.kills[b]) & common
                if caught and all(self.prints[a][c] == self.prints[b][c] for c in common):
                    pairs.append((a, b))
        return pairs

    def best_case(self, name: str) -> str:
        """The case that catches this mistake and as few others as possible."""
        others = {c: sum(c in kills for kills in self.kills.values()) for c in self.kills[name]}
        return min(others, key=lambda c: (others[c], c)) if others else ""

    def rows(self) -> list[tuple[str, int, int, str, int]]:
        """(mistake, cases that catch it, cases that could, the most telling case, mistakes that it catches)"""
        out = []
        for name, kills in self.kills.items():
            best = self.best_case(name)
            out.append((name, len(kills), len(self.prints[name]), best, sum(best in k for k in self.kills.values()) if best else 0))
        return out


# Diagnosis: which mistake equals a wrong result


def distances(got: dict[str, np.ndarray], record: dict[str, Shown]) -> dict[str, float]:
    """How far each tensor of a result is from a record's: the rms of the difference over the rms of the record."""
    out = {}
    for name in got.keys() & record.keys():
        shown = record[name]
        if got[name].dtype != shown.array.dtype or got[name].shape != shown.array.shape:
            out[name] = np.inf
            continue
        a, b = (dtypes.from_storage(x, shown.dtype).astype(np.float64) for x in (got[name], shown.array))
        if shown.dtype == "int32":
            out[name] = float((np.sort(a, axis=-1) != np.sort(b, axis=-1)).mean()) if a.size else 0.0
            continue
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(all="ignore"):
            difference = np.where(same, 0.0, a - b)
        finite = b[np.isfinite(b)]
        unit = np.sqrt(np.mean(finite**2)) if np.any(finite) else 1.0
        out[name] = float(np.sqrt(np.mean((difference / unit) ** 2))) if np.isfinite(difference).all() and a.size else np.inf
    return out


def other_conventions(conventions) -> dict[str, dict]:
    """Every single switch away from these conventions, by what it changes."""
    own = expanded(conventions)
    return {
        f"{name} = {str(value).lower() if isinstance(value, bool) else value}": own | {name: value}
        for name, values in SWITCHES.items() if values is not float
        for value in values if value != own[name]
    }  # fmt: skip


def record_of(checked, telling: type[Telling], conventions) -> dict[str, Shown]:
    """What a telling gives on a checked case; empty where it refuses."""
    key = telling, str(conventions)
    if key not in checked.told:
        description = checked.description
        inputs = checked.told.setdefault("inputs", Inputs(description["tensors"], description["seed"]))
        try:
            record = telling(conventions, description["parameters"], inputs, "deployed").run(checked.case.op)
        except (Refusal, ValueError, IndexError):
            record = {}
        checked.told[key] = {name: record[name] for name in record.keys() & checked.outputs.keys()}
    return checked.told[key]


def far(checked, telling: type[Telling], conventions) -> dict[str, float]:
    """How far each tensor of a result is from what a telling gives; empty where that gives nothing."""
    return distances(checked.outputs, record_of(checked, telling, conventions))


def suspects(op: str, conventions) -> dict[str, tuple]:
    """What a wrong kernel of this op may equal: name -> (telling, conventions)"""
    found = {f"mistake {n}": (m, conventions) for n, m in catalogue().items() if op in m.ops}
    return found | {f"convention {n}": (Telling, c) for n, c in other_conventions(conventions).items()}


def rounding(checked, name: str) -> float:
    """The relative rms by which two right kernels may differ in a tensor: by some elements' last step."""
    return ROUNDING if checked.outputs[name].dtype != np.uint8 else 4 * ROUNDING


def explained_by(name: str, checked) -> float:
    """How much of a wrong result's error a suspect leaves: a share below 1, or infinity if it does not explain it."""
    conventions = checked.description["conventions"]
    possible = suspects(checked.case.op, conventions)
    if name not in possible:
        return np.inf
    rest, error = far(checked, *possible[name]), far(checked, Telling, conventions)
    if not rest or rest.keys() != error.keys() or not np.isfinite(list(rest.values())).all():
        return np.inf
    wrong = [n for n in rest if error[n] > rounding(checked, n)]
    if any(rest[n] > 2 * rounding(checked, n) for n in rest if n not in wrong):
        return np.inf
    shares = [min(1.0, rest[n] / error[n]) for n in wrong]
    fits = all(s <= EXPLAINED or (rest[n] <= rounding(checked, n) and s <= NOISY) for n, s in zip(wrong, shares))
    return float(np.mean(shares)) if wrong and fits else np.inf


def harmless(name: str, checked) -> bool:
    """Whether a suspect would have been right, too, where the kernel was."""
    conventions = checked.description["conventions"]
    possible = suspects(checked.case.op, conventions)
    if name not in possible:
        return True
    rest = far(checked, *possible[name])
    return bool(rest) and all(r <= 2 * rounding(checked, n) for n, r in rest.items())


def invisible(name: str, checked) -> bool:
    """Whether a suspect gives the right answer on this case, so that it neither explains nor contradicts the result."""
    conventions = checked.description["conventions"]
    possible = suspects(checked.case.op, conventions)
    if name not in possible:
        return True
    suspect, right = record_of(checked, *possible[name]), record_of(checked, Telling, conventions)
    apart = distances({n: shown.array for n, shown in suspect.items()}, right)
    return bool(apart) and all(d <= rounding(checked, n) for n, d in apart.items())


def told(name: str, op: str, explained: int, wrong: int) -> str:
    """A diagnosis as a paragraph."""
    kind, _, what = name.partition(" ")
    if kind == "convention":
        return (f"{op} follows another convention on {explained} of {wrong} wrong cases: {what}. "
                f"If that is meant, say so with --conventions {what.replace(' ', '')}.")  # fmt: skip
    mistake = catalogue()[what]
    return (f"{op} equals the mistake {what} on {explained} of {wrong} wrong cases. {mistake.title()} {mistake.story()} "
            f"It shows as: {mistake.shows}. Seen in: {mistake.source}.")  # fmt: skip


def diagnose(results: list, limit: int = 6) -> str:
    """What explains the wrong cases, op by op: known mistakes, other conventions; empty if nothing does."""
    paragraphs = []
    for op in dict.fromkeys(r.case.op for r in results):
        wrong = [r for r in results if r.case.op == op and r.state == "wrong" and r.outputs][:limit]
        right = [r for r in results if r.case.op == op and r.state == "right" and r.outputs][:limit]
        open_cases = list(wrong)
        names = dict.fromkeys(name for r in wrong for name in suspects(op, r.description["conventions"]))
        shares = {name: {id(r): s for r in wrong if np.isfinite(s := explained_by(name, r))} for name in names}
        explaining = {
            n: set(e) for n, e in shares.items()
            if e and all(id(r) in e or invisible(n, r) for r in wrong) and all(harmless(n, r) for r in right)
        }  # fmt: skip
        left = {n: np.mean(list(shares[n].values())) for n in explaining}
        while open_cases and explaining:
            still = {id(r) for r in open_cases}
            best = min(explaining, key=lambda n: (-len(explaining[n] & still), left[n], n.startswith("convention")))
            covered = explaining[best] & still
            if not covered:
                break
            kind = best.split()[0]
            equals = [n for n in explaining if explaining[n] == explaining[best] and n.startswith(kind) and left[n] <= 2 * left[best] + 1e-3]
            paragraphs += [told(n, op, len(explaining[n]), len(wrong)) for n in sorted(equals, key=left.get)]
            open_cases = [r for r in open_cases if id(r) not in covered]
    return "\n".join(paragraphs)
