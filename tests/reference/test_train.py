"""Does `dsa-reference train` do what its recipe says, whatever happens on the way?"""

import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("TOUCHSTONE_REFERENCE") or REPOSITORY / "build" / "dsa-reference")
ALICE = REPOSITORY / "recipes" / "text" / "alice_in_wonderland.txt"
CONFIG = {
    "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "index_n_heads": 2,
    "index_head_dim": 16, "index_topk": 8, "first_k_dense_replace": 1, "intermediate_size": 48, "n_routed_experts": 4,
    "moe_intermediate_size": 16, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
}  # fmt: skip


def recipe(**changes) -> dict:
    stage = {"kind": "dense", "learning_rate": 3e-3, "warm_up": 5}
    return {
        "version": 1, "config": CONFIG, "task": {"kind": "text", "files": [str(ALICE)]}, "length": 64, "batch": 4,
        "held_out_sequences": 3, "save_every": 3,
        "stages": [
            stage | {"name": "dense", "steps": 40},
            stage | {"name": "warmup", "kind": "warmup", "from": "dense", "steps": 12},
            stage | {"name": "sparse", "kind": "sparse", "from": "warmup", "steps": 8, "learning_rate": 1e-3},
        ],
        "evaluations": [
            {"name": "dense", "weights": "dense", "selection": "dense"},
            {"name": "sparse", "weights": "sparse", "selection": "indexer"},
        ],
    } | changes  # fmt: skip


def train(out: Path, what: dict, *more) -> subprocess.CompletedProcess:
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(what))
    command = [PROGRAM, "train", path, "--out", out, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    ran = train(out, recipe(), "--threads", "1")
    assert ran.returncode == 0, ran.stderr
    return out


def test_it_learns_in_every_stage(trained):
    log = {stage: [json.loads(line) for line in (trained / stage / "log.jsonl").read_text().splitlines()]
           for stage in ("dense", "warmup", "sparse")}  # fmt: skip
    assert [line["step"] for line in log["dense"]] == list(range(40))
    # Bytes of English, evenly guessed, cost ln 256 = 5.5 nats; their frequencies alone bring it to about 3.
    assert log["dense"][0]["loss"] > math.log(256) - 1 and log["dense"][-1]["loss"] < 3.5
    assert log["warmup"][-1]["kl"] < log["warmup"][0]["kl"]
    # In warm-up all is attended to; the recall is that of the indexer's would-be choice.
    assert 0.0 < log["warmup"][0]["recall"] < 1.0
    assert log["sparse"][-1]["captured"] > log["warmup"][0]["captured"]
    assert log["sparse"][-1]["pairs"] < 0.25


def test_each_stage_moves_its_own_weights_only(trained):
    weights = {stage: load_file(trained / stage / "model.safetensors") for stage in ("dense", "warmup", "sparse")}
    moved = lambda a, b: {n for n in weights[a] if (weights[a][n] != weights[b][n]).any()}  # noqa: E731
    indexer = {n for n in weights["dense"] if ".indexer." in n}
    assert moved("dense", "warmup") == indexer
    assert moved("warmup", "sparse") == set(weights["dense"])


def test_the_table(trained):
    rows = {row["name"]: row for row in json.loads((trained / "evaluation.json").read_text())["rows"]}
    assert rows["dense"]["pairs"] == 1.0
    # 8 of 64: 1 + ... + 7 + 8 * 57 pairs of 64 * 65 / 2
    assert rows["sparse"]["pairs"] == pytest.approx((28 + 8 * 57) / (32 * 65))
    assert 0.0 < rows["sparse"]["recall"] < 1.0
    assert rows["dense"]["answers"] == 3 * 64


def test_threads_and_interruptions_change_no_byte(trained, tmp_path):
    out = tmp_path / "out"
    path = tmp_path / "out.json"
    path.write_text(json.dumps(recipe()))
    interruptions = 0
    for stage in ("dense", "warmup"):  # killed where each has saved its state once
        running = subprocess.Popen([PROGRAM, "train", path, "--out", out, "--threads", "3"], stderr=subprocess.DEVNULL)
        while running.poll() is None and not (out / stage / "state.safetensors").exists():
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        running.wait()
        interruptions += (out / stage / "state.safetensors").exists()
    assert interruptions > 0, "the run was over before it could be killed: give it more steps"
    ran = train(out, recipe(), "--threads", "3")
    assert ran.returncode == 0, ran.stderr
    unfinished = [p for p in out.rglob("*.unfinished.*")]
    for p in unfinished:  # what a killed process was writing
        p.unlink()
    assert files(out) == files(trained)
    # And again: nothing is trained twice.
    again = train(out, recipe())
    assert "trained already" in again.stderr and files(out) == files(trained)


def test_a_seed_changes_the_weights(trained, tmp_path):
    short = recipe(evaluations=[])
    short["stages"] = short["stages"][:1]
    assert train(tmp_path / "out", short, "--seed", "2").returncode == 0
    other = load_file(tmp_path / "out" / "dense" / "model.safetensors")
    assert (other["lm_head.weight"] != load_file(trained / "dense" / "model.safetensors")["lm_head.weight"]).any()


def test_a_folder_of_another_recipe_is_left_alone(trained):
    before = files(trained)
    changed = recipe(batch=5)
    path = trained.parent / "changed.json"
    path.write_text(json.dumps(changed))
    ran = subprocess.run([PROGRAM, "train", path, "--out", trained], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "another recipe or seed" in ran.stderr
    assert files(trained) == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bach": 3}, 'has an entry "bach" that means nothing there'),
        ({"length": "long"}, '"length" in'),
        ({"length": 129}, "from 2 to 128"),
        ({"task": {"kind": "poetry"}}, 'must be one of "text", "recall"; it is "poetry"'),
        ({"task": {"kind": "text", "files": ["/nowhere.txt"]}}, "does not exist"),
        ({"task": {"kind": "recall", "pairs": 1000}}, '"pairs" must be at most'),
        ({"task": {"kind": "recall", "families": 300, "pairs": 4, "queries": 2}}, '"vocab_size"'),
        ({"stages": []}, "at least one stage"),
        ({"stages": [{"name": "a", "kind": "warmup", "from": "b", "steps": 1, "learning_rate": 1}]}, "no stage before it"),
        ({"stages": [{"name": "../a", "kind": "dense", "steps": 1, "learning_rate": 1}]}, "becomes a folder"),
        ({"stages": [{"name": "a", "kind": "dense", "steps": 0, "learning_rate": 1}]}, '"steps" in stages[0]'),
        ({"stages": [{"name": "a", "kind": "dense", "steps": 1, "learning_rate": 1, "length": 129}]}, '"length" in stages[0]'),
        ({"stages": [{"name": "a", "kind": "dense", "steps": 1, "learning_rate": 1, "task": 3}]}, "must be an object"),
        ({"stages": [{"name": "a", "kind": "dense", "steps": 1, "learning_rate": 1, "task": {"held_out": 2}}],
          "evaluations": []}, '"held_out" in task'),
        ({"stages": [{"name": "a", "kind": "dense", "steps": 1, "learning_rate": 1},
                     {"name": "b", "kind": "dense", "from": "a", "steps": 1, "learning_rate": 1, "embedding_std": 1}]}, '"embedding_std"'),
        ({"evaluations": [{"name": "a", "weights": "b", "selection": "dense"}]}, "which is no stage"),
        ({"optimizer": {"beta_1": 2}}, '"beta_1" in optimizer must be a number from 0 to 1; it is 2'),
    ],
)
def test_a_bad_recipe_is_refused_in_one_sentence(tmp_path, changes, sentence):
    ran = train(tmp_path / "out", recipe(**changes))
    assert ran.returncode == 2 and sentence in ran.stderr and ran.stderr.count("\n") == 1, ran.stderr
    assert not (tmp_path / "out").exists()


def test_recall_is_a_task_of_its_own(tmp_path):
    """Answers count, and nothing else: 2 a sequence."""
    what = recipe(
        task={"kind": "recall", "families": 2, "members": 4, "values": 4, "pairs": 4, "queries": 2},
        evaluations=[{"name": "dense", "weights": "dense", "selection": "dense"}],
    )
    what["stages"] = [what["stages"][0] | {"steps": 60}]
    ran = train(tmp_path / "out", what)
    assert ran.returncode == 0, ran.stderr
    row = json.loads((tmp_path / "out" / "evaluation.json").read_text())["rows"][0]
    assert row["answers"] == 3 * 2
    # Knowing which tokens are values at all: ln 4 instead of ln 256.
    assert row["loss"] < 2 * math.log(4)


def test_a_curriculum_has_a_task_a_length_and_a_batch_for_each_stage(tmp_path):
    """Two facts in 13 tokens are learned; then the same model answers about four in 64."""
    stage = {"kind": "dense", "learning_rate": 3e-3}
    what = recipe(
        task={"kind": "recall", "families": 2, "members": 4, "values": 4, "pairs": 4, "queries": 2},
        stages=[
            stage | {"name": "short", "steps": 30, "length": 13, "batch": 16, "embedding_std": 1.0,
                     "task": {"pairs": 2, "hint": "values", "alike": 2}},
            stage | {"name": "long", "from": "short", "steps": 3},
        ],
        evaluations=[{"name": stage, "weights": stage, "selection": "dense"} for stage in ("short", "long")],
    )  # fmt: skip
    ran = train(tmp_path / "out", what)
    assert ran.returncode == 0, ran.stderr
    log = [json.loads(line) for line in (tmp_path / "out" / "short" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] / 2
    # Embeddings of deviation 1, not 0.1: they have moved by 30 steps of 3e-3 at most.
    assert 0.8 < load_file(tmp_path / "out" / "short" / "model.safetensors")["model.embed_tokens.weight"].std() < 1.2
    # Evaluations are of the recipe's own task: 2 questions a sequence.
    assert all(row["answers"] == 3 * 2 for row in json.loads((tmp_path / "out" / "evaluation.json").read_text())["rows"])
    # Another task of a stage is another stage.
    what["stages"][0]["task"]["alike"] = 1
    what["stages"][0]["task"]["pairs"] = 1
    what["stages"][0]["task"]["queries"] = 1
    ran = train(tmp_path / "out", what)
    assert ran.returncode == 2 and "another recipe" in ran.stderr
