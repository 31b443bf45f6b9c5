#!/usr/bin/env python3
"""Are the cases sharp enough? Changes one token of a formula at a time, and asks whether a golden notices.

    tools/mutants.py numpy              every mutant of the NumPy telling, in minutes
    tools/mutants.py cpp --count 60     a sample of the C++ reference's, some 10 s each; `make reference` first

A mutant is one of: sign (+ for -), product (* for /), comparison (< for <=), constant (n + 1, 2 x), extreme (max for min),
rounding (a bf16 store left out), condition (and for or, not dropped). It is killed if any case of the small set gives a
wrong output or a refusal in either tier. Survivors are printed with their place, to be explained or to be caught by a
new case.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import signal
import sys
import types
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "golden"))
sys.path.insert(0, str(REPOSITORY / "tools"))

import variants  # noqa: E402

from touchstone import cases, check, contract, judge, make  # noqa: E402
from touchstone.plugins import Limits, Program  # noqa: E402
from touchstone.telling import Shown, Telling  # noqa: E402
from touchstone.verdict import Golden  # noqa: E402

TELLING = REPOSITORY / "golden" / "touchstone" / "telling"
MODULES = ("vectors", "projections", "selection", "attention", "experts", "training", "layers")
HEADERS = ("attention", "moe", "training")
BY_DESIGN = "rounding left out"  # survives: a kernel that keeps more precision between two stages is right

# NumPy


class Mutator(ast.NodeTransformer):
    """Changes the site of one number, and counts the sites."""

    BINARY = {ast.Add: (ast.Sub, "sign"), ast.Sub: (ast.Add, "sign"), ast.Mult: (ast.Div, "product"), ast.Div: (ast.Mult, "product")}
    COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
    EXTREME = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max", "floor": "ceil", "ceil": "floor", "argmax": "argmin"}

    def __init__(self, wanted: int):
        self.wanted, self.seen, self.told = wanted, 0, ""

    def here(self, node, what: str) -> bool:
        """Whether this is the site."""
        self.seen += 1
        if self.seen - 1 != self.wanted:
            return False
        self.told = f"line {node.lineno}: {what}: {ast.unparse(node)[:80]}"
        return True

    def visit_FunctionDef(self, node):  # noqa: N802
        node.body = [n if self.is_docstring(n) else self.visit(n) for n in node.body]
        return node

    visit_ClassDef = visit_FunctionDef  # noqa: N815

    @staticmethod
    def is_docstring(node) -> bool:
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

    def visit_Expr(self, node):  # noqa: N802
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "require":
            return node  # preconditions are another test's
        return self.generic_visit(node)

    def visit_Raise(self, node):  # noqa: N802
        return node

    def visit_JoinedStr(self, node):  # noqa: N802
        return node

    def visit_BinOp(self, node):  # noqa: N802
        self.generic_visit(node)
        change = self.BINARY.get(type(node.op))
        if change and self.here(node, change[1]):
            node.op = change[0]()
        return node

    def visit_UnaryOp(self, node):  # noqa: N802
        if isinstance(node.operand, ast.Constant):
            return node  # -1 is an axis, not a formula
        self.generic_visit(node)
        if isinstance(node.op, (ast.USub, ast.Not, ast.Invert)) and self.here(node, "sign" if isinstance(node.op, ast.USub) else "condition"):
            return node.operand
        return node

    def visit_Compare(self, node):  # noqa: N802
        self.generic_visit(node)
        change = self.COMPARE.get(type(node.ops[0]))
        if change and self.here(node, "comparison"):
            node.ops[0] = change()
        return node

    def visit_BoolOp(self, node):  # noqa: N802
        self.generic_visit(node)
        if self.here(node, "condition"):
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return node

    def visit_Constant(self, node):  # noqa: N802
        if type(node.value) in (int, float) and self.here(node, "constant"):
            return ast.copy_location(ast.Constant(node.value + 1 if isinstance(node.value, int) else node.value * 2), node)
        return node

    def visit_Call(self, node):  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "bf16" and len(node.args) == 1 and self.here(node, BY_DESIGN):
                return node.args[0]
            if node.func.attr in self.EXTREME and self.here(node, "extreme"):
                node.func = ast.Attribute(node.func.value, self.EXTREME[node.func.attr], node.func.ctx)
        return node


def numpy_mutants():
    """(name, place, telling) of every mutant."""
    for name in MODULES:
        tree = ast.parse((TELLING / f"{name}.py").read_text())
        counter = Mutator(-1)
        counter.visit(copy.deepcopy(tree))
        for number in range(counter.seen):
            mutator = Mutator(number)
            changed = ast.fix_missing_locations(mutator.visit(copy.deepcopy(tree)))
            module = types.ModuleType(f"touchstone.telling.{name}")
            module.__package__ = "touchstone.telling"
            try:
                exec(compile(changed, f"{name}.py", "exec"), module.__dict__)  # noqa: S102 - our own sources
            except Exception:  # noqa: BLE001 - what cannot even be loaded is caught by anybody
                continue
            own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
            yield name, mutator.told, type("Mutant", (own[0], Telling), {})


class TooLong(Exception):
    """A mutant that does not end."""


def ring(*_):
    raise TooLong


def wrong_on(telling, golden: Golden) -> bool:
    """Whether a golden notices, in either tier, each stage working on the right ones before it."""
    deployed = {n: Shown(golden.stored("deployed", n), golden.dtype(n)) for n in golden.names}
    follow = deployed if contract.OPS[golden.op].staged else {n: s for n, s in deployed.items() if s.dtype == "int32"}
    for tier in ("deployed", "exact"):
        try:
            signal.setitimer(signal.ITIMER_REAL, 20)
            # In the deployed tier choices are the mutant's own, in the exact tier they are followed.
            chosen = follow if tier == "exact" or contract.OPS[golden.op].staged else {}
            record = telling(golden.case["conventions"], golden.case["parameters"], golden.inputs, tier, chosen).run(golden.op)
            names = [n for n in golden.names if tier == "deployed" or golden.stored("exact", n) is not None]
            if not judge.right(judge.judge(golden, {n: s.array for n, s in record.items()}, names, tier)):
                return True
        except Exception:  # noqa: BLE001 - a mutant that raises is noticed
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return False


def run_numpy(arguments) -> list[tuple]:
    """(file, place, the case that kills it or nothing)"""
    signal.signal(signal.SIGALRM, ring)
    np.seterr(all="ignore")
    goldens = [Golden(make.DEFAULT / case.name) for case in cases.choose([], "small")]
    goldens.sort(key=lambda g: sum(t.stat().st_size for t in (g.folder / "deployed").iterdir()))
    assert not any(wrong_on(Telling, golden) for golden in goldens), "the telling itself is wrong"
    results = []
    recent: list[Golden] = []  # what killed the last mutants kills the next one, most likely
    for name, place, telling in numpy_mutants():
        order = recent + [g for g in goldens if g not in recent]
        killer = next((g for g in order if wrong_on(telling, g)), None)
        if killer is not None:
            recent = [killer] + [g for g in recent if g is not killer][:5]
        results.append((f"{name}.py", place, killer.case["name"] if killer else ""))
        if killer is None:
            print(f"survives: {name}.py {place}", flush=True)
    return results


# C++

TOKENS = (
    (r"(?<=[\w)\]] )\+(?= )", "-", "sign"), (r"(?<=[\w)\]] )-(?= )", "+", "sign"), (r"(?<=[\w)\]] )\*(?= )", "/", "product"),
    (r"(?<=[\w)\]] )/(?= )", "*", "product"), (r" < ", " <= ", "comparison"), (r" > ", " >= ", "comparison"),
    (r" <= ", " < ", "comparison"), (r" >= ", " > ", "comparison"), (r" == ", " != ", "comparison"), (r" != ", " == ", "comparison"),
    (r"\+= ", "-= ", "sign"), (r"\bP::bf16\(", "(", BY_DESIGN), (r"\bP::bf16_at_any_scale\(", "(", BY_DESIGN),
    (r"\bstd::min\b", "std::max", "extreme"), (r"\bstd::max\b", "std::min", "extreme"), (r"\bstd::floor\b", "std::ceil", "extreme"),
    (r"\bstd::ceil\b", "std::floor", "extreme"), (r" && ", " || ", "condition"), (r" \|\| ", " && ", "condition"),
    (r"(?<![\w.<])(?:0\.5|1\.0|2\.0|0\.1)(?![\w.])", None, "constant"), (r"(?<=[ (\[])(?:0|1|2)(?=[;,)\]])", None, "constant"),
    (r"-std::numeric_limits", "std::numeric_limits", "sign"),
)  # fmt: skip


def uncalled(texts: dict[Path, str]) -> dict[Path, list[range]]:
    """The lines of functions that nothing in these files mentions but their own definition: no op runs them."""
    everything = "\n".join(texts.values())
    found: dict[Path, list[range]] = {}
    for file, text in texts.items():
        lines = text.splitlines()
        for number, line in enumerate(lines):
            head = re.match(r"(?!template|struct|namespace|using|return|//|#|\s|\})[^=]*?\b(\w+)\(", line)
            if head and not line.endswith(";") and len(re.findall(rf"\b{head[1]}\b", everything)) == 1:
                end = next((n for n in range(number, len(lines)) if lines[n] == "}"), number)
                found.setdefault(file, []).append(range(number + 1, end + 2))
    return found


def cpp_sites() -> tuple[list[tuple], str]:
    """(file, offset, length, new text, what) of every site that a golden can see, and what was left out."""
    sites, roundings, unreachable = [], 0, []
    read = set().union(*(variants.included(variants.OPS / unit) for unit in variants.units().values()))
    texts = {file: (REPOSITORY / file).read_text() for file in sorted(read)}
    dead = uncalled(texts)
    for file, text in texts.items():
        if file.suffix != ".h" or file.parts[1] not in HEADERS:
            continue
        blank = re.sub(r"//[^\n]*|\"[^\"\n]*\"|#[^\n]*|template <[^\n]*", lambda m: " " * len(m[0]), text)
        blank = re.sub(r"\b(?:require|refuse)\((?:[^()]|\([^()]*\))*\);", lambda m: re.sub(r"[^\n]", " ", m[0]), blank)
        for pattern, new, what in TOKENS:
            for match in re.finditer(pattern, blank):
                line = blank.count("\n", 0, match.start()) + 1
                if any(line in lines for lines in dead.get(file, [])):
                    unreachable.append(f"{file.name}:{line}")
                elif what == BY_DESIGN:
                    roundings += 1
                else:
                    replacement = new if new is not None else str(float(match[0]) * 2) if "." in match[0] else str(int(match[0]) + 1)
                    sites.append((file, match.start(), len(match[0]), replacement, what))
    return sites, (f"{len(sites)} sites; left out are {roundings} stores, since more precision is right, and "
                   f"{len(unreachable)} sites in functions that no op calls ({', '.join(dict.fromkeys(unreachable))})")  # fmt: skip


def units_of(file: Path, units: list[str]) -> list[str]:
    """The files of ops that read this one: those that name it first, whole layers last."""
    reading = [unit for unit in units if file in variants.included(variants.OPS / unit)]
    return sorted(reading, key=lambda unit: (unit == "layers.cpp", str(file) not in (REPOSITORY / variants.OPS / unit).read_text()))


def run_cpp(arguments) -> list[tuple]:
    """(file, place, the case that kills it, "does not compile", or nothing)"""
    sites, left_out = cpp_sites()
    print(left_out, flush=True)
    copy_of_ours = variants.Copy(f"mutants-{arguments.seed}")
    ops: dict[str, list[str]] = {}
    for op, unit in variants.units().items():
        ops.setdefault(unit, []).append(op)
    results = []
    unchanged: set[str] = set()
    for file, offset, length, new, what in random.Random(arguments.seed).sample(sites, arguments.count):
        text = (REPOSITORY / file).read_text()
        line = text.count("\n", 0, offset) + 1
        place = f"line {line}: {what}: {text.splitlines()[line - 1].strip()[:90]}  [{text[offset : offset + length].strip()} -> {new.strip()}]"
        killer = ""
        for unit in units_of(file, list(ops)):
            chosen = [c for op in ops[unit] if op in contract.OPS for c in cases.choose([op], "small") if "long" not in c.flags]
            if unit not in unchanged:
                if (complaint := copy_of_ours.build(unit, {})) or (complaint := killer_of(chosen, copy_of_ours.program)):
                    raise SystemExit(f"the unchanged {unit} is not right, so no mutant can be judged by it: {complaint}")
                unchanged.add(unit)
            changed = {file: text[:offset] + new + text[offset + length :]}
            killer = "does not compile" if copy_of_ours.build(unit, changed) else killer_of(chosen, copy_of_ours.program)
            if killer:
                break
        results.append((str(file), place, killer))
        print(f"{'survives' if not killer else 'killed  '}: {file} {place}  {killer}", flush=True)
    return results


def killer_of(chosen, plugin: Path) -> str:
    """The first case that finds a program wrong."""
    program = Program(plugin, Limits(20.0))
    for case in chosen:
        for tier in ("deployed", "exact"):
            if tier == "exact" and contract.OPS[case.op].staged:
                continue
            if check.check_case(case, program.run, check.Options(private=0, runs=1, tier=tier)).state != "right":
                return case.name
    return ""


def main() -> int:
    """One telling's mutants, with the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("telling", choices=("numpy", "cpp"))
    parser.add_argument("--count", type=int, default=60, help="how many of the C++ mutants")
    parser.add_argument("--seed", type=int, default=1, help="which of them")
    arguments = parser.parse_args()
    os.nice(10)
    results = run_numpy(arguments) if arguments.telling == "numpy" else run_cpp(arguments)
    compiled = [r for r in results if r[2] != "does not compile"]
    print()
    for file in dict.fromkeys(r[0] for r in compiled):
        own = [r for r in compiled if r[0] == file]
        print(f"{file:44} {sum(bool(r[2]) for r in own):4d} of {len(own):4d} killed")
    print()
    for kind in dict.fromkeys(r[1].split(": ")[1] for r in compiled):
        own = [r for r in compiled if r[1].split(": ")[1] == kind]
        print(f"{kind:44} {sum(bool(r[2]) for r in own):4d} of {len(own):4d} killed")
    dead = sum(bool(r[2]) for r in compiled)
    print(f"{dead} of {len(compiled)} mutants killed, {100 * dead / max(1, len(compiled)):.1f} %"
          + (f"; {len(results) - len(compiled)} more do not compile" if len(results) > len(compiled) else ""))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
