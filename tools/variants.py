"""A copy of the reference that may be changed, built in seconds: what tools/mistakes.py and tools/mutants.py have in common.

Of a changed reference only the one file of ops is compiled whose ops will be asked (reference/ops/UNIT.cpp, which
includes the formulas), unoptimised and without the tiers of bounds. The rest comes from the library that was built
before. Formulas are templates and inline functions, so the linker takes the first that it sees: those of the changed file.
Indices are checked by the libraries (no NDEBUG): a row beyond an array ends the program.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILT = REPOSITORY / "build"
OPS = Path("reference/ops")
BOUNDS = """            &Formula::template run<Bounds>,
"""


def units() -> dict[str, str]:
    """The file of ops that has an op: op -> UNIT.cpp"""
    return {op: path.name for path in sorted((REPOSITORY / OPS).glob("*.cpp")) for op in re.findall(r'make_op<\w+>\(\s*"(\w+)"', path.read_text())}


def included(file: Path) -> set[Path]:
    """The files of ours that one includes, itself among them; paths under the repository."""
    found, open_files = set(), [file]
    while open_files:
        file = open_files.pop()
        if file not in found:
            found.add(file)
            open_files += [Path(name) for name in re.findall(r'#include "(reference/[^"]+)"', (REPOSITORY / file).read_text())]
    return found


def command_of(file: Path) -> list[str]:
    """The compiler and its flags, as the library was built with them: the same instructions, the same layouts."""
    commands = json.loads((BUILT / "compile_commands.json").read_text())
    # A source that is compiled as a part of another has the flags of its neighbours.
    entry = next((c for name in (file, OPS / "golden.cpp") for c in commands if c["file"] == str(REPOSITORY / name)), None)
    if entry is None or not (BUILT / "libdsa_reference.a").exists():
        raise SystemExit("the reference is not built: run `make reference` first")
    words = shlex.split(entry["command"])
    first = next(i for i, word in enumerate(words) if re.search(r"(g|clang)?\+\+", word))  # past a launcher as ccache
    kept = [w for w in words[first:] if not re.fullmatch(r"-O\d|-DNDEBUG|-Werror|-W.*", w) and w != f"-I{REPOSITORY}"]
    return kept[: kept.index("-o")]


class Copy:
    """The sources as they are now, in build/variants/NAME."""

    def __init__(self, name: str):
        self.home = BUILT / "variants" / name
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(REPOSITORY / "reference", self.home / "reference")
        registry = self.home / OPS / "registry.h"
        text = registry.read_text()
        assert text.count(BOUNDS) == 1, f"{registry} must hold this once:\n{BOUNDS}"
        registry.write_text(text.replace(BOUNDS, "            nullptr,\n"))
        if complaint := self._compile(Path("tools/one_op.cpp"), REPOSITORY, "-O0", "one_op.o"):
            raise SystemExit(complaint)

    def _compile(self, file: Path, root: Path, optimise: str, target: str) -> str:
        flags = command_of(OPS / "golden.cpp" if root == REPOSITORY else file)
        run = subprocess.run([*flags, optimise, "-w", "-D_GLIBCXX_ASSERTIONS", "-include", "cstring", "-include", "random", f"-I{root}",
                              "-c", root / file, "-o", self.home / target], capture_output=True, text=True, check=False, cwd=BUILT)  # fmt: skip
        return "" if run.returncode == 0 else "\n".join(line for line in run.stderr.splitlines() if "error" in line)[:600] or run.stderr[-600:]

    def build(self, unit: str, texts: dict[Path, str], optimise: str = "-O0") -> str:
        """`program`, whose ops of this unit are by these files' texts. The compiler's complaint; empty if there is none."""
        kept = {file: (self.home / file).read_text() for file in texts}
        try:
            for file, text in texts.items():
                (self.home / file).write_text(text)
            if complaint := self._compile(OPS / unit, self.home, optimise, "unit.o"):
                return complaint
        finally:
            for file, text in kept.items():
                (self.home / file).write_text(text)
        self.program.unlink(missing_ok=True)
        link = [command_of(OPS / unit)[0], self.home / "one_op.o", self.home / "unit.o", BUILT / "libdsa_reference.a", "-o", self.program]
        run = subprocess.run([str(word) for word in link], capture_output=True, text=True, check=False)
        return "" if run.returncode == 0 else run.stderr[-600:]

    @property
    def program(self) -> Path:
        """A plug-in for `touchstone check --exec`."""
        return self.home / "one_op"
