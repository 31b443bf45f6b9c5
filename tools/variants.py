"""A copy of the reference that may be changed, built fast: what tools/mistakes.py and tools/mutants.py have in common.

Of the reference it builds the ops alone, in the two tiers that a plug-in can be asked for, without the tiers of bounds,
whole models and training: a third of the compiler's work. Indices are checked by the libraries (no NDEBUG), so that a
row beyond an array ends the program. tools/one_op.cpp is that program.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HOME = REPOSITORY / "build" / "variants"
SOURCE = HOME / "source"
PROGRAM = HOME / "build" / "one_op"
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
target_compile_options(one_op PRIVATE -O1 -w -ffp-contract=off -D_GLIBCXX_ASSERTIONS)
target_include_directories(one_op PRIVATE .)
target_link_libraries(one_op PRIVATE Eigen3::Eigen nlohmann_json::nlohmann_json)
target_precompile_headers(one_op PRIVATE <Eigen/Dense> <nlohmann/json.hpp> <cstring> <map> <memory> <random> <string> <vector>)
"""


def write_if_new(path: Path, text: str) -> None:
    """Leaves a file's time alone where nothing changed, so that nothing is built again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def prepare() -> None:
    """The copy, as the sources are now, configured and built; refuses where it does not compile."""
    wanted = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "reference").rglob("*") if path.suffix in (".h", ".cpp")}
    wanted.add(Path("tools/one_op.cpp"))
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.relative_to(SOURCE) not in wanted | {Path("CMakeLists.txt")}:
            path.unlink()
    for name in sorted(wanted):
        text = (REPOSITORY / name).read_text()
        if name == Path("reference/ops/registry.h"):
            assert text.count(BOUNDS) == 1, f"{name} must hold this once:\n{BOUNDS}"
            text = text.replace(BOUNDS, "            nullptr,\n            nullptr,\n")
        write_if_new(SOURCE / name, text)
    write_if_new(SOURCE / "CMakeLists.txt", CMAKE)
    subprocess.run(["cmake", "-G", "Ninja", "-S", SOURCE, "-B", HOME / "build", "-DCMAKE_BUILD_TYPE=None"], check=True, capture_output=True)
    if complaint := build():
        raise SystemExit(complaint)


def build() -> str:
    """The compiler's complaint; empty if there is none."""
    run = subprocess.run(["cmake", "--build", HOME / "build"], capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else "\n".join(line for line in run.stdout.splitlines() if "error" in line)[:600] or run.stdout[-600:]


@contextlib.contextmanager
def changed(texts: dict[Path, str]):
    """The copy with these files' texts in place of its own: path under the repository -> text. Built by the caller."""
    kept = {name: (SOURCE / name).read_text() for name in texts}
    try:
        for name, text in texts.items():
            (SOURCE / name).write_text(text)
        yield
    finally:
        for name, text in kept.items():
            (SOURCE / name).write_text(text)


def sources() -> set[Path]:
    """The files of ours that the last build read, under the repository: what is not among them, no op runs."""
    told = subprocess.run(["ninja", "-C", HOME / "build", "-t", "deps"], capture_output=True, text=True, check=True).stdout
    read = {Path(line.strip()) if line.strip().startswith("/") else HOME / "build" / line.strip() for line in told.splitlines() if line.startswith("    ")}
    resolved = {path.resolve() for path in read}
    return {path.relative_to(SOURCE) for path in resolved if path.is_relative_to(SOURCE)}


def plugin() -> Path:
    """The program as `touchstone check --exec` wants it: a copy, so that the next build does not wait for this one."""
    target = HOME / "plugin"
    shutil.copy2(PROGRAM, target)
    return target
