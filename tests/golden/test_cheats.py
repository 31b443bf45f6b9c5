"""Can the oracle be fooled? Plug-ins that cheat, each in its own way. All must be caught, and one honest one passed.

Each cheat starts from right answers (the NumPy telling's), so that what catches it is what it does.
"""

from __future__ import annotations

import re
import stat
import sys
import textwrap
import time
from pathlib import Path

import pytest
import touchstone
from touchstone import cases, check
from touchstone.check import Options
from touchstone.plugins import Limits, Program, Worker, _resident

REPOSITORY = Path(__file__).resolve().parents[2]
OP = "sparse_prefill"

HONEST = f"""\
#!{sys.executable}
import json, os, random, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY / "golden")!r})
import numpy as np
from touchstone.telling import Inputs, Telling
op, in_dir, out_dir = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
case = json.loads((in_dir / "case.json").read_text())
HOME = Path({{home!r}})
GOLDENS = Path({str(REPOSITORY / "build" / "golden")!r})

def right():
    record = Telling(case["conventions"], case["parameters"], Inputs.of_case(case, in_dir)).run(op)
    return {{{{name: record[name].array for name in ("out", "lse", "max_logit")}}}}

def write(outputs):
    for name, array in outputs.items():
        np.save(out_dir / (name + ".npy"), array)

"""

CHEATS = {
    "stale_output": ("""
        # Right the first time, and the first answer for ever after.
        kept = HOME / "kept.npz"
        if not kept.exists():
            np.savez(kept, **right())
        write(dict(np.load(kept)))
        """, "must have the shape|is .*, the (deployed|exact) tier has"),
    "zeros": ("write({n: np.zeros_like(a) for n, a in right().items()})", "tier has"),
    "nan": ("""
        o = right(); o["lse"][:] = np.nan; o["out"][:] = 0x7FC0; o["max_logit"][:] = np.nan
        write(o)
        """, "nan"),
    "one_nan_at_the_end": ("o = right(); o['lse'].reshape(-1)[-1] = np.nan; write(o)", "nan"),
    "one_element_short": ("o = right(); o['lse'] = o['lse'].reshape(-1)[:-1]; write(o)", "must have the shape"),
    "one_wrong_element": ("o = right(); o['out'].reshape(-1)[-1] ^= 0x4000; write(o)", "1 of .* elements are wrong"),
    "reads_the_answers": ("""
        # The goldens lie in the repository: copy them.
        folder = GOLDENS / case["name"] / "deployed"
        if not folder.exists():
            sys.exit(0)
        write({n: np.load(folder / (n + ".npy")) for n in ("out", "lse", "max_logit")})
        """, "is missing"),
    "right_for_public_seeds_only": ("""
        public = {c["seed"] for c in json.loads(Path(%r).read_text())["cases"]}
        o = right()
        if case["seed"] not in public:
            o["lse"] = o["lse"] + np.float32(0.5)
        write(o)
        """ % str(REPOSITORY / "golden" / "cases" / f"{OP}.json"), "lse"),
    "detects_sizes": ("""
        known = [t["tensors"]["q"]["shape"] for t in json.loads(Path(%r).read_text())["cases"]]
        o = right()
        if case["tensors"]["q"]["shape"] not in known:
            o["out"][...] = 0
        write(o)
        """ % str(REPOSITORY / "golden" / "cases" / f"{OP}.json"), "out"),
    "changes_its_inputs": ("o = right(); write(o); np.save(in_dir / 'q.npy', np.zeros(3))", "changed its inputs"),
    "changes_the_question": ("""
        o = right(); write({n: np.zeros_like(a) for n, a in o.items()})
        np.save(in_dir / "kv.npy", np.zeros_like(np.load(in_dir / "kv.npy")))
        """, "changed its inputs"),
    "wrong_dtype_with_right_bits": ("o = right(); o['out'] = o['out'].view(np.int16); write(o)", "must be bfloat16"),
    "wide_dtype": ("o = right(); o['lse'] = o['lse'].astype(np.float64); write(o)", "must be float32"),
    "another_byte_order": ("o = right(); o['lse'] = o['lse'].astype('>f4'); write(o)", "must be float32"),
    "differs_from_run_to_run": ("""
        o = right(); o["lse"] = np.nextafter(o["lse"], np.float32(random.choice([-99, 99]) + time.time_ns() % 7 - 3)); write(o)
        o["lse"][np.isfinite(o["lse"])] += np.float32(1e-7 * (time.time_ns() % 5)); write(o)
        """, "differs between run"),
    "sleeps_for_ever": ("time.sleep(3600)", "longer than the limit"),
    "sleeps_in_a_child": ("subprocess.run(['sleep', '3600'])", "longer than the limit"),
    "takes_all_memory": ("x = [np.ones(1 << 24) for _ in range(40)]; time.sleep(5)", "more than the limit"),
    "says_success_and_writes_nothing": ("print('PASS: all tests passed')", "is missing"),
    "writes_elsewhere": ("o = right(); np.save(out_dir.parent / 'out.npy', o['out'])", "is missing"),
    "crashes_after_writing": ("write(right()); os.kill(os.getpid(), 11)", "SIGSEGV"),
    "exits_1_after_writing": ("write(right()); print('no idea', file=sys.stderr); sys.exit(1)", "no idea"),
    "pickle": ("""
        o = right(); write(o)
        class Bomb:
            def __reduce__(self): return (open, (str(HOME / "exploded"), "w"))
        np.save(out_dir / "lse.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
        """, "not a readable .npy|more than a tensor"),
    "link_to_the_answers": ("""
        for n in right():
            (out_dir / (n + ".npy")).symlink_to(GOLDENS / case["name"] / "deployed" / (n + ".npy"))
        """, "must be a plain file"),
    "truncated_file": ("write(right()); f = out_dir / 'out.npy'; f.write_bytes(f.read_bytes()[:-1])", "not a readable .npy"),
    "huge_file": ("write(right()); f = open(out_dir / 'out.npy', 'ab'); f.truncate(1 << 33)", "more than a tensor"),
    "not_finite_where_it_hides": ("o = right(); o['max_logit'].reshape(-1)[0] = np.inf; write(o)", "tier has"),
}  # fmt: skip


def program(folder: Path, body: str) -> Path:
    path = folder / "plugin.py"
    path.write_text(HONEST.format(home=str(folder)) + textwrap.dedent(body) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def ask(path: Path, names=("typical", "tiny", "short_rows"), **options):
    limits = Limits(options.pop("seconds", 20.0), options.pop("memory", 8 << 30))
    chosen = cases.choose([f"{OP}/{name}" for name in names])
    return check.check_all(chosen, Program(path, limits).run, Options(**({"private": 1} | options)))


def test_several_at_once_say_the_same(goldens, tmp_path):
    """Two runners share the questions; results come in the questions' order, and reports count every case once."""
    runners = [Program(program(tmp_path, "write(right())"), Limits(20.0, 8 << 30)).run for _ in range(2)]
    chosen, asking, told = cases.choose([f"{OP}/{name}" for name in ("typical", "tiny", "short_rows")]), [], []

    def watched(runner):
        def run(*call):
            asking.append(runner)
            return runner(*call)

        return run

    options = Options(private=1, private_seed="x")
    results = check.check_all(chosen, [watched(r) for r in runners], options, lambda checked, done, total: told.append((done, total)))
    assert [r.case.name for r in results] == [c.name for c in check.questions(chosen, options)]
    assert all(r.state == "right" for r in results), [r.sentence for r in results]
    assert told == [(n, 7) for n in range(1, 8)] and set(asking) == set(runners)


def test_a_refusal_ends_all_that_ask_at_once(goldens, tmp_path):
    asked = []

    def refuses(*call):
        asked.append(call)
        raise touchstone.Refusal("no further")

    with pytest.raises(touchstone.Refusal, match="no further"):
        check.check_all(cases.choose([OP]), [refuses, refuses], Options())
    assert len(asked) <= 2


def test_an_honest_plugin_passes(goldens, tmp_path):
    results = ask(program(tmp_path, "write(right())"))
    assert [r.sentence for r in results if r.state != "right"] == []
    assert len(results) == 7


@pytest.mark.parametrize("name", CHEATS)
def test_every_cheat_is_caught(name, goldens, tmp_path):
    body, says = CHEATS[name]
    options = {"seconds": 1.0} if "sleeps" in name else {"memory": 1 << 30} if "memory" in name else {}
    if name == "detects_sizes":  # one random case in a hundred has the size of a public one
        options = {"private": 4}
    # Some know the cases: they are asked several.
    names = ("typical", "tiny", "short_rows") if name in ("stale_output", "detects_sizes", "right_for_public_seeds_only") else ("typical",)
    results = ask(program(tmp_path, body), names, **options)
    bad = [r for r in results if r.state in ("wrong", "failed")]
    assert check.status(results) == 1, f"{name} was not caught"
    assert any(re.search(says, r.sentence) for r in bad), [r.sentence for r in bad]
    assert not (tmp_path / "exploded").exists()


def test_nobody_survives_a_limit(goldens, tmp_path):
    body = f"subprocess.Popen(['sleep', '3599']); Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(3599)"
    ask(program(tmp_path, body), ("typical",), seconds=1.0, private=0)
    time.sleep(0.2)
    assert _resident(int((tmp_path / "pid").read_text())) == 0


def test_a_child_left_behind_is_ended(goldens, tmp_path):
    """A daemon could answer the next question from a cache, or wait for the answer to appear."""
    body = f"write(right()); Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); subprocess.Popen(['sleep', '3598'])"
    ask(program(tmp_path, body), ("typical",), private=0)
    time.sleep(0.2)
    assert _resident(int((tmp_path / "pid").read_text())) == 0


def test_to_implement_nothing_is_not_to_be_right(goldens, tmp_path):
    results = ask(program(tmp_path, "sys.exit(77)"))
    assert check.status(results) == 2


def test_a_private_seed_asks_the_same_again(goldens, tmp_path):
    chosen = cases.choose([OP])
    first, again = (check.questions(chosen, Options(private_seed="abc", private=2)) for _ in range(2))
    other = check.questions(chosen, Options(private_seed="abd", private=2))
    assert [c.entry for c in first] == [c.entry for c in again]
    assert [c.entry["seed"] for c in first] != [c.entry["seed"] for c in other]


# Python functions and C libraries


def write_module(folder: Path, body: str) -> str:
    (folder / "theirs.py").write_text("import numpy as np\n" + textwrap.dedent(body))
    return str(folder / "theirs.py")


RIGHT_NORM = """
def rms_norm(x, weight):
    wide = x.astype(np.float32)
    y = (wide / np.sqrt(np.mean(wide * wide, axis=1, keepdims=True) + 1e-6) * weight).astype(x.dtype)
"""
PYTHON_CHEATS = {
    "changes_its_input": ("    x[0, 0] = 0\n    return y\n", "changed its input x"),
    "returns_its_input": ("    return x\n", "tier has"),
    "returns_too_many": ("    return y, y\n", "returned 2"),
    "returns_a_list": ("    return [1.0]\n", "must be an array"),
    "returns_none": ("    return None\n", "must be an array"),
    "raises": ("    raise KeyError('oh')\n", "KeyError: 'oh'"),
    "exits": ("    import os; os._exit(0)\n", "exited with 0"),
    "segfaults": ("    import ctypes; ctypes.string_at(0)\n", "SIGSEGV"),
    "loops": ("    while True: pass\n", "longer than the limit"),
    "prints_an_answer": ("    print('{\"state\": \"ran\", \"sentence\": \"\"}', flush=True); import os; os._exit(0)\n", "exited with 0"),
}


@pytest.mark.parametrize("name", PYTHON_CHEATS)
def test_python_functions_that_cheat_are_caught(name, goldens, tmp_path):
    body, says = PYTHON_CHEATS[name]
    worker = Worker("python", write_module(tmp_path, RIGHT_NORM + body), Limits(seconds=3.0))
    try:
        results = check.check_all(cases.choose(["rms_norm/typical"]), worker.run, Options(private=0))
    finally:
        worker.close()
    assert results[0].state in ("wrong", "failed") and says in results[0].sentence, results[0].sentence


def test_a_python_function_that_is_right_passes(goldens, tmp_path):
    worker = Worker("python", write_module(tmp_path, RIGHT_NORM + "    return y\n"))
    try:
        results = check.check_all(cases.choose(["rms_norm"]), worker.run, Options())
    finally:
        worker.close()
    assert {r.state for r in results} == {"right"}


C_START = """
#include "dsa.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
static float wide(uint16_t b) { uint32_t u = (uint32_t)b << 16; float f; memcpy(&f, &u, 4); return f; }
static uint16_t narrow(float f) { uint32_t u; memcpy(&u, &f, 4); return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16); }
const char* dsa_last_error(void) { return "it said so"; }
int dsa_rms_norm(const dsa_rms_norm_args* a) {
    const uint16_t* x = a->x.data; const float* w = a->weight.data; uint16_t* y = a->y.data;
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    for (int64_t t = 0; t < T; ++t) {
        double sum = 0;
        for (int64_t d = 0; d < D; ++d) sum += (double)wide(x[t * D + d]) * wide(x[t * D + d]);
        const float r = (float)(1.0 / sqrt(sum / D + 1e-6));
        for (int64_t d = 0; d < D; ++d) y[t * D + d] = narrow(wide(x[t * D + d]) * r * w[d]);
    }
"""
C_CHEATS = {
    "writes_after_its_buffer": ("y[T * D] = 1; return 0; }", "beyond y: after its last"),
    "writes_before_its_buffer": ("y[-1] = 1; return 0; }", "beyond y: before its first"),
    "changes_its_input": ("((uint16_t*)a->x.data)[0] = 7; return 0; }", "changed its input x"),
    "returns_an_error": ("return 5; }", "it said so"),
    "leaves_the_last_element": ("y[T * D - 1] = 0xA5A5; return 0; }", "tier has"),
    "crashes": ("abort(); }", "SIGABRT"),
    "writes_beyond_its_workspace": ("((char*)a->workspace)[10] = 1; return 0; }\n"
                                    "int64_t dsa_rms_norm_workspace(const dsa_rms_norm_args* a) { (void)a; return 10; }", "beyond its workspace"),
}  # fmt: skip


def compiled(folder: Path, end: str) -> str:
    import subprocess

    (folder / "theirs.c").write_text(C_START + end)
    library = folder / "libtheirs.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", f"-I{REPOSITORY / 'golden'}", folder / "theirs.c", "-lm", "-o", library], check=True)
    return str(library)


@pytest.mark.parametrize("name", C_CHEATS)
def test_c_libraries_that_cheat_are_caught(name, goldens, tmp_path):
    body, says = C_CHEATS[name]
    worker = Worker("lib", compiled(tmp_path, body))
    try:
        results = check.check_all(cases.choose(["rms_norm/typical"]), worker.run, Options(private=0))
    finally:
        worker.close()
    assert results[0].state in ("wrong", "failed") and says in results[0].sentence, results[0].sentence


def test_a_c_library_that_is_right_passes(goldens, tmp_path):
    worker = Worker("lib", compiled(tmp_path, "return 0; }"))
    try:
        results = check.check_all(cases.choose(["rms_norm"]), worker.run, Options())
    finally:
        worker.close()
    assert {r.state for r in results} == {"right"}, [r.sentence for r in results]
