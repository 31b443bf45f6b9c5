"""The commands `touchstone curves` and `touchstone page`: a training run to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from . import curves as drawing
from . import make, runs
from . import page as paging

RunFolder = Annotated[Path, typer.Argument(help="what `dsa-reference train RECIPE --out` was given", metavar="RUN_DIR")]


def curves(
    run: RunFolder,
    out: Annotated[Optional[Path], typer.Option(help="where to put them; RUN_DIR without it")] = None,
) -> None:
    """Draws a run's logs and its table: curves.svg, parity.svg and both as PNG."""
    for path in drawing.write(runs.read_run(run), out or run):
        print(path)


def page(
    run: RunFolder,
    text: Annotated[Path, typer.Option(help="a text; the page shows a window of its bytes")],
    out: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("page.html"),
    first: Annotated[Optional[int], typer.Option(min=0, help="the window's first byte; without it, where the held-out tenth begins")] = None,
    length: Annotated[int, typer.Option(min=2, max=4096, help="bytes of the window")] = 256,
    stage: Annotated[Optional[list[str]], typer.Option(help="only this stage; may be repeated")] = None,
    reference: Annotated[Optional[str], typer.Option(help="the program dsa-reference")] = None,
) -> None:
    """Writes one HTML page that shows what the indexer chooses, by stage, layer and query. It needs no server."""
    program = make.reference_program(reference)
    stages = paging.stages_of(runs.read_run(run), stage or [])
    tokens, start = paging.window_of(text, first, length)
    looks = [paging.look(each, tokens, program) for each in stages]
    source = (f"{length} bytes of {text.name}, from byte {start}, read by the stages {', '.join(s.name for s in stages)} of {run.resolve().name}. "
              "Made by `touchstone page`.")  # fmt: skip
    print(f"{out}: {paging.write(looks, tokens, source, out) / 2**20:.2f} MiB")
