"""How did training go? A run's logs and its table as two pictures: curves over the steps, and bars."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from . import Refusal, require
from .runs import Run, Stage

# Okabe and Ito's colours, which people with any colour vision tell apart (jfly.uni-koeln.de/color). Lines that share a
# panel differ in their dashes too.
BLUE, VERMILLION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#dddddd", "grid.linewidth": 0.6, "legend.frameon": False, "svg.fonttype": "path", "svg.hashsalt": "touchstone",
}  # fmt: skip
WINDOW = 1 / 40  # of a stage's steps: what a thick line is the mean over


def pyplot():
    """matplotlib.pyplot, drawing into files."""
    try:
        import matplotlib
    except ImportError:
        raise Refusal("`touchstone curves` draws with matplotlib, which is not installed: pip install 'touchstone[pictures]'") from None
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def smoothed(values) -> np.ndarray:
    """The mean over a window of steps around each; near an end, over those of the window that there are."""
    width = max(1, round(len(values) * WINDOW))
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def draw_line(axes, stage: Stage, entry: str, colour: str, dashes: str = "-", label: str = "") -> None:
    """A log's entry over the steps: thin as it is, thick as its mean. Nothing where the log has no such entry."""
    steps, values = stage.of_log(entry)
    if not steps:
        return
    dense = len(steps) == len(stage.log)  # an entry of every step; others are measured now and then
    if dense:
        axes.plot(steps, values, color=colour, lw=0.6, alpha=0.35)
    axes.plot(steps, smoothed(values) if dense else values, dashes, color=colour, lw=1.8, label=label)


# Who learns, by the gradient norm that the log then has: (entry, colour, dashes, label)
LEARNERS = (("gradient_norm", BLUE, "-", "main model"), ("indexer_gradient_norm", VERMILLION, "--", "indexer"))


def draw_rates(axes, stage: Stage) -> None:
    """The learning rates of the main model and of the indexer, where each learns."""
    peak = stage.settings["learning_rate"]
    peaks = peak, stage.settings.get("indexer_learning_rate", peak)
    for (norm, colour, dashes, label), own in zip(LEARNERS, peaks):
        learns = [line for line in stage.log if norm in line]
        # The log has the main model's rate; the indexer's rises and falls with it (reference/training/train.cpp).
        rates = [line["rate"] / peak * own if peak > 0 else own for line in learns]
        axes.plot([stage.first + line["step"] for line in learns], rates, dashes, color=colour, lw=1.8, label=label)


def panels():
    """What each panel draws: (title, label of the y axis, draw(axes, stage), a level to mark or None)."""

    def line(entry, colour, dashes="-", label=""):
        return lambda axes, stage: draw_line(axes, stage, entry, colour, dashes, label)

    def norms(axes, stage):
        for learner in LEARNERS:
            draw_line(axes, stage, *learner)

    def knows(axes, stage):
        draw_line(axes, stage, "captured", BLUE, "-", "captured, 1 - KL / KL(p ‖ uniform)")
        draw_line(axes, stage, "recall", VERMILLION, "--", "recall of the mass in the top k")

    return [
        ("Loss of the main model", "nats a token", line("loss", BLUE), None),
        ("KL of the indexer", "nats a query", line("kl", VERMILLION), 0.0),
        ("What the indexer knows", "share of the attention's mass", knows, 1.0),
        ("Learning rates", "learning rate", draw_rates, None),
        ("Gradients", "norm, before clipping", norms, None),
        ("The fullest expert", "tokens, over an even share", line("fullest_expert", GREEN), 1.0),
    ]


def draw_curves(run: Run):
    """Six panels over the run's steps, one band a stage. -> the figure"""
    plt = pyplot()
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(13, 6.6), layout="constrained")
        for axes, (title, unit, draw, level) in zip(grid.flat, panels()):
            axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
            axes.set_xlabel("step")
            axes.set_ylabel(unit)
            if level is not None:
                axes.axhline(level, color=GREY, lw=1, ls=":")
            for i, stage in enumerate(run.stages):
                draw(axes, stage)
                if stage.log:
                    axes.axvspan(stage.first, stage.first + len(stage.log), color="#000000", alpha=0.05 * (i % 2), lw=0)
                    axes.text(stage.first + len(stage.log) / 2, 0.99, stage.name, transform=axes.get_xaxis_transform(),
                              ha="center", va="top", fontsize=8, color=GREY, clip_on=True)  # fmt: skip
            # From where there is something to see; the first line of a panel with a level is that level.
            first = min((x for drawn in axes.lines[level is not None :] for x in drawn.get_xdata()), default=0)
            axes.set_xlim(left=first - 0.02 * (axes.get_xlim()[1] - first))
            if title in ("Learning rates", "Gradients"):
                axes.set_yscale("log")
            if title == "What the indexer knows":  # an untrained one may be far worse than knowing nothing
                axes.set_ylim(max(axes.get_ylim()[0], -0.5), 1.15)
            axes.margins(y=0.14)
            labels = dict(zip(*reversed(axes.get_legend_handles_labels())))
            if len(labels) > 1:
                axes.legend(labels.values(), labels.keys(), loc="best", fontsize=8)
    return figure


def draw_parity(run: Run):
    """The table of evaluations as bars: loss, accuracy, recall and pairs, one row an evaluation. -> the figure"""
    plt = pyplot()
    rows = run.rows
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, (loss, accuracy, recall, pairs) = plt.subplots(1, 4, sharey=True, figsize=(13, 1.4 + 0.36 * len(rows)), layout="constrained")
        places = np.arange(len(rows))
        for axes, entry, title, unit, colour in (
            (loss, "loss", "Loss", "nats a token, ± standard error", BLUE),
            (accuracy, "accuracy", "Accuracy", "tokens guessed right", GREEN),
            (recall, "recall", "Recall", "mass on what is attended to", VERMILLION),
            (pairs, "pairs", "Work", "pairs attended to, of all", GREY),
        ):
            values = [row[entry] for row in rows]
            axes.barh(places, values, color=colour, height=0.62)
            if entry == "loss":
                axes.errorbar(values, places, xerr=[row["loss_standard_error"] for row in rows], fmt="none", ecolor="black", capsize=3, lw=1)
            for place, value in zip(places, values):
                axes.annotate(f"{value:.3f}", (value, place), (8, 0), textcoords="offset points", va="center", fontsize=9,
                              bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
            axes.axvline(values[0], color=GREY, lw=1, ls=":")  # the first row is what the others are held against
            axes.set_xlim(0, max(values) * 1.25)
            axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
            axes.set_xlabel(unit, fontsize=9)
        loss.set_yticks(places, [f"{row['name']}" for row in rows])
        loss.invert_yaxis()
    return figure


def write(run: Run, out: Path) -> list[Path]:
    """curves.svg and .png, and parity.svg and .png where there is a table; each whole or not at all. -> what was written"""
    require(any(stage.log for stage in run.stages), f"no stage of {run.folder} has a log.jsonl to draw: was it trained by `dsa-reference train`?")
    figures = {"curves": draw_curves(run)} | ({"parity": draw_parity(run)} if run.rows else {})
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for kind in ("svg", "png"):
                path = out / f"{name}.{kind}"
                unfinished = path.with_name(path.name + ".unfinished")
                with pyplot().rc_context(STYLE):  # without a date the same run gives the same bytes
                    figure.savefig(unfinished, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else {"Software": None})
                os.replace(unfinished, path)
                written.append(path)
    except OSError as error:
        raise Refusal(f"the pictures cannot be written to {out}: {error.strerror}") from None
    finally:
        pyplot().close("all")
    return written
