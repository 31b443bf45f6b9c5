#!/usr/bin/env python3
"""The parity tables of docs, made from what `dsa-reference train` left behind: one run a seed.

    python tools/parity.py collect --recipe recipes/text.json --machine "..." --out docs/results/text.json RUN_1 RUN_2 ...
    python tools/parity.py write        # puts the tables into the pages that have a place for them
    python tools/parity.py check        # 1 if a page and the files disagree

A place in a page is a pair of comments, <!-- parity: KIND FILE --> and <!-- parity end -->; FILE is relative to
docs/results, KIND is one of TABLES below. Numbers are means over seeds, +- their standard deviation (n - 1).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "results"
PLACE = re.compile(r"(<!-- parity: (\w+) ([\w.-]+) -->\n).*?(<!-- parity end -->)", re.DOTALL)
DENSE, LONGER, SPARSE = "dense", "dense, trained as much longer", "sparse, after sparse training"
FEW = 10  # steps that a mean is taken over


def fingerprint(recipe: dict) -> str:
    """Of all that a run's numbers follow from: not of remarks, nor of the seed."""
    kept = {k: v for k, v in recipe.items() if k not in ("note", "seed", "save_every")}
    kept["stages"] = [{k: v for k, v in stage.items() if k != "published"} for stage in recipe["stages"]]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def rounded(x):
    return float(f"{x:.6g}") if isinstance(x, float) else x


def summary(log: Path) -> dict:
    """The number of a stage's steps, and the means of the first ones and the last ones."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = {"steps": len(lines)}
    for when, part in (("first", lines[:FEW]), ("last", lines[-FEW:])):
        names = [name for name in ("loss", "kl", "captured", "gradient_norm", "fullest_expert") if name in part[0]]
        told[when] = {name: rounded(statistics.fmean(line[name] for line in part)) for name in names}
    return told


def collected(recipe: Path, machine: str, runs: list[Path]) -> dict:
    """What docs keep of several runs of one recipe."""
    what = json.loads(recipe.read_text())
    stages = [stage["name"] for stage in what["stages"]]
    kept = []
    for run in runs:
        told = json.loads((run / "evaluation.json").read_text())
        rows = [{k: rounded(v) for k, v in row.items()} for row in told["rows"]]
        kept.append({"seed": told["seed"], "rows": rows, "stages": {s: summary(run / s / "log.jsonl") for s in stages}})
    seeds = [run["seed"] for run in kept]
    if len(set(seeds)) != len(seeds):
        raise SystemExit(f"each run must have a seed of its own; they have {seeds}")
    return {"recipe": f"recipes/{recipe.name}", "fingerprint": fingerprint(what), "machine": machine, "runs": sorted(kept, key=lambda run: run["seed"])}


def spread(values: list[float], digits: int) -> str:
    """0.512 ± 0.004"""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def of(results: dict, name: str, measure: str) -> list[float]:
    """A measure of an evaluation, one number a seed."""
    return [row[measure] for run in results["runs"] for row in run["rows"] if row["name"] == name]


def parity(results: dict) -> str:
    """Measures as rows, dense against sparse: the form in which the reports compare V3.2-Exp with V3.1-Terminus."""
    seeds = len(results["runs"])
    lines = [f"| {seeds} seeds | dense | dense, as much longer | sparse | sparse − dense longer, seed by seed |", "|---|---|---|---|---|"]
    measures = [("loss on held-out sequences, nats ↓", "loss", 1.0, 4), ("right answers, % ↑", "accuracy", 100.0, 2), ("pairs attended to, % ↓", "pairs", 100.0, 2)]
    for title, measure, factor, digits in measures:
        columns = [[x * factor for x in of(results, name, measure)] for name in (DENSE, LONGER, SPARSE)]
        columns.append([sparse - longer for sparse, longer in zip(columns[2], columns[1], strict=True)])
        lines.append(f"| {title} | " + " | ".join(spread(column, digits) for column in columns) + " |")
    return "\n".join(lines)


def variants(results: dict) -> str:
    """Every evaluation of the recipe as a row."""
    recipe = json.loads((REPOSITORY / results["recipe"]).read_text())
    lines = ["| | loss, nats ↓ | right answers, % ↑ | recall of dense mass, % | captured, % |", "|---|---|---|---|---|"]
    for evaluation in recipe["evaluations"]:
        name = evaluation["name"]
        percents = {m: spread([100 * x for x in of(results, name, m)], 1) for m in ("accuracy", "recall", "captured")}
        # Who does not choose with the indexer does not ask it.
        if evaluation["selection"] != "indexer":
            percents["captured"] = ""
        lines.append(f"| {name} | {spread(of(results, name, 'loss'), 3)} | {' | '.join(percents.values())} |")
    return "\n".join(lines)


def seeds(results: dict) -> str:
    """Right answers of every evaluation, a column a seed."""
    lines = ["| right answers, % | " + " | ".join(f"seed {run['seed']}" for run in results["runs"]) + " |", "|---" * (len(results["runs"]) + 1) + "|"]
    for row in results["runs"][0]["rows"]:
        lines.append(f"| {row['name']} | " + " | ".join(f"{100 * x:.1f}" for x in of(results, row["name"], "accuracy")) + " |")
    return "\n".join(lines)


def stages(results: dict) -> str:
    """How each stage began and ended: what training itself saw."""
    lines = ["| stage | steps | loss at first | loss at last | captured at first, % | captured at last, % |", "|---|---|---|---|---|---|"]
    for name, told in results["runs"][0]["stages"].items():
        cells = []
        for measure, factor, digits in (("loss", 1, 3), ("captured", 100, 1)):
            for when in ("first", "last"):
                known = measure in told[when]
                cells.append(spread([factor * run["stages"][name][when][measure] for run in results["runs"]], digits) if known else "")
        lines.append(f"| `{name}` | {told['steps']} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"parity": parity, "variants": variants, "stages": stages, "seeds": seeds}


def filled(page: str) -> str:
    """The page with every place filled from the files."""

    def fill(match: re.Match) -> str:
        results = json.loads((RESULTS / match[3]).read_text())
        return match[1] + TABLES[match[2]](results) + "\n" + match[4]

    return PLACE.sub(fill, page)


def pages() -> list[Path]:
    return [page for page in sorted((REPOSITORY / "docs").glob("*.md")) if PLACE.search(page.read_text())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    collect = commands.add_parser("collect")
    collect.add_argument("--recipe", type=Path, required=True)
    collect.add_argument("--machine", required=True)
    collect.add_argument("--out", type=Path, required=True)
    collect.add_argument("runs", type=Path, nargs="+")
    commands.add_parser("write")
    commands.add_parser("check")
    options = parser.parse_args()
    if options.command == "collect":
        options.out.write_text(json.dumps(collected(options.recipe, options.machine, options.runs), indent=1) + "\n")
        return 0
    stale = [page for page in pages() if filled(page.read_text()) != page.read_text()]
    for page in stale:
        if options.command == "write":
            page.write_text(filled(page.read_text()))
        print(f"{page.relative_to(REPOSITORY)} {'written' if options.command == 'write' else 'does not say what docs/results says: run tools/parity.py write'}")
    return 1 if stale and options.command == "check" else 0


if __name__ == "__main__":
    sys.exit(main())
