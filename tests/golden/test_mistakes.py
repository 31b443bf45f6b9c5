"""Is every known mistake caught, told from the others, and called by its name?"""

import fcntl
import importlib.util
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from touchstone import cases, check, judge
from touchstone.check import Options
from touchstone.make import REPOSITORY
from touchstone.mistakes import KillMatrix, catalogue, diagnose, killed
from touchstone.plugins import Ran
from touchstone.telling import Inputs, Telling
from touchstone.verdict import Golden

# Only cases of the full set show these; tests/golden/test_goldens.py makes the small one.
LARGE_ONLY = {"offsets_in_32_bits": "sparse_decode/beyond_2_gib"}


def plugin(telling):
    """A telling as a plug-in that shows all its stages."""

    def run(op, in_dir, out_dir):
        case = json.loads((in_dir / "case.json").read_text())
        record = telling(case["conventions"], case["parameters"], Inputs.of_case(case, in_dir)).run(op)
        for name, shown in record.items():
            np.save(out_dir / f"{name}.npy", shown.array)
        return Ran("ran")

    return run


@pytest.fixture(scope="session")
def matrix(goldens, tmp_path_factory, request):
    """Made once, also where several processes share the tests: it is as dear as all else here."""
    if not hasattr(request.config, "workerinput"):
        return KillMatrix(goldens)
    made = tmp_path_factory.getbasetemp().parent / "kill_matrix.pickle"
    with open(made.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_bytes(pickle.dumps(KillMatrix(goldens)))
    return pickle.loads(made.read_bytes())


def test_no_row_of_the_kill_matrix_is_empty(matrix):
    assert set(matrix.survivors()) == set(LARGE_ONLY)


def test_no_two_mistakes_look_alike(matrix):
    assert matrix.inseparable() == []


def test_the_right_telling_is_killed_by_no_case(goldens, matrix):
    for name in matrix.cases:
        assert not killed(Telling, Golden(goldens / name))[0], name


@pytest.mark.parametrize("name", catalogue())
def test_a_mistake_has_its_papers(name):
    mistake = catalogue()[name]
    assert mistake.title().endswith(".") and len(mistake.story()) > 60 and mistake.source and mistake.shows and mistake.row and mistake.ops
    changed = [attribute for attribute in vars(mistake) if callable(getattr(mistake, attribute)) and hasattr(Telling, attribute)]
    assert changed, f"{name} overrides nothing of the telling"


@pytest.mark.parametrize("name", [n for n in catalogue() if n not in LARGE_ONLY])
def test_a_wrong_kernel_is_told_which_mistake_it_is(name, goldens, matrix):
    mistake = catalogue()[name]
    op = matrix.best_case(name).split("/")[0]
    results = check.check_all(cases.choose([op], "small"), plugin(mistake), Options(private=0, runs=2 if mistake.unsteady else 1))
    assert check.status(results) == 1
    if mistake.unsteady:
        assert any("differs between run" in r.sentence for r in results)
    elif any(r.state == "wrong" and r.outputs for r in results):
        assert f"{op} equals the mistake {name} " in diagnose(results)


def test_a_right_kernel_is_told_nothing(goldens):
    results = check.check_all(cases.choose(["indexer_logits"], "small"), plugin(Telling), Options(private=0, runs=1))
    assert check.status(results) == 0 and diagnose(results) == ""


def test_an_unknown_error_is_not_blamed_on_a_known_one(goldens):
    class Shifted(Telling):
        def scaled_by_key(self, scores, k_scale):
            return scores * k_scale + np.float32(0.3)

    results = check.check_all(cases.choose(["indexer_logits"], "small"), plugin(Shifted), Options(private=0, runs=1))
    assert check.status(results) == 1 and diagnose(results) == ""


def test_another_convention_is_no_mistake(goldens):
    class BaseTwo(Telling):
        def by_convention(self, lse):
            return super().by_convention(lse) / np.float32(np.log(2))

    chosen = [c for c in cases.choose(["sparse_prefill"], "small") if c.entry["conventions"] == "deepseek-v3.2-exp"]
    results = check.check_all(chosen, plugin(BaseTwo), Options(private=0, runs=1))
    assert "lse = base2" in diagnose(results)


def test_the_first_wrong_stage_of_a_layer_is_found(goldens):
    """A mistake in the middle of a layer is found there, though everything after it differs, too."""
    for name, stage in (("indexer_rope_last", "indexer_q"), ("relu_missing", "indexer_logits"), ("mla_rope_first", "q_nope"),
                        ("unused_slots_left", "topk_indices")):  # fmt: skip
        case = cases.choose(["dsa_attention/" + ("short" if name == "unused_slots_left" else "prefill_deepseek-v3.2-exp")])
        result = check.check_all(case, plugin(catalogue()[name]), Options(private=0, runs=1))[0]
        assert result.first_wrong.name == stage, (name, result.first_wrong.name)
        wrong = {v.name for v in result.verdicts if not v.right}
        assert "attention_y" not in wrong, "a stage is judged on the inputs that it had"


def test_a_layer_that_shows_its_choices_only_is_judged_from_end_to_end(goldens):
    def only_choices(run, spoil=lambda y: y):
        def few(op, in_dir, out_dir):
            ran = run(op, in_dir, out_dir)
            for path in out_dir.iterdir():
                if path.stem not in ("y", "topk_indices", "expert_ids"):
                    path.unlink()
            np.save(out_dir / "y.npy", spoil(np.load(out_dir / "y.npy")))
            return ran

        return few

    def one_row_of_zeros(y):
        y[0] = 0
        return y

    chosen = cases.choose(["dsa_attention/decode", "transformer_block/moe"])
    assert check.status(check.check_all(chosen, only_choices(plugin(Telling)), Options(private=0))) == 0
    assert check.status(check.check_all(chosen, only_choices(plugin(Telling), one_row_of_zeros), Options(private=0))) == 1
    without = only_choices(plugin(Telling))

    def no_choices(op, in_dir, out_dir):
        ran = without(op, in_dir, out_dir)
        (out_dir / "topk_indices.npy").unlink()
        return ran

    results = check.check_all(chosen[:1], no_choices, Options(private=0))
    assert "must show its choices" in results[0].sentence


def test_the_mistakes_in_cpp_fit_the_sources():
    """Each change of the C++ reference that a mistake names stands there exactly once. tools/mistakes.py builds them."""
    for name, mistake in catalogue().items():
        assert mistake.reference, f"{name} has no C++ variant"
        for file, right, wrong in mistake.reference:
            assert (REPOSITORY / file).read_text().count(right) == 1, f"{name}: {file} must hold this once:\n{right}"
            assert right != wrong


def test_a_mistake_in_cpp_is_called_by_its_name(goldens):
    """tools/mistakes.py on one of them: the one whose name hangs on what is right without it."""
    ran = subprocess.run([sys.executable, REPOSITORY / "tools" / "mistakes.py", "hadamard_after_quantisation"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and "1 of 1 mistakes in C++ are called by their names" in ran.stdout, ran.stdout + ran.stderr


def test_the_catalogue_in_the_book_is_current():
    spec = importlib.util.spec_from_file_location("catalogue_page", REPOSITORY / "tools" / "catalogue.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (REPOSITORY / "docs" / "mistakes.md").read_text() == module.page(), "run tools/catalogue.py > docs/mistakes.md"


def test_selections_of_a_mistake_are_judged_not_crashed_on(goldens):
    golden = Golden(goldens / "top_k/typical")
    got = {"indices": np.full_like(golden.stored("deployed", "indices"), 2**31 - 1)}
    assert not judge.right(judge.judge(golden, got, ["indices"]))
