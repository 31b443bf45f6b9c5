"""Do the pictures of a training run show what its logs say?"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

import pytest

from touchstone import Refusal, curves, runs


@pytest.fixture(scope="module")
def run(training_run):
    return runs.read_run(training_run)


def test_a_run_is_read_in_the_order_of_its_stages(run):
    assert [(s.name, s.kind, s.first, len(s.log)) for s in run.stages] == [
        ("dense", "dense", 0, 60), ("warmup", "warmup", 60, 20), ("sparse", "sparse", 80, 10),
    ]  # fmt: skip
    assert [row["name"] for row in run.rows] == ["dense", "sparse"]


def test_each_panel_draws_the_log(run):
    figure = curves.draw_curves(run)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    drawn = {title: {tuple(x): list(y) for line in axes.lines for x, y in [line.get_data()]} for title, axes in panels.items()}
    for stage in run.stages:
        steps = tuple(range(stage.first, stage.first + stage.steps))
        thick = drawn["Loss of the main model"][steps]
        assert thick == list(curves.smoothed([line["loss"] for line in stage.log]))
        assert (steps in drawn["KL of the indexer"]) == (stage.name != "dense")
        assert steps in drawn["Learning rates"]  # somebody learns in every stage
    knows = [label.get_text() for label in panels["What the indexer knows"].get_legend().get_texts()]
    assert len(knows) == 2
    measured = tuple(step for step, line in enumerate(run.stages[1].log, 60) if "recall" in line)
    assert drawn["What the indexer knows"][measured] == [line["recall"] for line in run.stages[1].log if "recall" in line]
    warmup = run.stages[1]
    assert drawn["Learning rates"][tuple(range(60, 80))] == pytest.approx([line["rate"] for line in warmup.log])  # the indexer's own peak is the same
    for axes in figure.axes:
        assert axes.get_xlabel() == "step" and axes.get_ylabel()


def test_an_indexers_rate_follows_its_own_peak(run):
    """Half the main model's, in a stage in which both learn."""
    sparse = run.stages[2]
    halved = runs.Stage(sparse.folder, sparse.settings | {"indexer_learning_rate": sparse.settings["learning_rate"] / 2}, sparse.log, 80)
    axes = next(a for a in curves.draw_curves(runs.Run(run.folder, [halved], [])).axes if a.get_title(loc="left") == "Learning rates")
    main, indexer = (list(line.get_ydata()) for line in axes.lines)
    assert indexer == pytest.approx([rate / 2 for rate in main])


def test_a_mean_near_an_end_is_over_the_steps_that_there_are():
    assert list(curves.smoothed([1.0] * 400)) == pytest.approx([1.0] * 400)
    values = list(range(400))  # the window is 10 steps: 5 before, 4 after
    assert curves.smoothed(values)[200] == pytest.approx(sum(range(195, 205)) / 10)


def test_the_bars_are_the_table(run):
    figure = curves.draw_parity(run)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["dense", "sparse"]
    for axes, entry in zip(figure.axes, ("loss", "accuracy", "recall", "pairs")):
        assert [bar.get_width() for bar in axes.patches] == [row[entry] for row in run.rows]


def test_the_command_writes_pictures_that_are_the_same_again(run, training_run, tmp_path):
    command = [sys.executable, "-m", "touchstone.cli", "curves", training_run, "--out", tmp_path / "a"]
    subprocess.run(command, check=True, capture_output=True)
    curves.write(run, tmp_path / "b")
    names = ["curves.png", "curves.svg", "parity.png", "parity.svg"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names
    for name in names:
        picture = (tmp_path / "a" / name).read_bytes()
        assert picture == (tmp_path / "b" / name).read_bytes()
        if name.endswith("svg"):
            assert len(list(xml.fromstring(picture).iter("{http://www.w3.org/2000/svg}path"))) > 50
        else:
            assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_without_matplotlib_one_sentence_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Refusal, match=r"pip install 'touchstone\[pictures\]'"):
        curves.write(run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(Refusal, match="holds no stage of training"):
        runs.read_run(tmp_path)


def test_a_log_that_is_cut_is_refused_with_its_line(training_run, tmp_path):
    shutil.copytree(training_run, tmp_path / "run")
    log = tmp_path / "run" / "warmup" / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    with pytest.raises(Refusal, match=r"line 20 of .*log.jsonl must be a JSON object"):
        runs.read_run(tmp_path / "run")


def test_a_table_without_an_entry_is_refused(training_run, tmp_path):
    shutil.copytree(training_run, tmp_path / "run")
    table = tmp_path / "run" / "evaluation.json"
    content = json.loads(table.read_text())
    del content["rows"][1]["recall"]
    table.write_text(json.dumps(content))
    with pytest.raises(Refusal, match=r"each row of .*evaluation.json must have .*; one has no recall"):
        runs.read_run(tmp_path / "run")
    table.unlink()
    assert runs.read_run(tmp_path / "run").rows == []


def test_stages_that_start_from_one_another_are_refused(tmp_path):
    for name, other in ("ab", "ba"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(json.dumps({"stage": {"name": name, "kind": "warmup", "steps": 1, "from": other}}))
    with pytest.raises(Refusal, match="the stages a, b .* start from one another"):
        runs.read_run(tmp_path)
