#!/usr/bin/env python3
"""Makes each known mistake in the C++ reference, and expects the oracle to call it by its name.

golden/mistakes has every mistake twice: as a changed method of the NumPy telling, and as changed lines of the C++
reference. This applies the latter to a copy of the sources, builds, and runs `touchstone check`'s own functions on the
result. Both tellings must make the same mistake. Some ten minutes on two cores.

    tools/mistakes.py [NAME...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "golden"))

from touchstone import cases, check, make  # noqa: E402
from touchstone.mistakes import KillMatrix, catalogue, diagnose  # noqa: E402
from touchstone.plugins import Program  # noqa: E402

HOME = REPOSITORY / "build" / "mistakes"
SOURCES = ("reference", "CMakeLists.txt", "golden/dsa.h")


def prepare() -> None:
    """A copy of the sources, configured to be built fast."""
    for name in SOURCES:
        source, target = REPOSITORY / name, HOME / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            for path in source.rglob("*"):
                copy = target / path.relative_to(source)
                if path.is_file() and (not copy.exists() or copy.read_bytes() != path.read_bytes()):
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        elif not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
    subprocess.run(["cmake", "-G", "Ninja", "-S", HOME / "source", "-B", HOME / "build", "-DTOUCHSTONE_TESTS=OFF", "-DTOUCHSTONE_OPTIMIZED=OFF",
                    "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g0 -w"], check=True, capture_output=True)  # fmt: skip


def build() -> str:
    """The compiler's complaint; empty if there is none."""
    run = subprocess.run(["cmake", "--build", HOME / "build", "--target", "dsa-reference"], capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else "\n".join(line for line in run.stdout.splitlines() if "error" in line)[:600]


def changed(mistake) -> dict[Path, str]:
    """The files of a mistake, as they are by mistake."""
    texts: dict[Path, str] = {}
    for file, right, wrong in mistake.reference:
        path = HOME / "source" / file
        text = texts.get(path) or path.read_text()
        if text.count(right) != 1:
            raise SystemExit(f"{file} must hold this once, to be changed:\n{right}")
        texts[path] = text.replace(right, wrong)
    headers = {path for path in texts}
    for path in headers:  # what a mistake may need
        if path.suffix == ".h":
            texts[path] = texts[path].replace("#pragma once\n", "#pragma once\n#include <cstring>\n#include <random>\n", 1)
    return texts


def verdict(name: str, matrix: KillMatrix, options: check.Options) -> str:
    """What the oracle says of the C++ mistake, in a word: "named", or what went wrong."""
    mistake = catalogue()[name]
    best = matrix.best_case(name) or {"offsets_in_32_bits": "sparse_decode/beyond_2_gib"}[name]
    op = best.split("/")[0]
    plugin = HOME / "plugin.sh"
    plugin.write_text(f'#!/bin/sh\nexec {HOME / "build" / "dsa-reference"} op "$1" "$2" "$3" --stages\n')
    plugin.chmod(0o755)
    chosen = [cases.choose([best])[0]] if best not in matrix.cases else cases.choose([op], "small")
    results = check.check_all(chosen, Program(plugin).run, options)
    if check.status(results) != 1:
        return "NOT CAUGHT"
    if mistake.unsteady:
        return "named" if any("differs between run" in r.sentence for r in results) else "NOT NAMED"
    if not any(r.state == "wrong" and r.outputs for r in results):
        return "named" if any(r.state == "failed" for r in results) else "NOT NAMED"
    return "named" if f"{op} equals the mistake {name} " in diagnose(results) else "NOT NAMED"


def main() -> int:
    """Every mistake, or those that are named."""
    os.nice(10)
    names = sys.argv[1:] or list(catalogue())
    prepare()
    if complaint := build():
        raise SystemExit(complaint)
    matrix = KillMatrix(make.DEFAULT)
    options = check.Options(private=0)
    bad = 0
    for name in names:
        begin = time.monotonic()
        texts = changed(catalogue()[name])
        kept = {path: path.read_text() for path in texts}
        try:
            for path, text in texts.items():
                path.write_text(text)
            word = build() or verdict(name, matrix, options)
        finally:
            for path, text in kept.items():
                path.write_text(text)
        bad += word != "named"
        print(f"{name:36} {word}  ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"{len(names) - bad} of {len(names)} mistakes in C++ are called by their names")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
