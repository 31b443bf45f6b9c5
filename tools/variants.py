"""A copy of the reference that may be changed, built fast: what tools/mistakes.py and tools/mutants.py have in common.

Of the reference it builds the ops alone, in the two tiers that a plug-in can be asked for, without the tiers of bounds,
whole models and training: a third of the compiler's work. Indices are checked by the libraries (no NDEBUG), so that a
row beyond an array ends the program. tools/one_op.cpp is that program.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BOUNDS = """            &Formula::template run<Bounds<Against::exact>>,
            &Formula::template run<Bounds<Against::deployed>>,
"""
CMAKE = """cmake_minimum_required(VERSION 3.22)
project(variants LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)
find_package(nlohmann_json 3.10 REQUIRED)
file(GLOB sources reference/*.cpp reference/cases/*.cpp reference/files/*.cpp reference/ops/*.cpp reference/model/c*.cpp tools/one_op.cpp)
list(FILTER sources EXCLUDE REGEX reference/main.cpp)
add_executable(one_op ${sources})
target_compile_options(one_op PRIVATE OPTIMISE -w -ffp-contract=off -D_GLIBCXX_ASSERTIONS)
target_include_directories(one_op PRIVATE .)
target_link_libraries(one_op PRIVATE Eigen3::Eigen nlohmann_json::nlohmann_json)
target_precompile_headers(one_op PRIVATE <Eigen/Dense> <nlohmann/json.hpp> <cstring> <map> <memory> <random> <string> <vector>)
"""


def write_if_new(path: Path, text: str) -> None:
    """Leaves a file's time alone where nothing changed, so that nothing is built again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Copy:
    """The sources as they are now, in build/NAME, configured and built; refuses where they do not compile."""

    def __init__(self, name: str, optimise: str):
        self.home = REPOSITORY / "build" / name
        self.source, self.built = self.home / "source", self.home / "build"
        wanted = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "reference").rglob("*") if path.suffix in (".h", ".cpp")}
        wanted.add(Path("tools/one_op.cpp"))
        for path in self.source.rglob("*"):
            if path.is_file() and path.relative_to(self.source) not in wanted | {Path("CMakeLists.txt")}:
                path.unlink()
        for file in sorted(wanted):
            text = (REPOSITORY / file).read_text()
            if file == Path("reference/ops/registry.h"):
                assert text.count(BOUNDS) == 1, f"{file} must hold this once:\n{BOUNDS}"
                text = text.replace(BOUNDS, "            nullptr,\n            nullptr,\n")
            write_if_new(self.source / file, text)
        write_if_new(self.source / "CMakeLists.txt", CMAKE.replace("OPTIMISE", optimise))
        subprocess.run(["cmake", "-G", "Ninja", "-S", self.source, "-B", self.built, "-DCMAKE_BUILD_TYPE=None"], check=True, capture_output=True)
        if complaint := self.build():
            raise SystemExit(complaint)

    def build(self) -> str:
        """The compiler's complaint; empty if there is none."""
        run = subprocess.run(["cmake", "--build", self.built], capture_output=True, text=True, check=False)
        return "" if run.returncode == 0 else "\n".join(line for line in run.stdout.splitlines() if "error" in line)[:600] or run.stdout[-600:]

    @contextlib.contextmanager
    def changed(self, texts: dict[Path, str]):
        """These files' texts in place of their own: path under the repository -> text. Built by the caller."""
        kept = {file: (self.source / file).read_text() for file in texts}
        try:
            for file, text in texts.items():
                (self.source / file).write_text(text)
            yield
        finally:
            for file, text in kept.items():
                (self.source / file).write_text(text)

    def sources(self) -> set[Path]:
        """The files of ours that the last build read, under the repository: what is not among them, no op runs."""
        told = subprocess.run(["ninja", "-C", self.built, "-t", "deps"], capture_output=True, text=True, check=True).stdout
        read = {(self.built / line.strip()).resolve() for line in told.splitlines() if line.startswith("    ")}
        return {path.relative_to(self.source) for path in read if path.is_relative_to(self.source)}

    def plugin(self) -> Path:
        """The program as `touchstone check --exec` wants it."""
        return self.built / "one_op"
