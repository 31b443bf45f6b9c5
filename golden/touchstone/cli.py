"""The command `touchstone`. Exit codes: 0 right, 1 wrong, 2 bad usage or input."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from . import (
    Refusal,
    __version__,
    cases,
    clib,
    contract,
    files,
    looking,
    make,
    report,
    require,
    signatures,
    story,
    text,
    verify,
)
from . import check as checking
from . import conventions as switches
from . import diff as differing
from . import explain as explaining
from . import mistakes as known_mistakes
from .infer import Inference
from .plugins import Limits, Program, Worker
from .verdict import Golden

app = typer.Typer(help="The oracle for DeepSeek Sparse Attention.", no_args_is_help=True, add_completion=False,
                  pretty_exceptions_enable=False)  # fmt: skip
console = Console(soft_wrap=True)
DEFAULT_OUT = make.DEFAULT
SHOWN_AN_OP = 4  # wrong cases told in full
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
    update_lock: Annotated[bool, typer.Option("--update-lock", help="take these goldens as the right ones")] = False,
) -> None:
    """Runs whole models over real texts; every stage of every layer is a golden."""
    begin = time.monotonic()
    program = make.reference_program(reference)
    made = {reading.name: text.make_text(reading, out, program) for reading in text.READINGS}
    locked = files.read_lock()
    if update_lock:
        files.write_lock(locked | {name: files.lock_entry(files.hashes_of(folder)) for name, folder in made.items()})
    elif problems := [p for name, folder in made.items() for p in make.lock_problems(folder, name, locked)]:
        fail(problems)
    console.print(f"{len(made)} texts were read in {time.monotonic() - begin:.1f} s: {out / 'model'}", highlight=False)


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


def plugin_of(program: str | None, lib: str | None, python: str | None, limits: Limits, arrays: str, device: str):
    """The one plug-in that the command line names."""
    given = [(kind, target) for kind, target in (("exec", program), ("lib", lib), ("python", python)) if target]
    require(len(given) == 1, "name one plug-in: --exec PROGRAM, --lib FILE or --python MODULE:FUNCTION")
    kind, target = given[0]
    return Program(shlex.split(target), limits) if kind == "exec" else Worker(kind, target, limits, arrays, device)


def as_number(name: str, text: str) -> float:
    """A number of the command line."""
    try:
        return float(text)
    except ValueError:
        raise Refusal(f"the convention {name} must be a number; got {text}") from None


def parsed_conventions(text: str | None):
    """"PRESET", "PRESET,lse=base2" or "lse=base2" as case.json has it."""
    if not text:
        return None
    chosen: dict = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals:
            chosen["preset"] = name
            continue
        if value in ("true", "false"):
            chosen[name] = value == "true"
        elif switches.SWITCHES.get(name) is float:
            chosen[name] = as_number(name, value)
        else:
            chosen[name] = value
    switches.expanded(chosen)
    return chosen


@app.command("check")
def check_plugin(
    program: Annotated[Optional[str], typer.Option("--exec", help="a program, called as PROGRAM OP IN_DIR OUT_DIR")] = None,
    lib: Annotated[Optional[str], typer.Option(help="a shared library with functions of golden/dsa.h")] = None,
    python: Annotated[Optional[str], typer.Option(help="MODULE:FUNCTION, or MODULE with one function an op")] = None,
    op: Annotated[Optional[list[str]], typer.Option(help="only this op; may be repeated")] = None,
    case: Annotated[Optional[list[str]], typer.Option(help="only this case, OP/NAME; may be repeated")] = None,
    tag: Annotated[Optional[str], typer.Option(help="only cases with this flag, as ties or long")] = None,
    size: Size = "small",
    conventions: Annotated[Optional[str], typer.Option(help="what the plug-in follows: PRESET, or PRESET,switch=value")] = None,
    infer: Annotated[bool, typer.Option("--infer-conventions", help="find the conventions under which it is right")] = False,
    tier: Annotated[str, typer.Option(help="deployed, or exact for float64 outputs")] = "deployed",
    against: Annotated[str, typer.Option(help="judge against both tiers, or exact or deployed alone")] = "both",
    claims: Annotated[Optional[str], typer.Option(help="canonical: ties to the lower position, ascending order")] = None,
    private: Annotated[int, typer.Option(min=0, help="random cases an op; 0 also leaves out reseeded ones")] = 1,
    seed: Annotated[str, typer.Option(help="the private seed; drawn afresh without it")] = "",
    sample: Annotated[int, typer.Option(min=0, help="judge at most this many rows of a large case; 0: all")] = 0,
    runs: Annotated[int, typer.Option(min=1, help="how often each case is run; the same bits are expected")] = 2,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="how many cases at once; their times then say little")] = 1,
    unsteady: Annotated[bool, typer.Option("--unsteady", help="floats may differ from run to run")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="time limit of a run")] = 60.0,
    memory: Annotated[float, typer.Option(min=0.1, help="memory limit of a run, GiB")] = 16.0,
    arrays: Annotated[str, typer.Option(help="what a Python function takes: numpy, torch, cupy or jax")] = "numpy",
    device: Annotated[str, typer.Option(help="where torch tensors are: cpu or cuda")] = "cpu",
    report_as: Annotated[Optional[list[str]], typer.Option("--report", help="junit, json or html; FORMAT=FILE; may be repeated")] = None,
    golden: Out = DEFAULT_OUT,
    reference: Annotated[Optional[str], typer.Option(help="the program dsa-reference")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="one line a case")] = False,
) -> None:
    """Judges a kernel: right, or wrong where, by how much, and like which known mistake."""
    require(tier in ("exact", "deployed"), f"--tier must be exact or deployed; it is {tier}")
    require(against in ("both", "exact", "deployed"), f"--against must be both, exact or deployed; it is {against}")
    require(claims in (None, "canonical"), f"--claims must be canonical; it is {claims}")
    reports = [part.partition("=") for part in report_as or []]
    for kind, _, _ in reports:
        require(kind in report.FORMATS, f"--report must be one of {', '.join(report.FORMATS)}; it is {kind}")
    function = (python or "").partition(":")[2]
    if function and not op and not case:
        require(function in contract.OPS, f"--python names one function, {function}: say which op it is with --op")
        op = [function]
    ops = {c.op for c in cases.choose(op or [])}
    chosen = [c for c in cases.choose(case or [], "all" if case else size, tag) if c.op in ops]
    require(bool(chosen), "no case fits --op, --case, --tag and --set: `touchstone list` shows them")
    options = checking.Options(
        private=private, private_seed=seed, runs=runs, unsteady=unsteady, tier=tier, against=against,
        claims=(claims,) if claims else (), conventions=parsed_conventions(conventions), sample=sample,
        limits=Limits(seconds, int(memory * 2**30)), goldens=golden, reference=make.reference_program(reference),
    )  # fmt: skip
    plugins = [plugin_of(program, lib, python, options.limits, arrays, device) for _ in range(jobs)]
    try:
        if infer:
            found = Inference(chosen, plugins[0].run, options)
            console.print(found.sentence, highlight=False)
            raise typer.Exit(0 if found.asked and found.scores[0][0] == found.asked else 1)
        results = run_check(chosen, plugins, options, verbose)
    finally:
        for plugin in plugins:
            plugin.close()
    conclude(results, options, reports)


def run_check(chosen: list, plugins: list, options: checking.Options, verbose: bool) -> list[checking.Checked]:
    """Runs every question, with progress."""
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  console=console, transient=True, disable=not console.is_terminal) as progress:  # fmt: skip
        task = progress.add_task("asking", total=None)
        seen: Counter = Counter()

        def tell(checked: checking.Checked, done: int, total: int) -> None:
            progress.update(task, total=total, completed=done, description=checked.case.name)
            if checked.state in ("wrong", "failed"):
                seen[checked.case.op] += 1
                if seen[checked.case.op] > SHOWN_AN_OP and not verbose:
                    if seen[checked.case.op] == SHOWN_AN_OP + 1:
                        console.print(f"... more of {checked.case.op}: --verbose shows them all", highlight=False)
                    return
                console.print(f"[red]{report.WORDS[checked.state]}[/red] {checked.case.name}: ", end="", highlight=False)
                console.print(checked.sentence, highlight=False, markup=False)
            elif verbose:
                detail = checked.sentence or "; ".join(f"{v.name} {v.sentence}" for v in checked.verdicts)
                console.print(f"{report.WORDS[checked.state]} {checked.case.name}: {detail}", highlight=False, markup=False)
            elif not console.is_terminal and (done % 100 == 0):
                print(f"{done} of {total} cases", flush=True)

        return checking.check_all(chosen, [plugin.run for plugin in plugins], options, tell)


def conclude(results: list[checking.Checked], options: checking.Options, reports: list) -> None:
    """The last words, the reports, and the exit code."""
    diagnosis = known_mistakes.diagnose(results) if options.tier == "deployed" else ""
    console.print()
    for line in report.lines(results):
        console.print(line, highlight=False, markup=False)
    console.print()
    if diagnosis:
        console.print(diagnosis, highlight=False, markup=False)
        console.print()
    code = checking.status(results)
    console.print(report.summary(results), highlight=False)
    if options.private:
        console.print(f"private seed {options.private_seed}: `--seed {options.private_seed}` asks the same again", highlight=False)
    for kind, _, file in reports:
        path = Path(file or f"touchstone.{ {'junit': 'xml'}.get(kind, kind)}")
        report.write(path, kind, results, options, diagnosis)
        console.print(f"report: {path}", highlight=False)
    raise typer.Exit(code)


@app.command("explain")
def explain_case(name: Annotated[str, typer.Argument(help="a case, OP/NAME")], golden: Out = DEFAULT_OUT) -> None:
    """Walks one case through every stage: shapes, numbers, bounds, and the mistakes that it catches."""
    chosen = cases.choose([name])
    require(len(chosen) == 1, f"{name} names {len(chosen)} cases; name one, OP/NAME: `touchstone list {name}` shows them")
    folder = golden / chosen[0].name
    require((folder / "golden.json").exists(), f"{name} is not made yet: run `touchstone make {name}`")
    for line in explaining.explained(chosen[0], Golden(folder)):
        console.print(line, highlight=False, markup=False)


@app.command("diff")
def diff_runs(
    a: Annotated[Path, typer.Argument(help="a folder of .npy stages, or a golden")],
    b: Annotated[Path, typer.Argument(help="another")],
    least: Annotated[float, typer.Option("--snr", help="decibels below which a stage has parted")] = 40.0,
    every: Annotated[bool, typer.Option("--all", help="every stage, not only up to the first that parts")] = False,
) -> None:
    """Finds the first stage, in the order of computation, in which two runs part."""
    found = differing.differences(a, b, least)
    parted = next((d for d in found if d.parted), None)
    for d in found:
        if every or not d.equal:
            console.print(f"{'PARTED' if d.parted else 'equal ' if d.equal else 'close '} {d.name:32} {d.sentence}", highlight=False, markup=False)
        if d is parted and not every:
            break
    if parted is None:
        console.print(f"{len(found)} stages: {sum(d.equal for d in found)} equal, the others within {least:g} dB", highlight=False)
        return
    console.print(f"the first stage that parts is {parted.name}, after {found.index(parted)} that agree", highlight=False)
    raise typer.Exit(1)


@app.command("conventions")
def show_conventions(preset: Annotated[Optional[str], typer.Argument(help="a preset; without it, all are compared")] = None) -> None:
    """Shows every switch, its values, and what the presets choose."""
    presets = [preset] if preset else list(switches.PRESETS)
    chosen = {name: switches.expanded(name) for name in presets}
    for name, values in switches.SWITCHES.items():
        allowed = "a number" if values is float else " | ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
        console.print(f"{name:24} {allowed}", highlight=False, markup=False)
        for value in dict.fromkeys(str(c[name]) for c in chosen.values()):
            console.print(f"    {value.lower() if value in ('True', 'False') else value:18} {', '.join(p for p in presets if str(chosen[p][name]) == value)}", highlight=False, markup=False)


@app.command("mistakes")
def list_mistakes(
    golden: Out = DEFAULT_OUT,
    size: Size = "small",
    matrix: Annotated[bool, typer.Option("--matrix", help="which cases catch which mistake; needs the goldens")] = False,
) -> None:
    """Lists the known mistakes, or prints which cases catch them."""
    if not matrix:
        for name, mistake in known_mistakes.catalogue().items():
            console.print(f"[bold]{name}[/bold]  {mistake.title()}  ({mistake.source})", highlight=False)
        return
    kills = known_mistakes.KillMatrix(golden, size)
    console.print(f"{'mistake':36} caught by      the most telling case (mistakes that it catches)", highlight=False)
    for name, caught, could, best, others in kills.rows():
        console.print(f"{name:36} {caught:3d} of {could:3d}     {best} ({others})" if best else f"{name:36} none of {could}", highlight=False, markup=False)
    problems = [f"no case of this set catches {name}" for name in kills.survivors()]
    problems += [f"no case tells {a} from {b}" for a, b in kills.inseparable()]
    if problems:
        fail(problems)
    console.print(f"{len(kills.kills)} mistakes, each caught and told from every other by {len(kills.cases)} cases", highlight=False)


app.command("curves")(looking.curves)
app.command("page")(looking.page)


@app.command("header")
def print_header(
    fields: Annotated[bool, typer.Option("--fields", help="the structs' fields as a table for C++ instead (optimized/tool/fields.inc)")] = False,
    python: Annotated[bool, typer.Option("--python", help="a Python method an op instead (optimized/python/dsa_optimized/ops.py)")] = False,
) -> None:
    """Prints golden/dsa.h, the C interface of a plug-in library."""
    print(signatures.text() if python else clib.table() if fields else clib.header(), end="")


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
