"""The cost curve's table and figure, of what cost_curve.py measured. Needs no GPU; the figure needs matplotlib.

    python -m optimized.bench.cost_page [--no-figure]

A block's time is the sum of its parts, each less the time that the smallest kernel's graph takes: sparse is projections,
rest, indexer_project, selection and sparse; dense is projections, rest and dense.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CURVES = REPOSITORY / "optimized" / "bench" / "curves"
PAGE = REPOSITORY / "docs" / "24-what-the-curve-says.md"
FIGURE = REPOSITORY / "docs" / "pictures" / "cost_curve.svg"
BEGIN, END = "<!-- cost curve: begin -->", "<!-- cost curve: end -->"
PHASES = {"prefill": "prefill, the last 4096 tokens of S at once", "decode": "decode, one request", "batch": "decode, 64 requests of S tokens"}
LENGTHS = [1024 << i for i in range(8)]
LAYERS = 61
DOLLARS_AN_HOUR = 2.0  # of one GPU: the assumption that prices rest on
COMMON, SPARSE, DENSE = ("projections", "rest"), ("indexer_project", "selection", "sparse"), ("dense",)


def load() -> list[dict]:
    """All measured curves."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CURVES.glob("*.json"))]


def write(curve: dict) -> Path:
    """One file a GPU."""
    CURVES.mkdir(exist_ok=True)
    path = CURVES / (re.sub(r"[^a-z0-9]+", "_", curve["gpu"].lower()).strip("_") + ".json")
    path.write_text(json.dumps(curve, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def net(curve: dict, part: dict) -> float:
    """Microseconds of a part without what any graph takes to start."""
    return max(0.0, part["median_us"] - curve["overhead_us"])


def left(curve: dict, point: dict) -> float:
    """What a whole block takes beyond its timed parts: absorbing W_uk, W_uv, W_o."""
    others = sum(net(curve, p) for name, p in point["parts"].items() if name != "dense")
    return net(curve, point["whole"]) - others


def rest(curve: dict, point: dict) -> float:
    """The same for a point's number of tokens. It does not hang on S: taken where nothing else is large, once for each."""
    tokens = point["T"] * point["B"]
    same = [p for p in curve["points"] if "whole" in p and p["T"] == tokens]
    return max(0.0, left(curve, min(same, key=lambda p: p["S"])))


def costs(curve: dict, point: dict) -> dict[str, float]:
    """name -> microseconds a token and layer: every part, and the sums `sparse_block` and `dense_block`."""
    tokens = point["T"] * point["B"]
    found = {name: net(curve, p) / tokens for name, p in point["parts"].items()} | {"rest": rest(curve, point) / tokens}
    found["sparse_block"] = sum(found[n] for n in (*COMMON, *SPARSE))
    found["dense_block"] = sum(found[n] for n in (*COMMON, *DENSE))
    return found


def series(curve: dict) -> dict:
    """phase -> {"S": [...], name: [...]}: the numbers of the figure, microseconds a token and layer."""
    found = {}
    for phase in PHASES:
        points = sorted((p for p in curve["points"] if p["phase"] == phase), key=lambda p: p["S"])
        if not points:
            continue
        rows = [costs(curve, p) for p in points]
        names = (*COMMON, *SPARSE, *DENSE, "sparse_block", "dense_block")
        found[phase] = {"S": [p["S"] for p in points]} | {n: [round(r[n], 4) for r in rows] for n in names}
    return found


def crossing(lines: dict) -> float | None:
    """The context from which on sparse costs less, between measured ones on straight lines of log S; None: never, or always."""
    S, gap = lines["S"], [d - s for d, s in zip(lines["dense_block"], lines["sparse_block"])]
    for i in range(len(S) - 1, 0, -1):
        if gap[i] > 0 >= gap[i - 1]:
            share = -gap[i - 1] / (gap[i] - gap[i - 1])
            return 2 ** (math.log2(S[i - 1]) + share * math.log2(S[i] / S[i - 1]))
    return None


def dollars(us: float) -> float:
    """A million tokens through LAYERS layers' attention blocks, from microseconds a token and layer."""
    return us * LAYERS * DOLLARS_AN_HOUR / 3600


def table(curve: dict) -> str:
    """One table a phase, as Markdown."""
    lines = [f"{curve['gpu']}, driver {curve['driver']}, CUDA {curve['toolkit']}, {curve['made']}; copy {curve['ceilings']['copy_bytes_a_second'] / 1e12:.2f} TB/s, "
             f"bf16 product {curve['ceilings']['bf16_flops_a_second'] / 1e12:.0f} TFLOPS, fp8 product {curve['ceilings']['fp8_flops_a_second'] / 1e12:.0f} TFLOPS. "
             "Microseconds a token and layer.", ""]  # fmt: skip
    for phase, of in series(curve).items():
        at = crossing(of)
        first = of["dense_block"][0] > of["sparse_block"][0]
        said = f"sparse wins from {at / 1024:.1f}K on" if at else "sparse wins everywhere" if first else "dense wins everywhere"
        lines += [f"**{PHASES[phase][0].upper() + PHASES[phase][1:]}** ({said})", "",
                  "| S | projections, rest | indexer_project | selection | sparse attention | sparse block | dense attention | dense block | dense / sparse | dollars a million tokens: dense, sparse |",
                  "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for i, S in enumerate(of["S"]):
            v = {n: of[n][i] for n in of}
            lines.append(f"| {S // 1024}K | {v['projections'] + v['rest']:.3g} | {v['indexer_project']:.3g} | {v['selection']:.3g} | {v['sparse']:.3g} | "
                         f"{v['sparse_block']:.3g} | {v['dense']:.3g} | {v['dense_block']:.3g} | {v['dense_block'] / v['sparse_block']:.2f} | "
                         f"{dollars(v['dense_block']):.2f}, {dollars(v['sparse_block']):.2f} |")  # fmt: skip
        lines.append("")
    return "\n".join(lines).rstrip()


def in_page(page: str, text: str) -> str:
    """The page with the table between its marks."""
    before, _, more = page.partition(BEGIN)
    _, _, after = more.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def numbers_of(svg: str) -> dict:
    """What a figure was drawn from: it says so in its own metadata."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", svg, re.S)
    return json.loads(found.group(1).replace("&quot;", '"')) if found else {}


def draw(curve: dict, path: Path) -> None:
    """One panel a phase."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "touchstone"})
    lines = series(curve)
    figure, panels = plt.subplots(1, len(lines), figsize=(4.6 * len(lines), 4.2), squeeze=False)
    look = {"dense_block": ("dense block", "#b03030", 2.4, "-"), "sparse_block": ("sparse block", "#1f5fa8", 2.4, "-"),
            "selection": ("indexer and selection", "#e08a1e", 1.2, "--"), "sparse": ("sparse attention", "#3d8f4b", 1.2, "--"),
            "common": ("projections, output", "#777777", 1.2, ":")}  # fmt: skip
    for axes, (phase, of) in zip(panels[0], lines.items()):
        drawn = of | {"common": [a + b for a, b in zip(of["projections"], of["rest"])],
                      "selection": [a + b for a, b in zip(of["indexer_project"], of["selection"])]}  # fmt: skip
        for name, (label, colour, width, style) in look.items():
            axes.plot(of["S"], drawn[name], style, color=colour, lw=width, label=label, marker="o", ms=2.5)
        at = crossing(of)
        if at:
            axes.axvline(at, color="#999999", lw=0.8)
            axes.annotate(f"{at / 1024:.1f}K", (at, axes.get_ylim()[0]), fontsize=8, color="#555555", ha="left", va="bottom")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(of["S"], [f"{S // 1024}K" for S in of["S"]])
        axes.set_title(PHASES[phase], fontsize=9.5)
        axes.set_xlabel("context S")
        axes.grid(True, which="major", lw=0.4, color="#dddddd")
    panels[0][0].set_ylabel("µs a token and layer")
    panels[0][0].legend(fontsize=7.5, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Description": json.dumps(lines)})


def main() -> int:
    """Writes the page's table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-figure", action="store_true")
    options = parser.parse_args()
    curves = load()
    PAGE.write_text(in_page(PAGE.read_text(encoding="utf-8"), "\n\n".join(table(c) for c in curves)), encoding="utf-8")
    if not options.no_figure:
        draw(curves[0], FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
