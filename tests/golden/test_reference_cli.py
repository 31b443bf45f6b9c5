"""dsa-reference as its users meet it: files in, files out, and one sentence for what cannot be used."""

from __future__ import annotations

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from conftest import TINY
from safetensors.numpy import load_file, save_file


def model(run, folder, out="out", *more, tokens="tokens.npy", weights=None, config="config.json"):
    weights = weights or folder / "model.safetensors"
    return run("model", "--config", folder / config, "--weights", weights, "--tokens", folder / tokens, "--out", folder / out, *more)


def load(folder, name):
    return np.load(folder / f"{name}.npy")


def refused(result, *parts):
    assert result.returncode == 2, (result.returncode, result.stderr)
    assert result.stderr.count("\n") == 1, result.stderr  # one sentence
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.mark.parametrize("tier", ["exact", "deployed"])
def test_cached_decode_equals_one_uncached_pass(run, tiny, tier):
    decoded = 9
    assert model(run, tiny, "out", "--tier", tier, "--decode", decoded).returncode == 0
    tokens = load(tiny, "tokens")
    new = load(tiny / "out", "decode_tokens")
    logits = load(tiny / "out", "decode_logits")
    assert new.shape == (2, decoded) and logits.shape == (2, decoded, 61)
    assert np.array_equal(logits.argmax(-1), new)
    np.save(tiny / "longer.npy", np.concatenate([tokens, new], 1).astype(np.int32))
    assert model(run, tiny, "whole", "--tier", tier, tokens="longer.npy").returncode == 0
    whole = load(tiny / "whole", "logits")
    assert np.array_equal(whole[:, 19 : 19 + decoded], logits)
    assert np.array_equal(whole[:, :20], load(tiny / "out", "logits"))


def test_outputs_have_their_shapes_and_dtypes(run, tiny):
    assert model(run, tiny, "out", "--trace", "indexer_logits", "topk_indices", "expert_ids").returncode == 0
    names = {p.stem for p in (tiny / "out").iterdir()}
    traced = {f"layer_{i}.{s}" for i in range(3) for s in ("indexer_logits", "topk_indices")} | {"layer_1.expert_ids", "layer_2.expert_ids"}
    assert names == {"logits", "hidden_0", "hidden_1", "hidden_2", "hidden_3"} | traced
    assert load(tiny / "out", "logits").shape == (2, 20, 61)
    assert load(tiny / "out", "hidden_3").dtype == np.float64
    indices = load(tiny / "out", "layer_0.topk_indices")
    assert indices.shape == (2, 20, 6) and indices.dtype == np.int32
    assert (indices[:, 0] == [0, -1, -1, -1, -1, -1]).all()
    logits = load(tiny / "out", "layer_0.indexer_logits")
    assert np.isneginf(logits[0][np.triu_indices(20, 1)]).all()


def test_both_forms_of_rotary_settings_mean_the_same(run, tiny):
    newer = {k: v for k, v in TINY.items() if k not in ("rope_theta", "rope_scaling")}
    newer["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 10000.0, **{k: v for k, v in TINY["rope_scaling"].items() if k != "type"}}
    (tiny / "newer.json").write_text(json.dumps(newer))
    assert model(run, tiny, "out").returncode == 0
    assert model(run, tiny, "newer", config="newer.json").returncode == 0
    assert np.array_equal(load(tiny / "out", "logits"), load(tiny / "newer", "logits"))
    plain = {k: v for k, v in TINY.items() if k != "rope_scaling"}
    (tiny / "plain.json").write_text(json.dumps(plain))
    assert model(run, tiny, "plain", config="plain.json").returncode == 0
    assert not np.array_equal(load(tiny / "out", "logits"), load(tiny / "plain", "logits"))


def test_shards_and_float32_weights_give_the_same(run, tiny):
    weights = load_file(tiny / "model.safetensors")
    names = sorted(weights)
    shards = tiny / "shards"
    shards.mkdir()
    save_file({n: weights[n].astype(np.float32) for n in names[::2]}, shards / "a.safetensors")
    save_file({n: weights[n] for n in names[1::2]}, shards / "b.safetensors")
    index = {n: "a.safetensors" if i % 2 == 0 else "b.safetensors" for i, n in enumerate(names)}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert model(run, tiny, "out").returncode == 0
    assert model(run, tiny, "sharded", weights=shards).returncode == 0
    assert np.array_equal(load(tiny / "out", "logits"), load(tiny / "sharded", "logits"))


def test_fp8_weights_are_their_blocks_times_their_scales(run, tiny):
    weights = load_file(tiny / "model.safetensors")
    quantised, plain = dict(weights), dict(weights)
    for name in weights:
        if "mlp.experts" not in name and "o_proj" not in name:
            continue
        scale = np.full([-(-n // 128) for n in weights[name].shape], 0.25, np.float32)
        e4m3 = (weights[name].astype(np.float32) * 64).astype(ml_dtypes.float8_e4m3fn)
        quantised[name], quantised[name + "_scale_inv"] = e4m3, scale
        plain[name] = e4m3.astype(np.float32) * np.float32(0.25)
    save_file(quantised, tiny / "fp8.safetensors")
    save_file(plain, tiny / "plain.safetensors")
    assert model(run, tiny, "fp8", weights=tiny / "fp8.safetensors").returncode == 0
    assert model(run, tiny, "plain", weights=tiny / "plain.safetensors").returncode == 0
    # In the exact tier nothing is quantised: the two are the same numbers.
    assert np.array_equal(load(tiny / "fp8", "logits"), load(tiny / "plain", "logits"))
    # In the deployed tier activations are quantised where weights are.
    for name in ("fp8", "plain"):
        assert model(run, tiny, name, "--tier", "deployed", weights=tiny / f"{name}.safetensors").returncode == 0
    assert not np.array_equal(load(tiny / "fp8", "logits"), load(tiny / "plain", "logits"))
    del quantised["model.layers.1.mlp.experts.0.up_proj.weight_scale_inv"]
    save_file(quantised, tiny / "unscaled.safetensors")
    refused(model(run, tiny, "x", weights=tiny / "unscaled.safetensors"), "needs its block scales", "up_proj.weight_scale_inv")


def test_conventions_change_what_they_say(run, tiny):
    results = {}
    for preset in ("deepseek-v3.2-exp", "deepseek-v3.2", "transformers", "vllm", "sglang", "flashmla"):
        assert model(run, tiny, preset, "--tier", "deployed", "--conventions", preset).returncode == 0
        results[preset] = load(tiny / preset, "logits")
        assert np.isfinite(results[preset]).all()
    assert not np.array_equal(results["deepseek-v3.2-exp"], results["deepseek-v3.2"])
    assert not np.array_equal(results["deepseek-v3.2-exp"], results["transformers"])


def test_bad_input_is_refused_by_one_sentence(run, tiny):
    refused(model(run, tiny, "x", "--conventions", "v3"), 'no preset of conventions named "v3"', "deepseek-v3.2-exp")
    refused(model(run, tiny, "x", "--trace", "c_x"), 'no stage named "c_x"', "indexer_logits")
    refused(model(run, tiny, "x", weights=tiny / "none.safetensors"), "does not exist")
    np.save(tiny / "bad.npy", np.array([[3, 61]], np.int32))
    refused(model(run, tiny, "x", tokens="bad.npy"), "tokens[1] must be between 0 and 60", "it is 61")
    np.save(tiny / "bad.npy", np.zeros((2, 2, 2), np.int32))
    refused(model(run, tiny, "x", tokens="bad.npy"), "[T] or [B, T]", "[2, 2, 2]")
    np.save(tiny / "bad.npy", np.zeros((1, 0), np.int32))
    refused(model(run, tiny, "x", tokens="bad.npy"), "at least one")
    np.save(tiny / "bad.npy", np.zeros(3, np.float32))
    refused(model(run, tiny, "x", tokens="bad.npy"), "int32", "float32")
    np.save(tiny / "bad.npy", np.zeros(200, np.int32))
    refused(model(run, tiny, "x", tokens="bad.npy"), "max_position_embeddings = 128", "200")
    for change, parts in {
        "hidden_size": (None, ['must have "hidden_size"']),
        "index_head_dim": (24, ["power of two", "24"]),
        "qk_rope_head_dim": (7, ["must be even", "7"]),
        "num_hidden_layers": ("three", ["whole number", "three"]),
        "kv_lora_rank": (64, ["must have shape", "kv_a_proj_with_mqa"]),
        "scoring_func": ("softmax", ['must be "sigmoid"', "softmax"]),
    }.items():
        value, words = parts
        broken = {**TINY, change: value}
        (tiny / "broken.json").write_text(json.dumps(broken))
        refused(model(run, tiny, "x", config="broken.json"), *words)
    (tiny / "broken.json").write_text("{")
    refused(model(run, tiny, "x", config="broken.json"), "broken.json")
    short = (tiny / "model.safetensors").read_bytes()[:-7]
    (tiny / "short.safetensors").write_bytes(short)
    refused(model(run, tiny, "x", weights=tiny / "short.safetensors"), "short.safetensors")
    weights = load_file(tiny / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tiny / "missing.safetensors")
    refused(model(run, tiny, "x", weights=tiny / "missing.safetensors"), "model.norm.weight")
    assert not (tiny / "x").exists()  # nothing half-written


CASE = {"version": 1, "op": "top_k", "tier": "deployed", "seed": 3, "conventions": "deepseek-v3.2-exp", "parameters": {"topk": 4},
        "tensors": {"logits": {"dtype": "float32", "shape": [2, 9]}, "start": {"dtype": "int32", "shape": [2]},
                    "end": {"dtype": "int32", "shape": [2]}}}  # fmt: skip


@pytest.fixture
def case(tmp_path):
    """write(case) -> IN_DIR with arrays beside it."""

    def write(description=CASE, **arrays):
        folder = tmp_path / "in"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "case.json").write_text(json.dumps(description))
        logits = np.arange(18, dtype=np.float32).reshape(2, 9)
        for name, array in {"logits": logits, "start": np.zeros(2, np.int32), "end": np.full(2, 9, np.int32), **arrays}.items():
            np.save(folder / f"{name}.npy", array)
        return folder

    return write


def test_op_takes_anybodys_inputs(run, case, tmp_path):
    out = tmp_path / "out"
    assert run("op", "top_k", case(), out).returncode == 0
    assert load(out, "indices").tolist() == [[5, 6, 7, 8]] * 2
    assert [p.name for p in out.iterdir()] == ["indices.npy"]
    assert run("op", "top_k", case(logits=np.zeros((2, 9))), out).returncode == 0  # float64 is taken as it is
    assert load(out, "indices").tolist() == [[0, 1, 2, 3]] * 2


def test_op_refuses_what_it_cannot_use(run, case, tmp_path):
    out = tmp_path / "out"

    def top_k(folder):
        return run("op", "top_k", folder, out)

    assert run("op", "top_j", case(), out).returncode == 77
    refused(run("op", "rope", case(), out), "is for the op top_k, not rope")
    refused(top_k(tmp_path / "nowhere"), "does not exist")
    refused(top_k(case(logits=np.zeros((2, 8), np.float32))), "logits", "[2, 9]", "[2, 8]")
    refused(top_k(case(end=np.array([9, 10], np.int32))), "end", "from 0 to 9", "is 10")
    refused(top_k(case(logits=np.full((2, 9), np.nan, np.float32))), "logits[0, 0] is NaN")
    refused(top_k(case(start=np.zeros(2, np.float32))), "start", "int32", "float32")
    refused(top_k(case({**CASE, "parameters": {}})), "needs the parameter topk")
    refused(top_k(case({**CASE, "parameters": {"topk": 0}})), "whole number above 0")
    refused(top_k(case({**CASE, "parameters": {"topk": 4, "top_k": 5}})), "takes no parameter named top_k")
    refused(top_k(case({**CASE, "version": 2})), '"version": 1')
    refused(top_k(case({**CASE, "seed": -1})), '"seed"')
    refused(top_k(case({**CASE, "conventions": {"lse": "e"}})), "lse must be one of natural, base2")
    extra = {**CASE, "tensors": {**CASE["tensors"], "weights": {"dtype": "float32", "shape": [2]}}}
    refused(top_k(case(extra, weights=np.zeros(2, np.float32))), "takes no tensor named weights")
    missing = {**CASE, "tensors": {k: v for k, v in CASE["tensors"].items() if k != "end"}}
    refused(top_k(case(missing)), "needs a tensor named end")
    folder = case()
    (folder / "logits.npy").write_bytes((folder / "logits.npy").read_bytes()[:-4])
    refused(top_k(folder), "logits.npy")
    assert not out.exists()


def test_usage_errors_are_exit_2(run):
    assert run("op", "top_k").returncode == 2
    assert run("frobnicate").returncode == 2
    assert run("--help").returncode == 0
    assert "top_k -> indices" in run("ops").stdout
