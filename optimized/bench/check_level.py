"""One op of a library against the goldens, as JSON: what `device.py` asks of each level, in a process of its own.

What a level declines as the case asks it, is asked again with sums as Hopper's FP8 tensor cores make them, where the op
knows of such.

    DSA_LEVEL=2 python -m optimized.bench.check_level OP LIBRARY [small|full]
"""

from __future__ import annotations

import dataclasses
import json
import sys

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
    op, library, size = (*sys.argv[1:], "small")[:3]
    worker = Worker("lib", library, Limits(seconds=A_CALL))
    options = check.Options()
    try:
        # Case by case: a level may decline one and take the next.
        results = [checked(case, worker.run, options) for case in check.questions(cases.choose([op], size), options)]
    finally:
        worker.close()
    asked = [r for r in results if r.state != "not implemented"]
    wrong = [r for r in asked if r.state != "right"]
    for r in wrong:
        print(f"{r.state.upper()} {r.case.name} (private seed {options.private_seed}): {r.sentence}", file=sys.stderr)
    worst = max((v.ratio for r in asked for v in r.verdicts), default=0.0)
    print(json.dumps({"cases": len(asked), "right": len(asked) - len(wrong), "declined": len(results) - len(asked), "worst_ratio": worst}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
