"""The cost curve's table and figure, of what cost_curve.py measured. Needs no GPU; the figure needs matplotlib.

    python -m optimized.bench.cost_page [--no-figure]

A block's time is the sum of its parts, each less the time that the smallest kernel's graph takes: sparse is projections,
rest, indexer_project, selection and sparse; dense is projections, rest and dense, or up_projection and dense_own. Where two
ways were timed (the selection in two ops, the dense attention of a batch as a selection of everything) the faster one counts.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

from . import receipts

REPOSITORY = Path(__file__).resolve().parents[2]
CURVES = REPOSITORY / "optimized" / "bench" / "curves"
PAGE = REPOSITORY / "docs" / "24-what-the-curve-says.md"
FIGURE = REPOSITORY / "docs" / "pictures" / "cost_curve.svg"
BEGIN, END = "<!-- cost curve: begin -->", "<!-- cost curve: end -->"
PHASES = {"prefill": "prefill, the last 4096 tokens of S at once", "decode": "decode, one request", "batch": "decode, 64 requests of S tokens"}
LENGTHS = [1024 << i for i in range(8)]
LAYERS = 61
BATCH = 64  # requests that decode a token each
DOLLARS_AN_HOUR = 2.0  # of one GPU: the assumption that prices rest on
# Dollars a million tokens of a service before and with DSA, as quoted from the figure of inference costs in the DeepSeek-V3.2
# report; not checked against its data. 3.8 times the price at four times the context is the slope of decoding.
PUBLISHED = {32768: (0.60, 0.10), 131072: (2.30, 0.30)}
DISTURBED = 0.5  # quartiles this share of the median apart, or more: something else had the card
ATTEMPTS = 3
SPARSE = ("projections", "rest", "indexer_project", "selection", "sparse")


def load() -> list[dict]:
    """All measured curves."""
    return receipts.load(CURVES)


def write(curve: dict) -> Path:
    """One file a GPU."""
    return receipts.write(curve, CURVES)


def is_disturbed(part: dict) -> bool:
    """Whether a timing's quartiles lie too far apart to be believed."""
    return not part["spread_us"] < DISTURBED * part["median_us"]


def calmest(measure: Callable[[], dict]) -> dict:
    """A timing, made again while it is disturbed, ATTEMPTS times at most: the one whose quartiles lie closest."""
    best = measure()
    for _ in range(ATTEMPTS - 1):
        if not is_disturbed(best):
            break
        best = min(best, measure(), key=lambda part: part["spread_us"] / part["median_us"])
    return best


def points_of(curve: dict, phase: str) -> list[dict]:
    """A phase's points by S."""
    return sorted((p for p in curve["points"] if p["phase"] == phase), key=lambda p: p["S"])


def disturbed(curve: dict, phase: str) -> list[tuple[int, str]]:
    """(S, part) of a phase's disturbed timings."""
    return [(p["S"], name) for p in points_of(curve, phase) for name, part in p["parts"].items() if is_disturbed(part)]


def net(curve: dict, part: dict) -> float:
    """Microseconds of a part without what any graph takes to start."""
    return max(0.0, part["median_us"] - curve["overhead_us"])


def left(curve: dict, point: dict) -> float:
    """What a whole block takes beyond its timed parts: absorbing W_uk, W_uv, W_o."""
    parts = ("projections", "indexer_project", "selection", "sparse", "copy")
    return net(curve, point["whole"]) - sum(net(curve, p) for name, p in point["parts"].items() if name in parts)


def rest(curve: dict, point: dict) -> float:
    """The same for a point's number of tokens. It does not hang on S: taken where nothing else is large, once for each."""
    same = [p for p in curve["points"] if "whole" in p and p["T"] == point["T"] * point["B"]]
    return max(0.0, left(curve, min(same, key=lambda p: p["S"])))


def batched(curve: dict, S: int) -> float:
    """Computed, not measured: dense attention of one query, were a batch one kernel that kept the rate of the longest prefill, or the copy's."""
    longest = points_of(curve, "prefill")[-1]
    T = longest["T"]
    pairs = T * (longest["S"] - T) + T * (T + 1) / 2
    latent_bytes = 2 * 576
    return max(S * net(curve, longest["parts"]["dense"]) / pairs, S * latent_bytes / curve["ceilings"]["copy_bytes_a_second"] * 1e6)


def costs(curve: dict, point: dict) -> dict[str, float]:
    """name -> microseconds a token and layer, of the parts and of whole blocks."""
    tokens = point["T"] * point["B"]
    of = {name: net(curve, p) / tokens for name, p in point["parts"].items()} | {"rest": rest(curve, point) / tokens}
    of["selection"] = min(of["selection"], of.get("selection_in_two", math.inf))
    of["mqa_block"] = of["projections"] + of["rest"] + min(of["dense"], of.get("dense_as_selection", math.inf))
    if point["B"] > 1:
        of["batched_block"] = of["projections"] + of["rest"] + batched(curve, point["S"])
    if "dense_own" in of:
        of["mha_block"] = of["projections"] + of["rest"] + of["up_projection"] + of["dense_own"]
    of["dense_block"] = min(of["mqa_block"], of.get("mha_block", math.inf))
    of["sparse_block"] = sum(of[n] for n in SPARSE)
    return of


def series(curve: dict) -> dict:
    """phase -> {"S": [...], name: [...]}: the numbers of the figure, microseconds a token and layer."""
    found = {}
    for phase in PHASES:
        points = points_of(curve, phase)
        if not points:
            continue
        rows = [costs(curve, p) for p in points]
        names = [n for n in (*SPARSE, "sparse_block", "mqa_block", "mha_block", "batched_block", "dense_block") if n in rows[0]]
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


def stale(curve: dict) -> list[str]:
    """Ops whose sources have changed since."""
    return sorted(op for op, e in curve["levels"].items() if receipts.current_hash(op, max(e["ran"])) != e["sources"])


def table(curve: dict) -> str:
    """One table a phase, as Markdown, and what the block takes as one op."""
    c = curve["ceilings"]
    ran = ", ".join(f"`{op}` {' and '.join(map(str, e['ran']))}" for op, e in sorted(curve["levels"].items()))
    lines = [f"{curve['gpu']}, driver {curve['driver']}, CUDA {curve['toolkit']}, {curve['made']}; copy {c['copy_bytes_a_second'] / 1e12:.2f} TB/s, bf16 "
             f"product {c['bf16_flops_a_second'] / 1e12:.0f} TFLOPS, fp8 product {c['fp8_flops_a_second'] / 1e12:.0f} TFLOPS. Microseconds a token and layer. "
             f"Highest levels that take the calls (`sparse_decode` chooses among its own by the number of queries): {ran}." + (f" Sources changed since: {', '.join(f'`{op}`' for op in stale(curve))}." if stale(curve) else ""), ""]  # fmt: skip
    for phase, of in series(curve).items():
        at = crossing(of)
        first = of["dense_block"][0] > of["sparse_block"][0]
        said = f"sparse wins from {at / 1024:.1f}K on" if at else "sparse wins everywhere" if first else "dense wins everywhere"
        other, title = ("mha_block", "dense block, MHA") if "mha_block" in of else ("batched_block", "the same in one kernel, computed")
        own = other in of
        lines += [f"**{PHASES[phase][0].upper() + PHASES[phase][1:]}** ({said})", "",
                  "| S | projections and rest | indexer's projections | selection | sparse attention | sparse block | dense block, MQA |"
                  + (f" {title} |" if own else "") + " dense / sparse | dollars: dense, sparse |",
                  "|---|---|---|---|---|---|---|---|---|" + ("---|" if own else "")]  # fmt: skip
        for i, S in enumerate(of["S"]):
            v = {n: of[n][i] for n in of}
            cells = [v["projections"] + v["rest"], *(v[n] for n in ("indexer_project", "selection", "sparse", "sparse_block", "mqa_block")),
                     *([v[other]] if own else [])]  # fmt: skip
            lines.append(f"| {S // 1024}K | " + " | ".join(figure(x) for x in cells) + f" | {v['dense_block'] / v['sparse_block']:.2f} | "
                         f"{dollars(v['dense_block']):.3f}, {dollars(v['sparse_block']):.3f} |")  # fmt: skip
        lines.append("")
        if told := [f"{name} at {S // 1024}K" for S, name in disturbed(curve, phase)]:
            lines += [f"Disturbed, quartiles more than half of the median apart, and not to be believed: {', '.join(told)}.", ""]
    lines += [prices(curve), ""]
    whole = sorted((p for p in curve["points"] if "whole" in p and p["T"] != BATCH), key=lambda p: (-p["T"], p["S"]))
    lines += ["**`dsa_attention` as one op**, microseconds", "", "| T, S | as a whole | its parts alone | of these selection | the copy of the context |", "|---|---|---|---|---|"]
    for p in whole:
        parts = {n: net(curve, x) for n, x in p["parts"].items()}
        alone = sum(parts.get(n, 0.0) for n in ("projections", "indexer_project", "selection", "sparse", "copy")) + rest(curve, p)
        lines.append(f"| {p['T']}, {p['S'] // 1024}K | {net(curve, p['whole']):.0f} | {alone:.0f} | {parts['selection']:.0f} | {parts.get('copy', 0.0):.0f} |")
    return "\n".join(lines)


def prices(curve: dict) -> str:
    """Published prices beside what the curve implies."""
    of = series(curve)
    lines = [f"**Dollars a million tokens**, dense to sparse; ours: the attention blocks of {LAYERS} layers, at {DOLLARS_AN_HOUR:.2f} dollars a GPU and hour", "",
             f"| S | published | decode, {BATCH} requests | the same with dense in one kernel (computed) | prefill |", "|---|---|---|---|---|"]  # fmt: skip
    for S, (before, after) in PUBLISHED.items():
        b, p = ({n: of[phase][n][of[phase]["S"].index(S)] for n in of[phase]} for phase in ("batch", "prefill"))
        lines.append(f"| {S // 1024}K | {before:.2f} to {after:.2f} | {dollars(b['dense_block']):.2f} to {dollars(b['sparse_block']):.2f} | "
                     f"{dollars(b['batched_block']):.2f} to {dollars(b['sparse_block']):.2f} | {dollars(p['dense_block']):.2f} to {dollars(p['sparse_block']):.2f} |")  # fmt: skip
    return "\n".join(lines)


def figure(x: float) -> str:
    """Three digits without an exponent."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def in_page(page: str, text: str) -> str:
    """The page with the table between its marks."""
    return receipts.in_page(page, text, BEGIN, END)


def numbers_of(svg: str) -> dict:
    """What a figure was drawn from: it says so in its own metadata."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", svg, re.S)
    return json.loads(found.group(1).replace("&quot;", '"')) if found else {}


def draw(curve: dict, path: Path) -> None:
    """One panel a phase."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    plt.rcParams.update({"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "touchstone"})
    lines = series(curve)
    figure, panels = plt.subplots(1, len(lines), figsize=(4.6 * len(lines), 4.2), squeeze=False)
    look = {"mqa_block": ("dense block, MQA", "#b03030", 2.2, "-"), "mha_block": ("dense block, MHA", "#d98080", 2.2, "-"),
            "batched_block": ("the same in one kernel (computed)", "#b03030", 1.2, ":"), "sparse_block": ("sparse block", "#1f5fa8", 2.6, "-"), "selects": ("indexer and selection", "#e08a1e", 1.2, "--"),
            "sparse": ("sparse attention", "#3d8f4b", 1.2, "--"), "common": ("projections, output", "#777777", 1.2, ":")}  # fmt: skip
    for axes, (phase, of) in zip(panels[0], lines.items()):
        drawn = of | {"common": [a + b for a, b in zip(of["projections"], of["rest"])],
                      "selects": [a + b for a, b in zip(of["indexer_project"], of["selection"])]}  # fmt: skip
        for name, (label, colour, width, style) in look.items():
            if name in drawn:
                axes.plot(of["S"], drawn[name], style, color=colour, lw=width, label=label, marker="o", ms=2.5)
        for S, name in disturbed(curve, phase):
            if name in look:
                at = (S, drawn[name][of["S"].index(S)])
                axes.plot(*at, "o", mfc="white", mec="#777777", ms=7, zorder=0)
                axes.annotate("disturbed", at, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7.5, color="#555555")
        crossed = crossing(of)
        if crossed:
            axes.axvline(crossed, color="#999999", lw=0.8)
            axes.text(crossed, 0.02, f" {crossed / 1024:.1f}K", transform=axes.get_xaxis_transform(), fontsize=8, color="#555555")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(ticker.FuncFormatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in "125" else ""))
        axes.set_xticks(of["S"], [f"{S // 1024}K" for S in of["S"]])
        axes.set_title(PHASES[phase], fontsize=9.5)
        axes.set_xlabel("context S")
        axes.grid(True, which="major", lw=0.4, color="#dddddd")
    panels[0][0].set_ylabel("µs a token and layer")
    panels[0][0].legend(fontsize=7.5, frameon=False)
    panels[0][-1].legend([line for line in panels[0][-1].lines if "computed" in str(line.get_label())], ["dense block, one kernel (computed)"], fontsize=7.5, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Description": json.dumps(lines)})


def write_page() -> None:
    """The tables, into the chapter."""
    PAGE.write_text(in_page(PAGE.read_text(encoding="utf-8"), "\n\n".join(table(c) for c in load())), encoding="utf-8")


def main() -> int:
    """Writes the page's tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-figure", action="store_true")
    options = parser.parse_args()
    write_page()
    if not options.no_figure:
        draw(load()[0], FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
