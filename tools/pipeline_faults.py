#!/usr/bin/env python3
"""What happens to a warp-specialised kernel when one line of it is wrong?

    tools/pipeline_faults.py [NAME...]         plants the faults, and prints what the simulator says of each
    tools/pipeline_faults.py --debug FOLDER    only builds the right kernel there, to be walked through in gdb

The kernel is the product of tests/optimized/conformance/product.cuh. tools/faults.py plants faults in the ops' own kernels;
these are the ones that only asynchronous instructions can have. Build libdsa_simulated.so first (g++: it sees accesses).
Used by tests/optimized/test_pipeline_faults.py and by a notebook.
"""

from __future__ import annotations

import collections
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("TOUCHSTONE_BUILD") or REPOSITORY / "build")
CONFORMANCE = REPOSITORY / "tests" / "optimized" / "conformance"
KERNEL = CONFORMANCE / "product.cuh"
SEEDS = range(1, 7)


@dataclass(frozen=True)
class Fault:
    """One change of the kernel, and what the simulator is expected to say: a pattern, "another result", or "nothing"."""

    name: str
    line: str
    instead: str
    says: str
    why: str = ""


FAULTS = (
    Fault("the tile is not waited for", "        mbarrier_wait(memory.full[turn.stage], turn.parity);\n", "",
          "wgmma.* reads byte .*(nobody has written|nobody has waited for it)"),
    Fault("the stage is freed before its products are done", "            wgmma_wait<1>();\n", "",
          "cp.async.bulk.tensor .* writes byte .* which wgmma.* has read"),
    Fault("one group too many may be under way", "            wgmma_wait<1>();\n", "            wgmma_wait<2>();\n",
          "cp.async.bulk.tensor .* writes byte .* which wgmma.* has read"),
    Fault("the products are no group", "        wgmma_commit();\n", "", "cp.async.bulk.tensor .* writes byte .* which wgmma.* has read"),
    Fault("the last products are not waited for", "    wgmma_wait<0>();\n    hold", "    hold", "was never waited for"),
    Fault("registers are not handed over", "        wgmma_fence();\n", "", "needs wgmma.fence before it"),
    Fault("no fence between the proxies", "    fence_proxy_async();\n", "", "the asynchronous proxy does not see it"),
    Fault("the tile of C is stored before all have written it", "    barrier_sync(1 + consumer, 128);\n", "", "read after write, with no barrier"),
    Fault("C is written without the swizzle", "swizzled_offset(static_cast<std::uint32_t>(r * 128 + col * 2), wide)", "(r * 128 + col * 2)",
          "another result"),
    Fault("the block ends under its store", "        bulk_wait_read<0>();\n", "", "still under way in shared memory"),
    Fault("the producer waits for the wrong phase", "turn.parity ^ 1)", "turn.parity)", "is deadlocked"),
    Fault("too few bytes are expected", "sizeof stage.a + sizeof stage.b", "sizeof stage.a", "nobody has waited for it"),
    Fault("a consumer too few is counted", "mbarrier_init(memory.empty[s], 4 * consumers * cluster)",
          "mbarrier_init(memory.empty[s], (4 * consumers - 1) * cluster)", "which wgmma.* has read|more arrivals"),
    Fault("copies are not told of the mbarriers", "        fence_mbarrier_init();\n", "", "initialised without a fence"),
    Fault("nobody waits for the mbarriers' making", "        __syncthreads();\n", "        ;\n", "nobody has initialised|with no barrier"),
    Fault("the wrong rows of A", "memory.stage[turn.stage].a + consumer * 64 * tile_k", "memory.stage[turn.stage].a", "another result"),
    Fault("the ring does not turn its phase", "if (++stage == stages) stage = 0, parity ^= 1;", "if (++stage == stages) stage = 0;",
          "arrives 1 times at .* 0 of 1 arrivals"),
    Fault("the operand does not advance", "advanced(a, 32 * part)", "a", "another result"),
    Fault("the compiler is not told that registers changed", "    hold(sums);\n", "", "nothing",
          "it speaks to nvcc, which may move a use of the sums before the wait; a model runs what the source says"),
    Fault("lanes do not come together before the arrival", "    __syncwarp();\n    if (lane_id() < cluster)", "    if (lane_id() < cluster)", "nothing",
          "wgmma.wait_group before it is aligned: all lanes have come already"),
)  # fmt: skip

MAIN = """#include <cstdio>

#include "product.cuh"

int main() {
    using namespace dsa::conformance;
    try {
        unsigned digest = 2166136261U;  // FNV-1a of C
        for (const std::byte b : product_of_whole_numbers<1>(128, 128, 512))
            digest = (digest ^ static_cast<unsigned>(b)) * 16777619U;
        std::printf("%08x\\n", digest);
    } catch (const std::exception& error) {
        std::printf("%s\\n", error.what());
        return 1;
    }
}
"""


def build(home: Path, fault: Fault | None = None, debug: bool = False) -> Path:
    """The program with the kernel as it is, or with one fault, in folder `home`; unoptimised and unchecked for a debugger."""
    text = KERNEL.read_text(encoding="utf-8")
    if fault is not None:
        assert text.count(fault.line) == 1, f"{KERNEL.name} must hold this once:\n{fault.line}"
        text = text.replace(fault.line, fault.instead)
    (home / KERNEL.name).write_text(text, encoding="utf-8")
    (home / "main.cpp").write_text(MAIN, encoding="utf-8")
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    call_outs = "-fsanitize=thread --param=tsan-instrument-func-entry-exit=0 -fno-tree-loop-distribute-patterns".split()
    how = ["-O0", "-g"] if debug else ["-O1", "-g1", *call_outs]
    flags = ["-std=c++20", *how, "-DDSA_SIMULATOR", "-Wno-unknown-pragmas", f"-I{REPOSITORY}", f"-I{CONFORMANCE}"]
    subprocess.run([*compiler, *flags, "-c", home / "main.cpp", "-o", home / "main.o"], check=True)
    link = [f"-L{BUILD}", "-ldsa_simulated", f"-Wl,-rpath,{BUILD}"]
    subprocess.run([*compiler, home / "main.o", "-o", home / "product", *link], check=True)
    return home / "product"


def run(program: Path, seed: int, **environment: str) -> str:
    """What it answers under one schedule: a digest of C, or a sentence."""
    given = os.environ | {"DSA_SIMULATOR_SEED": str(seed)} | environment
    return subprocess.run([program], env=given, capture_output=True, text=True, check=False, timeout=120).stdout.strip()


def answers(fault: Fault | None = None) -> collections.Counter:
    """How often it says what, over some schedules."""
    with tempfile.TemporaryDirectory(prefix="touchstone_") as home:
        program = build(Path(home), fault)
        return collections.Counter(run(program, seed) for seed in SEEDS)


def as_expected(fault: Fault, said: collections.Counter, right: str) -> bool:
    """Whether every schedule said what is expected of the fault."""
    if fault.says == "nothing":
        return set(said) == {right}
    if fault.says == "another result":
        return right not in said and all(re.fullmatch("[0-9a-f]{8}", text) for text in said)
    return all(re.search(fault.says, text) for text in said)


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] == "--debug":
        Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
        print(build(Path(sys.argv[2]), debug=True))
        return 0
    chosen = [f for f in FAULTS if len(sys.argv) == 1 or f.name in sys.argv[1:]]
    (right,) = answers()
    caught = 0
    for fault in chosen:
        said = answers(fault)
        caught += right not in said
        text, count = said.most_common(1)[0]
        print(f"{fault.name}: {count} of {len(SEEDS)} seeds: {text if text != right else 'NOTHING: ' + fault.why}", flush=True)
    print(f"{caught} of {len(chosen)} faults caught under every seed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
