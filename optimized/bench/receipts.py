"""The receipts: what was checked and measured of which sources on which GPU. design.md, "GPU results are receipts".

A receipt names the SHA-256 of the sources of each level: the level's file, its op.h and op.cpp, and every file of the
CUDA tree that those include, at any remove, but for the simulator, which a GPU never sees. A row of the table whose
sources have changed since says so.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
REPOSITORY = TREE.parent
RECEIPTS = TREE / "bench" / "receipts"
SIMULATOR = TREE / "simulator"
WHOLE = "transformer_block"  # the op whose sources stand for the trained model's
BEGIN, END = "<!-- receipts: begin -->", "<!-- receipts: end -->"


def level_files(op: str) -> dict[int, Path]:
    """level -> its source"""
    found = {}
    for path in sorted((TREE / op).glob("level_*.cu")):
        found[int(path.name.split("_")[1])] = path
    return found


def ladders(program: Path) -> dict[str, list[int]]:
    """op -> its levels, as dsa-optimized or dsa-simulated lists them."""
    found: dict[str, list[int]] = {}
    for line in subprocess.run([program, "ops"], capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith(" "):
            found[list(found)[-1]].append(int(line.split()[1]))
        else:
            found[line.strip()] = []
    return found


def included(path: Path, seen: set[Path], sources: bool = True) -> set[Path]:
    """`path` and every file of the repository that it includes, at any remove; with `sources`, those of headers too."""
    if path in seen or not path.is_file() or path.is_relative_to(SIMULATOR):
        return seen
    seen.add(path)
    for name in re.findall(r'#include "([^"]+)"', path.read_text(encoding="utf-8")):
        included(REPOSITORY / name, seen, sources)
        # What a header declares, the source beside it does.
        for suffix in (".cpp", ".cu") if sources else ():
            included((REPOSITORY / name).with_suffix(suffix), seen)
    return seen


def code_of(text: str) -> str:
    """C++ without its comments and without blanks at the ends of lines, which no measurement depends on."""
    kept = re.sub(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', lambda match: match.group(1) or "", text, flags=re.DOTALL)
    return "\n".join(line for line in map(str.rstrip, kept.splitlines()) if line)


def sources_hash(op: str, level: int) -> str:
    """SHA-256 over the names and the code of a level's sources."""
    files: set[Path] = set()
    # A composed op's levels have no file of their own: they are the levels of its parts.
    own = [level_files(op)[level]] if level in level_files(op) else []
    for path in (*own, TREE / op / "op.h", TREE / op / "op.cpp"):
        included(path, files)
    # A composed op runs the levels of others: all of theirs count.
    for path in list(files):
        if path.name == "op.h" and path.parent.name != op:
            for source in sorted(path.parent.glob("*.c*")):
                included(source, files)
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(REPOSITORY).as_posix()}\0{code_of(path.read_text(encoding='utf-8'))}\0".encode())
    return digest.hexdigest()


def sources_of_all(op: str, levels: list[int]) -> str:
    """The same of all levels together: what an op runs that chooses its level."""
    return hashlib.sha256("".join(sources_hash(op, level) for level in levels).encode()).hexdigest()


def write(receipt: dict, folder: Path = RECEIPTS) -> Path:
    """One file a GPU, replaced as a whole."""
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "_", receipt["gpu"].lower()).strip("_")
    path = folder / f"{name}.json"
    path.with_suffix(".unfinished").write_text(json.dumps(receipt, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    path.with_suffix(".unfinished").rename(path)
    return path


def load(folder: Path = RECEIPTS) -> list[dict]:
    """All receipts in the tree."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def table(receipt: dict) -> str:
    """The receipt as Markdown: one row a timing of the highest level, and of every peer that ran beside it."""
    made = receipt["made"]
    c = receipt["ceilings"]
    lines = [
        f"{receipt['gpu']}, driver {receipt['driver']}, CUDA {receipt['toolkit']}, {made}. Ceilings of the same run: copy "
        f"{c['copy_bytes_a_second'] / 1e12:.2f} TB/s, bf16 product {c['bf16_flops_a_second'] / 1e12:.0f} TFLOPS, fp8 product "
        f"{c['fp8_flops_a_second'] / 1e12:.0f} TFLOPS. The simulator gives the bits of this card in all "
        f"{len(receipt['conformance'])} experiments on single instructions (`tests/optimized/test_conformance.py`).",
        "",
        "| op | level | cases right | worst error, of its bound | measured on | median, µs | share of the ceiling | peers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for op, entry in sorted(receipt["ops"].items()):
        for number, level in sorted(entry["levels"].items(), key=lambda item: int(item[0])):
            stale = "" if level["sources"] == current_hash(op, int(number)) else " (sources changed since)"
            checks = level["checks"]
            head = f"| `{op}` | {number}{stale} | {checks['right']} of {checks['cases']} | {checks['worst_ratio']:.2f} |"
            if not level["times"]:
                lines.append(head + " | | | |")
            for time in level["times"]:
                peers = ", ".join(f"{p['name']} {p['median_us']:.1f}" for p in time.get("peers", []))
                if peers and "in_turns_us" in time:
                    alone = time["in_turns_us"] != time["median_us"]
                    peers += f"; {time['in_turns_us']:.1f} in turns" if alone else ", in turns"
                turns = f", {time['ceiling_in_turns'] / 1e12:.0f} in turns" if "ceiling_in_turns" in time else ""
                lines.append(f"{head} {time['shape']} | {time['median_us']:.1f} ± {time['spread_us'] / 2:.1f} | "
                             f"{time['share']:.2g} of {time['ceiling']}{turns} | {peers} |")  # fmt: skip
                head = "| | | | |"
    return "\n".join([*lines, "", of_full_size(receipt), "", of_trained_model(receipt)])


def of_full_size(receipt: dict) -> str:
    """The line on the cases of V3.2's sizes and beyond; each op chose its levels for them."""
    said = []
    for op, full in sorted(receipt.get("full_size", {}).items()):
        levels = sorted(int(n) for n in receipt["ops"][op]["levels"])
        stale = "" if (TREE / op / "op.cpp").exists() and full["sources"] == sources_of_all(op, levels) else " (sources changed since)"
        said.append(f"`{op}` {full['right']} of {full['cases']}{stale}")
    if not said:
        return "Cases of V3.2's sizes were not asked."
    return f"Right in cases of V3.2's sizes and beyond, each op at the levels that it chooses: {', '.join(said)}."


def of_trained_model(receipt: dict) -> str:
    """The trained model's line; it may have run with other sources than the ops did."""
    passages = receipt["trained_model"]
    same = sum(p["same"] for p in passages)
    level = max(int(number) for number in receipt["ops"][WHOLE]["levels"])
    stale = "" if receipt["trained_model_sources"] == current_hash(WHOLE, level) else " (sources changed since)"
    return f"The small trained model goes on with the reference's tokens in {same} of {len(passages)} passages{stale}."


def current_hash(op: str, level: int) -> str:
    """The hash of the sources as they are now; empty if they are gone."""
    return sources_hash(op, level) if (TREE / op / "op.cpp").exists() else ""


def in_page(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """`page` with `text` between its markers."""
    if begin not in page or end not in page:
        raise ValueError(f"the page must hold {begin} and {end}")
    before, after = page.split(begin)[0], page.split(end)[1]
    return f"{before}{begin}\n{text}\n{end}{after}"


def main() -> None:
    """Writes the receipts' tables into docs/gpu-results.md, and the cost curve's into its chapter."""
    from . import cost_page  # which reads hashes from here

    page = REPOSITORY / "docs" / "gpu-results.md"
    text = "\n\n".join(table(receipt) for receipt in load())
    page.write_text(in_page(page.read_text(encoding="utf-8"), text), encoding="utf-8")
    cost_page.write_page()


if __name__ == "__main__":
    main()
