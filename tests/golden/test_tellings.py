"""Do the two tellings agree? NumPy's and C++'s, on cases that Hypothesis draws: every op, tier and convention.

What this cannot find is an error that both make, from one misreading of the specification. docs/12-the-oracle.md says
what such a misreading would need; tests/golden/outside_transformers.py is a third telling.
"""

import os
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from touchstone import cases, contract, dtypes, judge, make, recipes, text
from touchstone.conventions import PRESETS, SWITCHES, expanded
from touchstone.telling import Inputs, Shown, Telling
from touchstone.verdict import Golden


def golden_of(case, folder):
    """C++'s answer, with bounds."""
    cases.write_in_dir(case, folder / "in")
    run = subprocess.run([make.reference_program(), "golden", folder / "in", folder / "out"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return Golden(folder / "out")


def disagreements(golden, tier):
    """What NumPy tells otherwise, in sentences."""
    deployed = {n: Shown(golden.stored("deployed", n), golden.dtype(n)) for n in golden.names}
    staged = contract.OPS[golden.op].staged
    follow = deployed if staged else {n: s for n, s in deployed.items() if s.dtype == "int32"}
    telling = Telling(golden.case["conventions"], golden.case["parameters"], golden.inputs, tier, follow)
    record = telling.run(golden.op)
    wanted = {n for n in golden.names if tier == "deployed" or golden.stored("exact", n) is not None}
    assert wanted <= record.keys(), f"NumPy does not show {wanted - record.keys()}"
    told = {n: s.array for n, s in record.items()}
    # What belongs to a choice (an expert's weight) was told of the choice that was followed, not of the telling's own:
    # scores that are equal in float32 need not be in float64.
    followed = told | {n: s.array for n, s in follow.items() if s.dtype == "int32"}
    choices = {n for n in wanted if golden.dtype(n) == "int32"}
    verdicts = judge.judge(golden, told, sorted(choices), tier) + judge.judge(golden, followed, sorted(wanted - choices), tier)
    return [v.sentence for v in verdicts if not v.right]


def test_two_scores_equal_in_float32_only(tmp_path):
    """The best expert is another one in float64; drawn once in thousands."""
    drawn = iter([0, 11, 1, 2, 2, 1, 2, 0, 0, 0, 0, 1, 0])
    golden = golden_of(recipes.Recipe("moe_gate", lambda low, high: next(drawn)).draw(0, "drawn"), tmp_path)
    assert golden.deployed("expert_weights").tolist() == [[1.0, 1.0]]
    assert golden.stored("exact", "experts").tolist() != golden.deployed("experts").tolist()
    assert disagreements(golden, "deployed") == [] and disagreements(golden, "exact") == []


EXAMPLES = int(os.environ.get("TOUCHSTONE_EXAMPLES", "15"))


@pytest.mark.parametrize("op", contract.OPS)
def test_both_tellings_agree(op, tmp_path_factory):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def agree(data):
        recipe = recipes.Recipe(op, lambda low, high: data.draw(st.integers(low, high)))
        case = recipe.draw(data.draw(st.integers(0, 2**53 - 1), label="seed"), "drawn")
        golden = golden_of(case, tmp_path_factory.mktemp("drawn"))
        assert disagreements(golden, "deployed") == []
        assert disagreements(golden, "exact") == []

    agree()


@pytest.mark.parametrize("case", cases.choose([], "small"), ids=lambda c: c.name)
def test_both_tellings_agree_on_the_public_cases(case, goldens):
    golden = Golden(goldens / case.name)
    assert disagreements(golden, "deployed") == []
    assert disagreements(golden, "exact") == []


def test_an_error_of_one_telling_is_seen(goldens, monkeypatch):
    monkeypatch.setattr(Telling, "relu", lambda self, x: np.maximum(x, self.tier.real(0.01) * x))
    golden = Golden(goldens / "indexer_logits/causal")
    assert disagreements(golden, "deployed") and disagreements(golden, "exact")


@pytest.mark.parametrize("name", PRESETS)
def test_both_know_the_same_conventions(name, tmp_path):
    case = cases.choose(["rms_norm/typical"])[0]
    case = cases.Case(case.op, case.entry | {"conventions": name})
    told = golden_of(case, tmp_path).conventions
    assert {k: v for k, v in expanded(name).items()} == told
    assert told.keys() == SWITCHES.keys()


@pytest.mark.parametrize("reading", text.READINGS, ids=lambda r: r.text.stem)
@pytest.mark.parametrize("tier", ["exact", "deployed"])
def test_the_whole_model_over_a_text(tier, reading, text_goldens):
    """Every stage of every layer, the choices followed: NumPy's and C++'s differ by roundings only."""
    text_golden = text_goldens[reading.name]
    config = cases.read_json(text_golden / "inputs" / "config.json")
    recorded = {}
    for path in (text_golden / tier).glob("*.npy"):
        array = np.load(path, allow_pickle=False)
        array = array[0] if array.ndim > 1 and array.shape[0] == 1 else array
        kinds = {"uint16": "bfloat16", "uint8": "float8_e4m3"}
        recorded[path.stem] = Shown(array, kinds.get(array.dtype.name, array.dtype.name))
    # Deployed roundings fall to either side, so each stage works on the recorded ones before it.
    follow = {n: s for n, s in recorded.items() if s.dtype == "int32" or tier == "deployed"}
    tokens = np.load(text_golden / "inputs" / "tokens.npy")
    inputs = Inputs({"tokens": {"dtype": "int32", "shape": list(tokens.shape)}}, 0, text_golden / "inputs")
    record = Telling("deepseek-v3.2-exp", {"config": config}, inputs, tier, follow).run("model")
    assert len(record.keys() & recorded.keys()) > 20 * config["num_hidden_layers"]
    # float64: 53 bits less 10 for sums of up to 768 terms; deployed: a few bf16 steps among thousands of elements.
    least = 20 * np.log10(2.0**43) if tier == "exact" else 20 * np.log10(2.0**8)
    for name in record.keys() & recorded.keys():
        a, b = (dtypes.from_storage(s[name].array, s[name].dtype).astype(float).reshape(-1) for s in (record, recorded))
        finite = np.isfinite(b)
        noise, signal = np.sum((a[finite] - b[finite]) ** 2), np.sum(b[finite] ** 2)
        assert noise == 0 or 10 * np.log10(signal / noise) >= least, name
