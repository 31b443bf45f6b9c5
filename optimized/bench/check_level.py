"""One op of a library against the goldens, as JSON: what `device.py` asks of each level, in a process of its own.

What a level declines as the case asks it, is asked again with sums as Hopper's FP8 tensor cores make them, where the op
knows of such.

    DSA_LEVEL=2 python -m optimized.bench.check_level OP LIBRARY [small|full]
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from touchstone import cases, check
from touchstone.plugins import Limits, Worker

A_CALL = 120.0  # seconds at most
HOPPER_SUMS = {"fp8_sums": "hopper"}  # over a case's own conventions
OPS_WITH_FP8_SUMS = ("indexer_logits", "indexer_logits_paged", "indexer_top_k")


def checked(case: cases.Case, run, options: check.Options) -> check.Checked:
    """One case, as it is or under Hopper's sums."""
    result = check.check_case(case, run, options)
    if result.state == "not implemented" and case.op in OPS_WITH_FP8_SUMS:
        result = check.check_case(case, run, dataclasses.replace(options, conventions=HOPPER_SUMS))
    return result


def main() -> int:
    """0 if every case that the level takes is right. Complaints go to stderr, a line each."""
    from . import full_size  # which needs PyTorch, as a GPU's checks do
    from .library import Library

    op, library, size = (*sys.argv[1:], "small")[:3]
    worker = Worker("lib", library, Limits(seconds=A_CALL))
    options = check.Options()
    try:
        # Case by case: a level may decline one and take the next.
        asked = check.questions(cases.choose([op], size), options)
        on_device = [case for case in asked if full_size.is_large(case)]
        results = [checked(case, worker.run, options) for case in asked if case not in on_device]
        results += [full_size.checked(case, Library(Path(library)), options) for case in on_device]
    finally:
        worker.close()
    taken = [r for r in results if r.state != "not implemented"]
    wrong = [r for r in taken if r.state != "right"]
    for r in wrong:
        print(f"{r.state.upper()} {r.case.name} (private seed {options.private_seed}): {r.sentence}", file=sys.stderr)
    worst = max((v.ratio for r in taken for v in r.verdicts), default=0.0)
    print(json.dumps({"cases": len(taken), "right": len(taken) - len(wrong), "declined": len(results) - len(taken), "worst_ratio": worst}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
