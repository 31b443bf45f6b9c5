"""Sources that are compiled once, for the GPU's library and the simulator's, must not ask which of the two they are in."""

from __future__ import annotations

import json
from pathlib import Path

from optimized.bench.receipts import included

REPOSITORY = Path(__file__).resolve().parents[2]


def askers(sources: list[Path]) -> list[str]:
    """Those of `sources` that see DSA_SIMULATOR, each with the file in which it stands."""
    found = [(source, next((f for f in sorted(included(source, set(), sources=False)) if "DSA_SIMULATOR" in f.read_text(encoding="utf-8")), None)) for source in sources]
    return [f"{source.name}: {file.relative_to(REPOSITORY)}" for source, file in found if file]


def test_what_is_compiled_once_does_not_ask_for_the_machine():
    commands = json.loads((REPOSITORY / "build" / "compile_commands.json").read_text(encoding="utf-8"))
    sources = [Path(c["file"]) for c in commands if "dsa_host.dir" in c["command"] and c["file"].endswith(".cpp")]
    assert len(sources) > 30
    assert askers(sources) == [], "list it under sources_for_a_machine in optimized/CMakeLists.txt"


def test_one_that_asks_is_found():
    assert askers([REPOSITORY / "optimized" / "hopper" / "tensor_map.cpp"])
