#!/usr/bin/env python3
"""Makes each known mistake in the C++ reference, and expects the oracle to call it by its name.

golden/mistakes has every mistake twice: as a changed method of the NumPy telling, and as changed lines of the C++
reference. This applies the latter to a copy of the sources (tools/variants.py), builds, and runs `touchstone check`'s
own functions on the result. Both tellings must make the same mistake. Some minutes on two cores. The reference must be built (`make reference`), and the small set made.

    tools/mistakes.py [NAME...]
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import variants

sys.path.insert(0, str(variants.REPOSITORY / "golden"))

from touchstone import cases, check, make  # noqa: E402
from touchstone.mistakes import catalogue, diagnose, killed  # noqa: E402
from touchstone.plugins import Program  # noqa: E402
from touchstone.verdict import Golden  # noqa: E402

LARGE_ONLY = {"offsets_in_32_bits": "sparse_decode/beyond_2_gib"}  # no small case shows these


def wrong_texts(mistake) -> dict[Path, str]:
    """The files of a mistake, as they are by mistake."""
    texts: dict[Path, str] = {}
    for file, right, wrong in mistake.reference:
        text = texts.get(Path(file)) or (variants.REPOSITORY / file).read_text()
        if text.count(right) != 1:
            raise SystemExit(f"{file} must hold this once, to be changed:\n{right}")
        texts[Path(file)] = text.replace(right, wrong)
    return texts


def asked_about(name: str) -> list[cases.Case]:
    """The small cases of the first op that shows a mistake in NumPy."""
    if name in LARGE_ONLY:
        return cases.choose([LARGE_ONLY[name]])
    for op in catalogue()[name].ops:
        own = cases.choose([op], "small")
        if any(killed(catalogue()[name], Golden(make.DEFAULT / case.name))[0] for case in own):
            return own
    raise SystemExit(f"no small case shows {name}")


def verdict(name: str, copy: variants.Copy, options: check.Options) -> str:
    """What the oracle says of the C++ mistake, in a word: "named", or what went wrong."""
    chosen = asked_about(name)
    long = any("long" in case.flags for case in chosen)
    if complaint := copy.build(variants.units()[chosen[0].op], wrong_texts(catalogue()[name]), "-O1" if long else "-O0"):
        return complaint
    results = check.check_all(chosen, Program(copy.program).run, options)
    if check.status(results) != 1:
        return "NOT CAUGHT"
    if catalogue()[name].unsteady:
        return "named" if any("differs between run" in r.sentence for r in results) else "NOT NAMED"
    if not any(r.state == "wrong" and r.outputs for r in results):
        return "named" if any(r.state == "failed" for r in results) else "NOT NAMED"
    return "named" if f"{chosen[0].op} equals the mistake {name} " in diagnose(results) else "NOT NAMED"


def main() -> int:
    """Every mistake, or those that are named."""
    os.nice(10)
    names = sys.argv[1:] or list(catalogue())
    copy = variants.Copy("mistakes")
    options = check.Options(private=0)
    bad = 0
    for name in names:
        begin = time.monotonic()
        word = verdict(name, copy, options)
        bad += word != "named"
        print(f"{name:36} {word}  ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"{len(names) - bad} of {len(names)} mistakes in C++ are called by their names")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
