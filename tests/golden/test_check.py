"""Does `touchstone check` speak plainly, by every way in? The commands as a user types them."""

import json
import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest
import touchstone
from touchstone import cases, check, clib, contract, diff, make, recipes
from touchstone.make import REPOSITORY
from touchstone.plugins import Limits, Program
from touchstone.telling import Telling
from touchstone.verdict import Golden

EXAMPLES = REPOSITORY / "golden" / "examples"


def command(*arguments, cwd=None):
    # a program that says `python3`, as hadamard.sh does, is to find the one with NumPy, activated or not
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "golden"), "COLUMNS": "200", "PATH": path}
    return subprocess.run([sys.executable, "-m", "touchstone.cli", *map(str, arguments)], capture_output=True, text=True,
                          check=False, cwd=cwd, env=environment)  # fmt: skip


@pytest.fixture
def wrong_kernel(tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text(textwrap.dedent("""
        import numpy as np
        def indexer_logits(q, k, k_scale, weights, start, end):
            q, k = q.astype(np.float32), k.astype(np.float32)
            logits = np.full((len(q), len(k)), -np.inf, np.float32)
            for t in range(len(q)):
                seen = slice(start[t], end[t])
                logits[t, seen] = np.maximum(weights[t] @ (q[t] @ k[seen].T), 0) * k_scale[seen]
            return logits
        """))
    return path


def test_the_examples_are_right(goldens, tmp_path):
    library = tmp_path / "libtop_k.so"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O2", f"-I{REPOSITORY / 'golden'}",
                    EXAMPLES / "top_k.c", "-o", library], check=True)  # fmt: skip
    for way in (["--python", EXAMPLES / "kernels.py"], ["--lib", library], ["--exec", EXAMPLES / "hadamard.sh"]):
        ran = command("check", *way)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "cases right" in ran.stdout and "private seed" in ran.stdout


def test_the_reference_is_right_by_its_own_oracle(goldens):
    ran = command("check", "--exec", f"{make.reference_program()} op", "--op", "top_k", "--op", "moe_gate", "--tag", "ties")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_reference_is_right_in_float64_too(goldens):
    ran = command("check", "--exec", f"{make.reference_program()} op", "--tier", "exact", "--op", "sparse_prefill", "--op", "rope")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_wrong_kernel_learns_where_how_much_and_why(goldens, wrong_kernel):
    ran = command("check", "--python", wrong_kernel)
    assert ran.returncode == 1
    assert "logits[0, 0]" in ran.stdout and "times the bound" in ran.stdout
    assert "equals the mistake relu_after_head_sum" in ran.stdout
    assert "transformers#44360" in ran.stdout


def test_reports(goldens, wrong_kernel, tmp_path):
    ran = command("check", "--python", wrong_kernel, "--op", "indexer_logits", "--report", "junit", "--report", f"json={tmp_path / 'r.json'}",
                  "--report", "html=sub/r.html", cwd=tmp_path)  # fmt: skip
    assert ran.returncode == 1
    suite = xml.parse(tmp_path / "touchstone.xml").getroot()
    assert int(suite.get("tests")) == len(suite.findall("testcase")) and int(suite.get("failures")) > 10
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["status"] == 1 and told["diagnosis"] and told["cases"][0]["tensors"][0]["name"] == "logits"
    assert "relu_after_head_sum" in (tmp_path / "sub" / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name one plug-in"),
        (["--exec", "a", "--lib", "b"], "name one plug-in"),
        (["--exec", "./nowhere"], "does not exist"),
        (["--exec", str(EXAMPLES / "kernels.py")], "executable"),
        (["--exec", "true", "--op", "tok_k"], "no case or op named tok_k"),
        (["--exec", "true", "--tag", "nonsense"], "no case fits"),
        (["--exec", "true", "--op", "top_k", "--case", "rms_norm/typical"], "no case fits"),
        (["--exec", "'a name with spaces'/program"], "the plug-in a name with spaces/program does not exist"),
        (["--exec", "true", "--report", "yaml"], "--report must be one of"),
        (["--exec", "true", "--conventions", "lse=base3"], "must be one of natural, base2"),
        (["--exec", "true", "--conventions", "megatron"], "no preset of conventions"),
        (["--exec", "true", "--tier", "half"], "--tier must be"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(goldens, arguments, says):
    ran = command("check", *arguments)
    assert ran.returncode == 2 and says in ran.stderr, ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--python", "no_such_module"], "cannot be imported"),
        (["--python", "nowhere.py"], "does not exist"),
        (["--python", "broken.py"], "cannot be loaded: SyntaxError"),
        (["--python", "raises.py"], "cannot be loaded: ZeroDivisionError"),
        (["--python", "empty.py:top_k"], "has no function named top_k"),
        (["--python", "empty.py:mine"], "say which op it is with --op"),
        (["--python", "empty.py", "--arrays", "tensorflow"], "must be one of numpy, torch"),
        (["--lib", "empty.py"], "cannot be loaded"),
        (["--lib", "nowhere.so"], "does not exist"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_bad_usage_and_no_wrong_kernel(goldens, tmp_path, arguments, says):
    for name, text in (("broken.py", "def top_k(:"), ("raises.py", "1 / 0"), ("empty.py", "")):
        (tmp_path / name).write_text(text)
    ran = command("check", *arguments, cwd=tmp_path)
    assert ran.returncode == 2 and says in ran.stderr, ran.stdout + ran.stderr
    assert ran.stderr.count("touchstone: ") == 1 and ran.stdout == ""


def test_a_peer_that_is_not_installed_is_no_wrong_kernel(goldens, tmp_path):
    (tmp_path / "theirs.py").write_text("from touchstone import Missing\ndef top_k(**all):\n    raise Missing('the peer is not installed')\n")
    ran = command("check", "--python", "theirs.py", "--op", "top_k", cwd=tmp_path)
    assert ran.returncode == 2 and ran.stderr == "touchstone: the peer is not installed\n", ran.stdout + ran.stderr


def test_nothing_implemented_is_exit_code_2(goldens, tmp_path):
    (tmp_path / "empty.py").write_text("")
    ran = command("check", "--python", tmp_path / "empty.py", "--op", "top_k")
    assert ran.returncode == 2 and "nothing was judged" in ran.stdout


def test_conventions_are_inferred(goldens, tmp_path):
    (tmp_path / "theirs.py").write_text(textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(REPOSITORY / 'golden')!r})
        from touchstone.telling import Inputs, Telling
        def anything(case, op, **tensors):
            tensors = {{n: t.view("uint16") if t.dtype.name == "bfloat16" else t for n, t in tensors.items() if n in case["tensors"]}}
            own = {{"preset": "flashmla", "lse": "base2"}} if op == "sparse_prefill" else "transformers"
            telling = Telling(own, case["parameters"], Inputs(case["tensors"], 0, None, tensors))
            return {{n: s.array for n, s in telling.run(op).items()}}
        """))
    ran = command("check", "--python", f"{tmp_path / 'theirs.py'}:anything", "--op", "indexer_project", "--infer-conventions")
    assert ran.returncode == 0 and "right by transformers" in ran.stdout, ran.stdout
    ran = command("check", "--python", f"{tmp_path / 'theirs.py'}:anything", "--op", "sparse_prefill", "--infer-conventions")
    assert "deepseek-v3.2-exp with lse = base2" in ran.stdout, ran.stdout
    ran = command("check", "--python", f"{tmp_path / 'theirs.py'}:anything", "--op", "sparse_prefill", "--conventions", "flashmla,lse=base2")
    assert ran.returncode == 0, ran.stdout
    ran = command("check", "--python", f"{tmp_path / 'theirs.py'}:anything", "--case", "sparse_prefill/empty_row",
                  "--conventions", "lse=base2,empty_row_lse=+inf")  # fmt: skip
    assert ran.returncode == 0, ran.stdout


def test_large_cases_are_judged_by_sampled_rows(goldens, wrong_kernel):
    """The plug-in answers all rows; the reference only the sampled ones."""
    case = recipes.reseeded(cases.choose(["top_k/causal"])[0], "s")
    options = check.Options(sample=3, private=0, private_seed="x")
    rows = check.sampled_rows(case, options)
    assert len(rows) == 3 and rows[0] == 0 and rows[-1] == 4

    def outputs(spoilt_row):
        def top_k(logits, start, end, topk):
            from touchstone.telling import Inputs

            tensors = {"logits": logits, "start": start, "end": end}
            declared = {n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in tensors.items()}
            indices = Telling("deepseek-v3.2-exp", {"topk": topk}, Inputs(declared, arrays=tensors)).run("top_k")["indices"].array
            if spoilt_row is not None:
                indices[spoilt_row, 0] = indices[spoilt_row, 1]
            return indices

        return top_k

    unseen = next(r for r in range(5) if r not in rows)
    for spoilt, state in ((None, "right"), (int(rows[1]), "wrong"), (unseen, "right")):
        result = check.check_all([case], check.function_runner(outputs(spoilt)), options)[0]
        assert result.state == state, result.sentence


def test_check_from_python(goldens, wrong_kernel):
    sys.path.insert(0, str(EXAMPLES))
    try:
        import kernels
    finally:
        sys.path.pop(0)
    results = check.check("top_k", kernels.top_k)
    assert len(results) > 40
    with pytest.raises(check.WrongKernel, match="cases are wrong"):
        check.check("rms_norm", lambda x, weight: x)
    with pytest.raises(touchstone.Refusal, match="must take the tensor weight"):
        raise touchstone.Refusal(check.check_all(cases.choose(["rms_norm/typical"]), check.function_runner(lambda x: x), check.Options())[0].sentence)


def test_the_fixture_makes_a_test_of_each_case(goldens, tmp_path):
    (tmp_path / "test_theirs.py").write_text(textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(EXAMPLES)!r})
        import kernels, pytest
        @pytest.mark.touchstone("top_k", flag="ties")
        def test_mine(touchstone_case):
            touchstone_case.check(kernels.top_k)
        @pytest.mark.touchstone("rms_norm/typical", "rope/interleaved")
        def test_dict(touchstone_case):
            touchstone_case.check({{"rms_norm": lambda x, weight: x}})
        """))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "golden"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "touchstone.pytest_plugin", "--rootdir", tmp_path, tmp_path / "test_theirs.py"],
                         capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)  # fmt: skip
    assert "1 failed" in ran.stdout and "1 skipped" in ran.stdout and "4 passed" in ran.stdout, ran.stdout
    assert "WrongKernel" in ran.stdout


def test_explain_walks_through_a_case(goldens):
    ran = command("explain", "indexer_top_k/causal")
    assert ran.returncode == 0
    for word in ("logits", "indices", "must be selected", "relu_missing"):
        assert word in ran.stdout
    assert command("explain", "top_k").returncode == 2
    assert command("explain", "top_k/nothing").returncode == 2


def test_diff_finds_the_first_stage_that_parts(goldens, tmp_path):
    golden = goldens / "dsa_attention" / "prefill_deepseek-v3.2-exp"
    assert command("diff", golden, golden).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    for path in (golden / "deployed").glob("*.npy"):
        array = np.load(path)
        if path.stem in ("indexer_weights", "topk_indices", "attention_y"):
            array = array[::-1].copy()
        np.save(other / path.name, array)
    ran = command("diff", golden, other)
    assert ran.returncode == 1 and "the first stage that parts is indexer_weights" in ran.stdout
    assert command("diff", golden, tmp_path / "nowhere").returncode == 2


def test_stages_are_compared_in_the_order_of_computation():
    names = ["logits", "layer_10.c_q", "layer_2.after_ffn", "layer_2.c_q", "hidden_3", "embedding", "layer_2.topk_indices", "hidden_0"]
    ordered = sorted(names, key=diff.place_of)
    assert ordered == ["embedding", "hidden_0", "layer_2.c_q", "layer_2.topk_indices", "layer_2.after_ffn", "hidden_3", "layer_10.c_q", "logits"]


def test_conventions_and_mistakes_are_listed(goldens):
    told = command("conventions").stdout
    assert "empty_row_lse" in told and "flashmla" in told
    assert "relu_missing" in command("mistakes").stdout


def test_the_header_is_generated_and_compiles(tmp_path):
    assert (REPOSITORY / "golden" / "dsa.h").read_text() == clib.header(), "run `touchstone header > golden/dsa.h`"
    for compiler in (["gcc", "-std=c99"], ["g++", "-x", "c++"]):
        subprocess.run([*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", REPOSITORY / "golden" / "dsa.h"], check=True)
    (tmp_path / "size.c").write_text('#include "dsa.h"\n#include <stdio.h>\nint main(void) {\n' + "".join(
        f'printf("{op} %zu\\n", sizeof(dsa_{op}_args));' for op in contract.OPS) + "return 0; }")
    subprocess.run(["gcc", f"-I{REPOSITORY / 'golden'}", tmp_path / "size.c", "-o", tmp_path / "size"], check=True)
    import ctypes

    printed = subprocess.run([tmp_path / "size"], capture_output=True, text=True, check=True).stdout
    sizes = {op: int(size) for op, size in (line.split() for line in printed.splitlines())}
    assert sizes == {op: ctypes.sizeof(struct) for op, struct in clib.STRUCTS.items()}


def test_the_contract_knows_every_output_shape(goldens):
    for case in cases.choose([], "small"):
        shapes = {n: tuple(t["shape"]) for n, t in case.entry["tensors"].items()}
        golden = Golden(goldens / case.name)
        for name, shape in contract.output_shapes(contract.OPS[case.op], shapes, case.entry["parameters"]).items():
            assert golden.stored("deployed", name).shape == shape, case.name


def test_every_case_names_only_what_the_contract_has():
    for case in cases.choose([]):
        op = contract.OPS[case.op]
        assert case.entry["tensors"].keys() <= {t.name for t in op.inputs}, case.name
        assert case.entry["parameters"].keys() <= set(op.parameters), case.name



@pytest.mark.parametrize("tier", ["deployed", "exact"])
def test_the_reference_is_right_in_both_tiers(reference, tier):
    """In the exact tier a quantiser has no scale to show, and none is asked of it."""
    plugin = Program([reference, "op"], Limits(20.0))
    for name in ("act_quant/deepseek_ue8m0", "indexer_project/typical", "top_k/typical", "sparse_prefill/typical"):
        (case,) = [c for c in cases.choose([], "small") if c.name == name]
        checked = check.check_case(case, plugin.run, check.Options(private=0, runs=1, tier=tier))
        assert checked.state == "right", f"{name}: {checked.sentence}"
