"""Does the page hold what the model did? Its data are unpacked here and held against NumPy's own account."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from touchstone import Refusal, page, runs
from touchstone.choices import must_and_must_not
from touchstone.telling import Inputs, Telling

ALICE = Path(__file__).resolve().parents[2] / "recipes" / "text" / "alice_in_wonderland.txt"
T, K = 64, 8  # as conftest's run has them


@pytest.fixture(scope="module")
def made(training_run, reference, tmp_path_factory):
    """The page by its command. -> (HTML, what it is about, [stages, layers, 3, causal pairs])"""
    out = tmp_path_factory.mktemp("page") / "page.html"
    command = [sys.executable, "-m", "touchstone.cli", "page", training_run, "--text", ALICE, "--out", out, "--length", str(T), "--reference", reference]
    subprocess.run(command, check=True, capture_output=True)
    html = out.read_text()
    inside = lambda name: re.search(rf'<script [^>]*id="{name}">(.*?)</script>', html, re.DOTALL)[1]  # noqa: E731
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(inside("tensors"))), "<u2")
    return html, json.loads(inside("about")), numbers.reshape(3, 2, 3, T * (T + 1) // 2)


def test_it_says_what_it_shows(made):
    _, about, _ = made
    first = int(len(ALICE.read_bytes()) * 0.9)
    assert "".join(about["text"]).replace("\u21b5", "\n") == ALICE.read_bytes()[first : first + T].decode("ascii")
    assert (about["topk"], about["layers"]) == (K, 2)
    assert [(s["name"], s["kind"], s["steps"]) for s in about["stages"]] == [("dense", "dense", 60), ("warmup", "warmup", 80), ("sparse", "sparse", 90)]
    assert f"from byte {first}" in about["source"]


def test_it_asks_nobody(made):
    """No address of anything but itself."""
    html, _, _ = made
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import|fetch\(|XMLHttpRequest|https?:", html)


def test_every_selection_is_the_second_tellings(made, looks):
    """For every k, not only the model's: the first k of a query's order are what top_k chooses."""
    _, _, numbers = made
    telling = Telling(page.CONVENTIONS, {}, Inputs({}), tier="exact")
    start, end = np.zeros(T, int), np.arange(1, T + 1)
    for a_look, of_stage in zip(looks, numbers):
        for layer, (_, _, order) in zip(a_look.layers, of_stage):
            for k in (1, K, T // 2, T):
                chosen = telling.top_k(layer.scores, start, end, k)
                for t in range(T):
                    own = order[t * (t + 1) // 2 : (t + 1) * (t + 2) // 2][:k]
                    assert sorted(own) == chosen[t][chosen[t] >= 0].tolist()


def test_a_sparse_stage_attended_to_what_the_page_lights_and_the_others_to_everything(made, looks):
    _, _, numbers = made
    for a_look, of_stage in zip(looks, numbers):
        for layer, (_, _, order) in zip(a_look.layers, of_stage):
            for t in range(T):
                own = order[t * (t + 1) // 2 : (t + 1) * (t + 2) // 2]
                expected = own[:K] if a_look.stage.kind == "sparse" else own
                assert sorted(expected) == layer.attended[t][layer.attended[t] >= 0].tolist()


def test_shares_are_rounded_to_a_65535th(made, looks):
    _, _, numbers = made
    causal = np.tril_indices(T)
    for a_look, of_stage in zip(looks, numbers):
        for layer, (prediction, mass, _) in zip(a_look.layers, of_stage):
            e = np.exp(layer.scores - layer.scores.max(axis=1, keepdims=True))
            for stored, exact in ((prediction, (e / e.sum(axis=1, keepdims=True))[causal]), (mass, layer.mass[causal])):
                # Half a unit for the rounding; one of 2^-53 a step of the division and the sums is far below 1 %.
                assert np.all(np.abs(stored / 65535 - exact) <= 0.505 / 65535)


def test_the_mass_is_that_of_the_model_in_mha_mode(looks, training_run):
    """Told from the weights by another road: per-head keys, not the absorbed query. Layer 0 of the warm-up."""
    from touchstone.telling.model import Checkpoint, LayerWeights, rope_of

    stage = runs.read_run(training_run).stages[1]
    config = json.loads((stage.folder / "config.json").read_text())
    telling = Telling(page.CONVENTIONS, {"rope": rope_of(config)}, LayerWeights(Checkpoint(stage.folder), config, 0), tier="exact")
    tokens, _ = page.window_of(ALICE, None, T)
    real = np.float64
    w = {name: telling.inputs.arrays[name].astype(real) for name in ("W_dq", "W_uq", "W_dkv", "W_uk", "q_norm", "kv_norm", "attention_norm")}
    x = telling.rms_norm(telling.inputs.checkpoint.stored("model.embed_tokens.weight")[0].astype(real)[tokens], w["attention_norm"])
    d_nope, R_kv, positions = config["qk_nope_head_dim"], config["kv_lora_rank"], np.arange(T)
    q = np.einsum("tr,rhd->thd", telling.rms_norm(x @ w["W_dq"], w["q_norm"]), w["W_uq"])
    latent = x @ w["W_dkv"]
    k_nope = np.einsum("tr,rhd->thd", telling.rms_norm(latent[:, :R_kv], w["kv_norm"]), w["W_uk"])
    q_rope = telling.rope(q[..., d_nope:], positions, "interleaved")
    k_rope = telling.rope(latent[:, None, R_kv:], positions, "interleaved")[:, 0]
    scores = np.einsum("thd,shd->hts", q[..., :d_nope], k_nope) + np.einsum("thd,sd->hts", q_rope, k_rope)
    scores = np.where(np.tri(T, dtype=bool), scores * (d_nope + config["qk_rope_head_dim"]) ** -0.5, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = (p / p.sum(axis=-1, keepdims=True)).mean(axis=0)
    # Two orders of the same float64 sums, of at most D x R_q x R_kv x d products one after the other: 2^-53 x 300 each.
    assert np.all(np.abs(looks[1].layers[0].mass - p) <= 300 * 2.0**-53 * np.abs(scores[np.isfinite(scores)]).max())


def test_the_recall_is_the_trainers(looks, training_run):
    """evaluation.json's recall of the sparse stage, measured in float32 by the trainer over this very window.

    The trainer's scores may differ from ours by float32's rounding, for which 2^-14 of the largest score is allowed: 1024
    roundings of 2^-24 one after the other. (The longest road to a score, through layer 0 to layer 1, has some 15 sums of at
    most 64 products.) A score of exactly 0, where every head's ReLU cuts, is exactly 0 in both, and such ties go to the lower
    position in both. Positions that near to the k-th place may be chosen or not, so the recall lies between the mass of all
    that must be chosen and of all that may be.
    """
    rounding = 2.0**-14
    rows = {row["name"]: row for row in runs.read_run(training_run).rows}
    least, most = [], []
    for layer in looks[2].layers:
        for t, (scores, mass) in enumerate(zip(layer.scores, layer.mass)):
            own = scores[: t + 1]
            largest = np.abs(own).max()
            tied = own - np.arange(t + 1) * 2.0**-40 * largest
            must, must_not = must_and_must_not(tied, np.where(own == 0, 0.0, rounding * largest), K)
            least.append(mass[: t + 1][must].sum())
            most.append(mass[: t + 1][~must_not].sum())
    assert np.mean(most) - np.mean(least) < 0.01, "too much is near the k-th place: the comparison says little"
    assert np.mean(least) - rounding <= rows["sparse"]["recall"] <= np.mean(most) + rounding


def test_the_books_page_is_of_today():
    """Without its data it is page.html with page.js. If not, run docs/pictures/looking.sh."""
    book = (Path(__file__).resolve().parents[2] / "docs" / "pictures" / "indexer.html").read_text()
    for name in ("about", "tensors"):
        book = re.sub(rf'(<script [^>]*id="{name}">).*?(</script>)', rf"\1/*{name.upper()}*/\2", book, flags=re.DOTALL)
    template = (page.PACKAGE / "page.html").read_text()
    assert book == template.replace("/*SCRIPT*/", (page.PACKAGE / "page.js").read_text())


def test_text_cannot_leave_its_script():
    assert "</script" not in page.in_script("</script><script>alert(1)</script>")
    assert json.loads(page.in_script(json.dumps("</script>"))) == "</script>"


@pytest.mark.parametrize(("byte", "character"), [(10, "\u21b5"), (32, " "), (126, "~"), (127, "\u00b7"), (0, "\u00b7"), (200, "\u00b7")])
def test_a_byte_is_one_visible_character(byte, character):
    assert page.shown(byte) == character


def changed_stage(training_run, tmp_path, name, change):
    """A copy of the run with one stage's recipe.json or config.json changed. -> that stage"""
    shutil.copytree(training_run, tmp_path / "run")
    file = tmp_path / "run" / "sparse" / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return runs.read_run(tmp_path / "run").stages[-1]


def test_bad_input_is_refused_in_one_sentence(training_run, reference, tmp_path):
    run = runs.read_run(training_run)
    with pytest.raises(Refusal, match="no stage named sprse: it has dense, warmup, sparse"):
        page.stages_of(run, ["sprse"])
    with pytest.raises(Refusal, match="cannot be read: No such file"):
        page.window_of(tmp_path / "nothing.txt", None, T)
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(Refusal, match="must have 64 bytes from byte 4; it ends at byte 5"):
        page.window_of(tmp_path / "short.txt", None, T)
    with pytest.raises(Refusal, match="max_position_embeddings = 64"):  # the reference's own sentence
        page.look(run.stages[0], page.window_of(ALICE, 0, 65)[0], reference)
    with pytest.raises(Refusal, match="needs a stage to look at"):
        page.write([], np.zeros(T, int), "", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_stage_that_would_be_run_otherwise_than_it_was_trained_is_refused(training_run, tmp_path):
    stage = changed_stage(training_run, tmp_path, "recipe.json", lambda r: r["stage"].update(conventions={"indexer_rope": "interleaved"}))
    with pytest.raises(Refusal, match="indexer_rope switched by hand"):
        page.preset_of(stage)


def test_stages_trained_on_random_choices_are_left_out_unless_they_are_named(training_run, tmp_path):
    stage = changed_stage(training_run, tmp_path, "recipe.json", lambda r: r["stage"].update(selection="random"))
    run = runs.read_run(stage.folder.parent)
    assert [s.name for s in page.stages_of(run, [])] == ["dense", "warmup"]
    assert [s.name for s in page.stages_of(run, ["sparse"])] == ["sparse"]


def test_a_page_that_is_too_large_is_refused(looks, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LIMIT", 10_000)
    with pytest.raises(Refusal, match="choose a smaller --length, or fewer stages"):
        page.write(looks, np.zeros(T, int), "", tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
