"""The command `touchstone`. Exit codes: 0 right, 1 wrong, 2 bad usage or input."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import Refusal, __version__, cases, files, make, story, text, verify

app = typer.Typer(help="The oracle for DeepSeek Sparse Attention.", no_args_is_help=True, add_completion=False,
                  pretty_exceptions_enable=False)  # fmt: skip
console = Console(soft_wrap=True)
DEFAULT_OUT = make.REPOSITORY / "build" / "golden"
Out = Annotated[Path, typer.Option(help="where the goldens are")]
Names = Annotated[Optional[list[str]], typer.Argument(help="full names of cases, or ops; all of them if none is named")]


def fail(problems: list[str]) -> None:
    for problem in problems[:20]:
        console.print(f"[red]wrong[/red]: {problem}", highlight=False)
    if len(problems) > 20:
        console.print(f"... and {len(problems) - 20} more", highlight=False)
    raise typer.Exit(1)


def check_size(value: str) -> str:
    if value not in ("small", "full", "all"):
        raise typer.BadParameter("must be small, full or all")
    return value


Size = Annotated[str, typer.Option("--set", help="small, full or all", callback=check_size)]


@app.command("list")
def list_cases(names: Names = None, size: Size = "all") -> None:
    """Lists the cases, with the mistake that each catches."""
    for case in cases.choose(names or [], size):
        console.print(f"[bold]{case.name}[/bold]  ({case.size})  {case.entry['note']}", highlight=False)


@app.command("cases")
def write_cases(
    out: Annotated[Path, typer.Option(help="where to write one IN_DIR a case")],
    names: Names = None,
    size: Size = "small",
    flag: Annotated[Optional[str], typer.Option(help="only cases with this flag")] = None,
) -> None:
    """Writes the cases' case.json, for plug-ins that make inputs from fills."""
    chosen = cases.choose(names or [], size, flag)
    for case in chosen:
        cases.write_in_dir(case, out / case.name.replace("/", "."))
    console.print(f"{len(chosen)} cases in {out}", highlight=False)


@app.command("make")
def make_goldens(
    names: Names = None,
    size: Size = "small",
    out: Out = DEFAULT_OUT,
    jobs: Annotated[int, typer.Option(min=1, help="how many at a time")] = 2,
    reference: Annotated[Optional[str], typer.Option(help="the program dsa-reference")] = None,
    update_lock: Annotated[bool, typer.Option("--update-lock", help="take these goldens as the right ones")] = False,
) -> None:
    """Writes goldens and compares them with golden/tensors/lock.json."""
    begin = time.monotonic()
    program = make.reference_program(reference)
    chosen = cases.choose(names or [], "all" if names else size)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console, transient=True, disable=not console.is_terminal) as progress:  # fmt: skip
        task = progress.add_task("goldens", total=len(chosen))

        def report(made: make.Made, done: int, total: int) -> None:
            progress.update(task, advance=1, description=made.case.name)
            if not console.is_terminal and (done % 50 == 0 or done == total):
                print(f"{done} of {total} goldens", flush=True)

        made = make.make(chosen, out, program, jobs, report)
    fresh = [m for m in made if m.fresh]
    locked = files.read_lock()
    problems = [problem for m in made for problem in m.problems]
    if update_lock:
        locked |= {m.case.name: files.lock_entry(files.hashes_of(out / m.case.name)) for m in made}
        files.write_lock(locked)
    else:
        problems += [p for m in made for p in make.lock_problems(out / m.case.name, m.case.name, locked)]
    slowest = max(fresh, key=lambda m: m.seconds, default=None)
    console.print(
        f"{len(made)} goldens in {out}: {len(fresh)} made in {time.monotonic() - begin:.1f} s, {len(made) - len(fresh)} as they were"
        + (f"; the slowest, {slowest.case.name}, took {slowest.seconds:.1f} s" if slowest else "")
        + (f"; at most {make.peak_memory_of_children() / 2**30:.2f} GiB a process" if fresh else ""),
        highlight=False,
    )
    if problems:
        fail(problems)


@app.command("text")
def make_text(
    out: Out = DEFAULT_OUT,
    reference: Annotated[Optional[str], typer.Option(help="the program dsa-reference")] = None,
    update_lock: Annotated[bool, typer.Option("--update-lock", help="take this golden as the right one")] = False,
) -> None:
    """Runs the whole model over a real text; every stage of every layer is a golden."""
    begin = time.monotonic()
    folder = text.make_text(out, make.reference_program(reference))
    if update_lock:
        files.write_lock(files.read_lock() | {text.NAME: files.lock_entry(files.hashes_of(folder))})
    elif problems := make.lock_problems(folder, text.NAME, files.read_lock()):
        fail(problems)
    console.print(f"the model has read the text in {time.monotonic() - begin:.1f} s: {folder}", highlight=False)


@app.command("verify")
def verify_goldens(out: Out = DEFAULT_OUT) -> None:
    """Checks every golden's files against its manifest and the lock, and the goldens kept in the repository."""
    count, problems = verify.verify(out)
    kept, kept_problems = verify.verify_kept()
    if problems or kept_problems:
        fail(problems + kept_problems)
    console.print(f"{count} goldens are as they were made and as locked; so are the {kept} kept in the repository", highlight=False)


@app.command("keep")
def keep_goldens(out: Out = DEFAULT_OUT) -> None:
    """Copies the goldens of cases flagged "kept" into golden/tensors, for the repository."""
    chosen = cases.choose([], "all", "kept")
    for case in chosen:
        source, target = out / case.name, files.KEPT / case.name
        if not (source / "manifest.json").exists():
            fail([f"{case.name} is not made yet: run `touchstone make` first"])
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json"))
    size = sum(p.stat().st_size for p in files.KEPT.rglob("*") if p.is_file())
    console.print(f"{len(chosen)} goldens kept, {size / 2**20:.2f} MiB", highlight=False)


@app.command("story")
def tell_story(out: Out = DEFAULT_OUT) -> None:
    """Tells what the goldens in a folder are and what to look at next."""
    story.tell(out, console)


@app.command("version")
def version() -> None:
    """Prints the version."""
    print(__version__)


def main() -> None:
    """The entry point: a refusal is one sentence on stderr and exit code 2."""
    try:
        app()
    except Refusal as refusal:
        print(f"touchstone: {refusal}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
