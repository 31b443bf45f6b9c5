"""The trained weights in golden/trained: what they read is new to them, what follows from them does, and they have learnt."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from touchstone import Refusal, cases, check, fill, text

sys.path.insert(0, str(REPOSITORY / "tools"))
import trained  # noqa: E402
import trained_against_random  # noqa: E402

READINGS = pytest.mark.parametrize("reading", [text.ALICE, text.PARADISE], ids=lambda r: r.text.stem)
TIERS = pytest.mark.parametrize("tier", ["exact", "deployed"])
STORED = [case for case in cases.all_cases() if case.is_stored]


def run_model(reference, reading, tokens, out, *more):
    """-> a function from an output's name to its array"""
    np.save(out.with_suffix(".npy"), tokens)
    subprocess.run([reference, "model", "--config", reading.config, "--weights", reading.weights, "--tokens", out.with_suffix(".npy"),
                    "--out", out, *more], check=True)  # fmt: skip
    return lambda name: np.load(out / f"{name}.npy")[0]


@READINGS
def test_the_texts_were_held_out(reading):
    recipe = json.loads(trained.RECIPE.read_text())
    (file,) = [f for f in recipe["task"]["files"] if f.endswith(reading.text.name)]
    book, passage = (trained.RECIPE.parent / file).read_bytes(), reading.text.read_bytes()
    trained_on = int(len(book) * (1 - recipe["task"]["held_out"]))
    assert book.count(passage) == 1 and book.index(passage) >= trained_on
    assert len(passage) == reading.length == recipe["length"]
    assert recipe["config"] == json.loads(reading.config.read_text())


def test_the_kept_activations_follow_from_the_kept_weights(reference, tmp_path):
    trained.write_activations(reference, tmp_path / "activations")
    kept = trained.KEPT / "activations"
    assert {p.name for p in kept.iterdir()} == {p.name for p in (tmp_path / "activations").iterdir()}
    for path in kept.iterdir():
        assert path.read_bytes() == (tmp_path / "activations" / path.name).read_bytes(), path.name
    used = {cases.stored_file(entry) for case in STORED for entry in case.entry["tensors"].values()} - {None}
    assert used == set(kept.iterdir())  # none is kept for nothing
    assert sum(p.stat().st_size for p in trained.KEPT.rglob("*") if p.is_file()) < 1 << 20


def test_a_case_of_them_is_a_piece_of_the_model(goldens):
    project, scores = goldens / "indexer_project/trained/deployed", goldens / "indexer_logits/trained"
    assert np.array_equal(np.load(project / "q.npy"), np.load(scores / "inputs/q.npy"))
    assert np.array_equal(np.load(project / "weights.npy"), np.load(scores / "inputs/weights.npy"))
    assert np.array_equal(np.load(scores / "deployed/logits.npy"), np.load(goldens / "top_k/trained/inputs/logits.npy"))
    chosen = np.load(goldens / "sparse_prefill/trained/inputs/indices.npy")
    assert np.array_equal(np.load(goldens / "top_k/trained/deployed/indices.npy"), chosen)


@TIERS
@READINGS
def test_greedy_decoding_equals_uncached_passes(reading, tier, reference, tmp_path):
    """The cache changes nothing: each new token is the likeliest one of a whole pass over all before it."""
    decoded = 24
    tokens = reading.tokens()
    shown = run_model(reference, reading, tokens, tmp_path / "out", "--tier", tier, "--decode", str(decoded))
    new, logits = shown("decode_tokens"), shown("decode_logits")
    assert new.shape == (decoded,) and np.array_equal(logits.argmax(-1), new)
    whole = run_model(reference, reading, np.concatenate([tokens, new]).astype(np.int32), tmp_path / "whole", "--tier", tier)("logits")
    assert np.array_equal(whole[: len(tokens)], shown("logits"))
    assert np.array_equal(whole[len(tokens) - 1 : -1].argmax(-1), new)
    assert np.array_equal(whole[len(tokens) - 1 : -1], logits)


def test_both_tiers_of_the_goldens_go_on_with_the_same_words(text_goldens):
    for reading in (text.ALICE, text.PARADISE):
        exact, deployed = (np.load(text_goldens[reading.name] / tier / "decode_tokens.npy") for tier in ("exact", "deployed"))
        assert np.array_equal(exact, deployed), reading.name


@READINGS
def test_the_model_has_learnt(reading, text_goldens):
    logits = np.load(text_goldens[reading.name] / "exact" / "logits.npy")[0][:-1]
    right = np.take_along_axis(logits, reading.tokens()[1:, None], -1)[:, 0]
    assert np.mean(np.log(np.exp(logits).sum(-1)) - right) < 2.5 < np.log(256)  # nats a byte, against all bytes alike


def test_the_book_s_table_is_what_is_measured(reference, tmp_path):
    trained_layers, random_layers = trained_against_random.models(reference, tmp_path)
    now = [trained_against_random.measured(sum(runs, [])) for runs in (trained_layers, random_layers)]
    recall = "mass on the selected k (recall), %"
    assert now[0][recall] > 70 > 2 * now[1][recall]  # its indexer has learnt, too; chance gives 17
    page = (REPOSITORY / "docs" / "15-trained-weights.md").read_text()
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if re.match(r"\| [^-].* \| [\d.e-]+ \| [\d.e-]+ \|$", line)]
    assert [name for name, *_ in told] == list(now[0])
    for name, *numbers in told:
        for number, measured in zip(numbers, now):
            # NumPy's own exp and sums may move the third digit's rounding from one machine to another.
            assert abs(float(number) - measured[name]) <= 0.011 * abs(measured[name]), f"{name}: the book says {number}; measured {measured[name]:.4g}"


def test_a_stored_tensor_is_refused_in_a_sentence(tmp_path, reference):
    def entry(name="trained/activations/norm", dtype="float32", shape=(64,), **more):
        return {"dtype": dtype, "shape": list(shape), "fill": {"stored": name}} | more

    assert fill.materialise(entry(), "x", 1).shape == (64,)
    for wrong, words in [
        (entry("trained/activations/none"), "does not exist"),
        (entry("../norm"), "must name a file below"),
        (entry("/etc/norm"), "must name a file below"),
        (entry(3), "must name a file below"),
        (entry(dtype="bfloat16"), "holds float32 .64.; the case says bfloat16"),
        (entry(shape=(8, 8)), r"the case says float32 .8, 8."),
        (entry(set=[[0, 1]]), "leave out"),
    ]:
        with pytest.raises(Refusal, match=words):
            fill.materialise(wrong, "x", 1)
    (case,) = cases.choose(["rms_norm/trained"])
    cases.write_in_dir(case, tmp_path / "in")
    (tmp_path / "in" / "x.npy").unlink()
    ran = subprocess.run([reference, "op", "rms_norm", tmp_path / "in", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "put x.npy beside case.json" in ran.stderr and ran.stderr.count("\n") == 1


def test_another_seed_is_not_asked_where_it_would_change_nothing():
    asked = [case.name for case in check.questions(cases.choose(["rms_norm"], "small"), check.Options())]
    assert "rms_norm/typical@private" in asked and "rms_norm/trained" in asked and "rms_norm/trained@private" not in asked
    assert {case.entry["name"] for case in STORED} == {"trained"}
