#!/usr/bin/env python3
"""How long does a check take? Every op at small and at full size, the reference being the plug-in; a table in Markdown.

    python tools/bench_check.py [--op OP ...]

Wants idle cores: it refuses to begin while other work runs, unless --busy. Asked as `touchstone check` asks: each small
case twice, once more under a private seed, and a random case. Each full case once; layers and experts, which read
gigabytes of weights, at small size only.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "golden"))

from touchstone import cases, check, contract, make  # noqa: E402
from touchstone.plugins import Program  # noqa: E402

NOT_AT_FULL_SIZE = ("dsa_attention", "transformer_block", "moe")
SHOWS_STAGES = ("dsa_attention", "transformer_block", "training_step")  # what follows their choices depends on them


def timed(op: str, size: str) -> str:
    """The cases and seconds of one op, or nothing; the reference must be right."""
    chosen = cases.choose([op], size)
    if not chosen or size == "full" and op in NOT_AT_FULL_SIZE:
        return ""
    options = check.Options(private_seed="bench") if size == "small" else check.Options(private=0, runs=1)
    program = Program([str(make.reference_program()), "op", *(["--stages"] if op in SHOWS_STAGES else [])], options.limits)
    begin = time.perf_counter()
    results = check.check_all(chosen, program.run, options)
    seconds = time.perf_counter() - begin
    wrong = [r for r in results if r.state != "right"]
    if wrong:
        raise SystemExit(f"{wrong[0].case.name} is {wrong[0].state}: {wrong[0].sentence}")
    return f"{len(results)}, {seconds:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", action="append", choices=list(contract.OPS), help="only this one; may be repeated")
    parser.add_argument("--busy", action="store_true", help="measure although other work runs")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if load > 0.3 * (os.cpu_count() or 1) and not arguments.busy:
        print(f"other work runs here (a load of {load:.1f} on {os.cpu_count()} cores): wait for it, or say --busy")
        return 2
    print("| op | small: cases, s | full: cases, s |\n|---|---|---|")
    for op in arguments.op or contract.OPS:
        print(f"| `{op}` | {timed(op, 'small')} | {timed(op, 'full')} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
