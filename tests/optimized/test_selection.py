"""Is a selection exact where kernels lose winners: full buffers, long ties, odd beginnings, NaN? On the simulator."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from touchstone import dtypes

PROGRAM = Path(os.environ.get("TOUCHSTONE_SIMULATED") or Path(__file__).resolve().parents[2] / "build" / "dsa-simulated")
LEVELS = (1, 2)
TOP_K_LEVELS = (1, 2, 3, 4, 5)
PRESET = {"preset": "deepseek-v3.2-exp"}


def ran(folder: Path, op: str, level: int, tensors: dict, parameters: dict, conventions: dict):
    """The program on tensors {name: (array in storage, dtype)}."""
    if not PROGRAM.is_file():
        pytest.skip(f"{PROGRAM} is not built: cmake --build build --target dsa-simulated")
    inputs = folder / f"{op}_{level}_in"
    inputs.mkdir(exist_ok=True)
    description = {"version": 1, "op": op, "tier": "deployed", "conventions": PRESET | conventions,
                   "parameters": parameters, "tensors": {}}  # fmt: skip
    for name, (array, dtype) in tensors.items():
        np.save(inputs / f"{name}.npy", array)
        description["tensors"][name] = {"dtype": dtype, "shape": list(array.shape)}
    (inputs / "case.json").write_text(json.dumps(description))
    out = folder / f"{op}_{level}_out"
    command = [PROGRAM, "op", op, inputs, out, "--level", str(level), "--runs", "2"]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=300)


def answer(folder, op, level, tensors, parameters, conventions, output):
    """One output of a run that must succeed."""
    out, run = ran(folder, op, level, tensors, parameters, conventions)
    assert run.returncode == 0, run.stderr
    return np.load(out / f"{output}.npy")


def best(scores, start, end, k):
    """The right answer by a full sort. scores [T, S] -> int32 [T, k]"""
    rows = np.full((len(scores), k), -1, np.int32)
    for t, row in enumerate(scores):
        candidates = np.arange(max(start[t], 0), min(end[t], len(row)))
        order = np.lexsort((candidates, -(row[candidates].astype(np.float64) + 0.0)))[:k]
        rows[t, : len(order)] = np.sort(candidates[order])
    return rows


def rows_for_top_k(scores, start, end) -> dict:
    """top_k's tensors"""
    ranges = {"start": start, "end": end}
    return {"logits": (scores.astype(np.float32), "float32")} | {
        name: (np.asarray(values, np.int32), "int32") for name, values in ranges.items()
    }


def near(count: int, generator) -> np.ndarray:
    """Scores that share their first 22 bits of order."""
    return (np.float32(1.5).view(np.uint32) + generator.integers(0, 1 << 10, count).astype(np.uint32)).view(np.float32)


@pytest.mark.parametrize("level", TOP_K_LEVELS)
def test_top_k_is_a_full_sort(tmp_path, level):
    """Rows longer than what level 2 keeps on chip (8192), of every kind that makes it look at another digit."""
    generator = np.random.default_rng(11)
    S, k = 16_001 if level == 3 else 19_001, 3001
    normal = generator.normal(size=S)
    scores = np.stack([
        normal,
        np.zeros(S),  # every key the same: all digits, and no list
        near(S, generator),  # two digits tell nothing
        np.where(normal > 1.5, normal + 1, generator.uniform(1, 1.24, S)),  # one digit leaves more than 8192
        np.round(normal * 2) / 2,  # long ties on both sides of 0, and -0.0
        -np.abs(normal) * 1e30,
    ])  # fmt: skip
    start = np.array([0, 1, 2, 3, 5, 0])
    end = np.array([S, S, S - 1, S - 2, S, S - 3])
    indices = answer(tmp_path, "top_k", level, rows_for_top_k(scores, start, end), {"topk": k}, {}, "indices")
    np.testing.assert_array_equal(indices, best(scores.astype(np.float32), start, end, k))


@pytest.mark.parametrize("level", (1, 2, 3, 4))
def test_top_k_of_more_than_fit_on_chip(tmp_path, level):
    """k itself is larger than level 2's list; ranges reach over the row's ends."""
    generator = np.random.default_rng(12)
    S, k = 12_003, 9001
    scores = np.stack([generator.normal(size=S), generator.integers(0, 3, S)]).astype(np.float32)
    start, end = np.array([-4, 2]), np.array([S + 9, S])
    indices = answer(tmp_path, "top_k", level, rows_for_top_k(scores, start, end), {"topk": k}, {}, "indices")
    np.testing.assert_array_equal(indices, best(scores, start, end, k))


@pytest.mark.parametrize("level", TOP_K_LEVELS)
@pytest.mark.parametrize("k", (3, 500))
def test_nan_is_an_error_with_its_place_or_ranks_last(tmp_path, level, k):
    """Also where there is nothing to choose; a NaN outside the range is nobody's."""
    scores = np.random.default_rng(13).normal(size=(3, 301))
    scores[0, 0] = scores[1, [70, 44]] = np.nan
    tensors = rows_for_top_k(scores, np.array([1, 2, 0]), np.array([300, 301, 301]))
    _, run = ran(tmp_path, "top_k", level, tensors, {"topk": k}, {})
    assert run.returncode == 2
    assert "logits[1, 44] is NaN" in run.stderr
    indices = answer(tmp_path, "top_k", level, tensors, {"topk": k}, {"nan_scores": "-inf"}, "indices")
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    np.testing.assert_array_equal(indices, best(ranked, [1, 2, 0], [300, 301, 301], k))


@pytest.mark.parametrize("nan_scores", ("error", "-inf"))
def test_top_k_of_rows_whose_sample_misleads(tmp_path, nan_scores):
    """Level 5 guesses from 256 pieces of 16 scores: it may keep too few, or more than there is room for."""
    generator = np.random.default_rng(18)
    S, k = 19_000, 3001
    sampled = (S // 16 * np.arange(256) // 256 * 16)[:, None] + np.arange(16)
    scores = generator.uniform(-1, 1, (6, S))
    scores[0, sampled[::2]] += 10  # half of the sample: fewer than k reach what it tells
    scores[1, sampled] -= 10  # all else is better, and more than fits
    scores[2] = np.arange(S) - 5000  # each is better than all before
    scores[3] = -scores[2]
    scores[4, sampled] += 10  # ties at the guess itself
    scores[4] = np.round(scores[4])
    scores[5, ::100] = 1e30  # the guess lies many octaves below the largest of the sample
    if nan_scores == "-inf":
        scores[:, 7::9] = np.nan
    start, end = np.array([0, 1, 2, 3, 0, 5]), np.full(6, S)
    tensors = rows_for_top_k(scores, start, end)
    indices = answer(tmp_path, "top_k", 5, tensors, {"topk": k}, {"nan_scores": nan_scores}, "indices")
    ranked = np.where(np.isnan(scores), -np.inf, scores).astype(np.float32)
    np.testing.assert_array_equal(indices, best(ranked, start, end, k))


DECLINED = {
    3: (16_385, 9, "a block holds rows of up to 16384 scores; these have 16385"),
    4: (131_073, 9, "a cluster holds rows of up to 131072 scores; these have 131073"),
    5: (5000, 4097, "there is room for a k of up to 4096; it is 4097"),
}


@pytest.mark.parametrize("level", DECLINED)
def test_a_level_of_top_k_declines_what_it_has_no_room_for(tmp_path, level):
    """With its sentence."""
    S, k, sentence = DECLINED[level]
    _, run = ran(tmp_path, "top_k", level, rows_for_top_k(np.zeros((1, S)), [0], [S]), {"topk": k}, {})
    assert run.returncode == 77
    assert sentence in run.stderr


def scoring_tensors(T: int, S: int, H_I: int, generator) -> dict:
    """The indexer's inputs; sparse queries, so that many scores are exactly 0."""
    q = np.where(generator.random((T, H_I, 64)) < 0.1, generator.normal(size=(T, H_I, 64)) * 40, 0)
    k = np.where(generator.random((S, 64)) < 0.1, generator.normal(size=(S, 64)) * 40, 0)
    start = np.minimum(generator.integers(-3, 90, T), S).astype(np.int32)
    end = generator.integers(S // 2, S + 4, T).astype(np.int32)
    start[1], end[1] = 50, 50  # no candidate
    return {
        "q": (dtypes.to_e4m3(q), "float8_e4m3"),
        "k": (dtypes.to_e4m3(k), "float8_e4m3"),
        "k_scale": (generator.uniform(0.01, 0.02, S).astype(np.float32), "float32"),
        "weights": (generator.normal(size=(T, H_I)).astype(np.float32), "float32"),
        "start": (start, "int32"),
        "end": (end, "int32"),
    }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scores", ("float32", "bf16"))
def test_fused_selection_is_that_of_the_same_levels_logits(tmp_path, level, scores):
    """Candidates are cut to k several times; ties at the threshold must not let a later key in."""
    generator = np.random.default_rng(14)
    tensors = scoring_tensors(6, 1500, 3, generator)
    conventions = {"indexer_scores": scores}
    logits = answer(tmp_path, "indexer_logits", level, tensors, {}, conventions, "logits")
    assert (logits == 0).sum() > 500  # ties there are
    indices = answer(tmp_path, "indexer_top_k", level, tensors, {"topk": 150}, conventions, "indices")
    start, end = tensors["start"][0], tensors["end"][0]
    np.testing.assert_array_equal(indices, best(logits, start, end, 150))


HOPPER = {"fp8_sums": "hopper"}


def directed(scores, D_I: int = 64, T: int = 9) -> dict:
    """The indexer's inputs whose every query has these scores [S]: one head, q . k = 1, and k_scale does the rest."""
    S = len(scores)  # of 9 queries a warpgroup has its 8 of the 16, and the other has one
    one = np.zeros((T, 2, D_I))  # level 3 takes heads in pairs: the second adds nothing
    one[:, 0, 0] = 1
    key = np.zeros((S, D_I))
    key[:, 0] = 1
    return {
        "q": (dtypes.to_e4m3(one), "float8_e4m3"),
        "k": (dtypes.to_e4m3(key), "float8_e4m3"),
        "k_scale": (np.asarray(scores, np.float32), "float32"),
        "weights": (np.ones((T, 2), np.float32), "float32"),
        "start": (np.zeros(T, np.int32), "int32"),
        "end": (np.full(T, S, np.int32), "int32"),
    }


def hard_rows(S: int) -> dict:
    """Rows that fill level 3's columns: 32 a query, of the keys that are alike modulo 64 (but for 8)."""
    generator = np.random.default_rng(19)
    order = np.arange(S, dtype=np.float32)
    stretch = max(S // 128, 1)
    sampled = np.arange(128) * stretch + np.arange(128) * 40503 % stretch
    sampled = sampled[sampled < S]
    high, low, nans = (generator.normal(size=S) for _ in range(3))
    high[sampled[::2]] += 10
    low[sampled] -= 10
    nans[7::9] = np.nan
    crowded = generator.normal(size=S)
    crowded[5::64] += np.arange(len(crowded[5::64])) + 10  # the best are all of one column, each better than the last
    return {
        "ascending": order,
        "descending": -order,
        "all equal": np.full(S, 0.25),
        "all 0": np.zeros(S),
        "two values": generator.integers(0, 2, S),
        "a crowded column": crowded,
        "a crowded bin": near(S, generator),
        "-inf": np.where(generator.random(S) < 0.95, -np.inf, crowded),
        "normal": generator.normal(size=S),
        "a sample that is too good": high,
        "a sample that is too bad": low,
        "many NaN": nans,
    }


@pytest.mark.parametrize("row", hard_rows(64))
def test_columns_of_candidates_lose_nothing(tmp_path, row):
    """Level 3 cuts each query's columns several times, whatever comes; ranges begin and end anywhere."""
    S, k = 1601, 40
    tensors = directed(hard_rows(S)[row])
    scores = tensors["k_scale"][0]
    start, end = tensors["start"][0], tensors["end"][0]
    start[:] = [0, 1, 63, 64, 65, 0, 700, 1550, 7]
    end[:] = [S, S, S - 1, 1599, 1000, 41, 741, S, S]
    indices = answer(tmp_path, "indexer_top_k", 3, tensors, {"topk": k}, HOPPER | {"nan_scores": "-inf"}, "indices")
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    np.testing.assert_array_equal(indices, best(np.tile(ranked, (9, 1)), start, end, k))


@pytest.mark.parametrize("row", ("a long column", "a sample that is too bad", "two values", "a few equal", "normal"))
def test_candidates_beyond_the_registers_are_chosen_from_too(tmp_path, row):
    """Two groups, so that a query has one run or two; columns of more rows than the threads that choose have registers."""
    S, k = 1601, 256
    rows = hard_rows(S)
    crowded = rows["a crowded column"].copy()
    crowded[13::64] += np.arange(len(crowded[13::64])) + 10  # two of each tile, in the same column
    rows |= {"a long column": crowded, "a few equal": np.round(rows["normal"], 2)}
    tensors = directed(rows[row], T=17)
    tensors["end"][0][3] = S - 7
    indices = answer(tmp_path, "indexer_top_k", 3, tensors, {"topk": k}, HOPPER, "indices")
    scores = np.tile(tensors["k_scale"][0], (17, 1))
    np.testing.assert_array_equal(indices, best(scores, tensors["start"][0], tensors["end"][0], k))


@pytest.mark.parametrize("H_I", (6, 20, 64))
@pytest.mark.parametrize(("scores", "level"), (("float32", 3), ("bf16", 4)))
def test_fused_selection_by_wgmma_is_that_of_its_logits(tmp_path, scores, level, H_I):
    """One or two queries a thread, packed sequences, a query without keys."""
    tensors = scoring_tensors(37, 1500, H_I, np.random.default_rng(20))
    conventions = {"indexer_scores": scores} | HOPPER
    logits = answer(tmp_path, "indexer_logits", 4, tensors, {}, conventions, "logits")
    indices = answer(tmp_path, "indexer_top_k", level, tensors, {"topk": 50}, conventions, "indices")
    np.testing.assert_array_equal(indices, best(logits, tensors["start"][0], tensors["end"][0], 50))


def test_rounded_scores_are_not_kept_while_scored(tmp_path):
    """Level 3 has no kernel for scores that are rounded to bf16, and says so."""
    tensors = scoring_tensors(5, 400, 2, np.random.default_rng(22))
    _, run = ran(tmp_path, "indexer_top_k", 3, tensors, {"topk": 20}, {"indexer_scores": "bf16"} | HOPPER)
    assert run.returncode != 0
    assert "scores must be float32" in run.stderr


@pytest.mark.parametrize(("T", "H_I"), ((37, 3), (37, 64), (3, 20)))
def test_fused_selection_in_strips_is_that_of_its_logits(tmp_path, T, H_I):
    """Several strips of different lengths, a query without keys in the first; few queries have a level of their own."""
    tensors = scoring_tensors(T, 700, H_I, np.random.default_rng(21))
    logits = answer(tmp_path, "indexer_logits", 4, tensors, {}, HOPPER, "logits")
    indices = answer(tmp_path, "indexer_top_k", 4, tensors, {"topk": 50}, HOPPER, "indices")
    np.testing.assert_array_equal(indices, best(logits, tensors["start"][0], tensors["end"][0], 50))


@pytest.mark.parametrize("level", (3, 4))
@pytest.mark.parametrize("nan_scores", ("error", "-inf"))
def test_fused_selection_by_wgmma_keeps_a_nan(tmp_path, nan_scores, level):
    """The first of a row is told, though better candidates have long displaced it; or it ranks last."""
    S, k = 1500, 40
    scores = np.arange(S, dtype=np.float32)
    scores[[7, 8, 900, 1400]] = np.nan
    scores[1000:1400:3] = np.nan
    tensors = directed(scores)
    tensors["start"][0][:] = [8, 9, 0, 901, 1000, 0, 0, 0, 0]
    tensors["end"][0][-1] = 7
    out, run = ran(tmp_path, "indexer_top_k", level, tensors, {"topk": k}, HOPPER | {"nan_scores": nan_scores})
    if nan_scores == "error":
        assert run.returncode == 2
        assert "logits[0, 8] is NaN" in run.stderr
        return
    assert run.returncode == 0, run.stderr
    ranked = np.tile(np.where(np.isnan(scores), -np.inf, scores), (9, 1))
    right = best(ranked, tensors["start"][0], tensors["end"][0], k)
    np.testing.assert_array_equal(np.load(out / "indices.npy"), right)


@pytest.mark.parametrize("level", LEVELS)
def test_fused_selection_tells_a_nan(tmp_path, level):
    """A key whose scale is NaN, seen by the last query only."""
    tensors = scoring_tensors(5, 400, 2, np.random.default_rng(15))
    tensors["k_scale"][0][333] = np.nan
    tensors["end"][0][:] = [300, 50, 300, 300, 400]
    _, run = ran(tmp_path, "indexer_top_k", level, tensors, {"topk": 20}, {})
    assert run.returncode == 2
    assert "logits[4, 333] is NaN" in run.stderr


def paged_tensors() -> dict:
    """One request of 130 tokens in 3 pages of the 4 that there are."""
    generator = np.random.default_rng(16)
    pages = np.zeros((4, 64 * 68), np.uint8)
    pages[:, : 64 * 64] = dtypes.to_e4m3(generator.normal(size=(4, 64 * 64)) * 30)
    pages[:, 64 * 64 :] = np.full((4, 64), 0.5, np.float32).view(np.uint8)
    return {
        "q": (dtypes.to_e4m3(generator.normal(size=(1, 1, 2, 64)) * 30), "float8_e4m3"),
        "k_pages": (pages, "uint8"),
        "block_table": (np.array([[2, 0, 3]], np.int32), "int32"),
        "context_lens": (np.array([130], np.int32), "int32"),
        "weights": (np.ones((1, 2), np.float32), "float32"),
    }


@pytest.mark.parametrize("level", LEVELS)
def test_a_page_that_is_not_there_is_not_read(tmp_path, level):
    """Its scores are NaN, and those of other pages are as before."""
    tensors = paged_tensors()
    right = answer(tmp_path, "indexer_logits_paged", level, tensors, {}, {}, "logits")
    for wrong in (-1, 4, 2**31 - 1):
        tensors["block_table"][0][0, 1] = wrong
        logits = answer(tmp_path, "indexer_logits_paged", level, tensors, {}, {}, "logits")
        assert np.isnan(logits[0, 64:128]).all()
        np.testing.assert_array_equal(np.delete(logits, np.s_[64:128], 1), np.delete(right, np.s_[64:128], 1))


SENTENCES = {
    "top_k without k": ("top_k", {}, "the size topk of the axis topk is not known"),
    "rope beyond the vector": ("indexer_project", {"d_rope": 80}, "d_rope must be at most D_I = 64; it is 80"),
    "an odd rope": ("indexer_project", {"d_rope": 33}, "must be even"),
    "pages of rows": ("indexer_logits_paged", {}, "a page of k_pages must have 64 (D_I + 4) = 4352 bytes"),
    "heads that differ": ("indexer_top_k", {"topk": 4}, "axis 1 of k, D_I, must be 64"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_bad_calls_get_their_sentence(tmp_path, name):
    """And nothing is written."""
    op, parameters, sentence = SENTENCES[name]
    zeros = lambda *shape: np.zeros(shape, np.uint16)  # noqa: E731
    if op == "top_k":
        tensors = rows_for_top_k(np.zeros((1, 8)), [0], [8])
    elif op == "indexer_project":
        shapes = {"x": (1, 16), "c_q": (1, 16), "W_qI": (16, 2, 64), "W_kI": (16, 64), "W_w": (16, 2)}
        tensors = {name: (zeros(*shape), "bfloat16") for name, shape in shapes.items()}
        tensors |= {name: (np.ones(64, np.float32), "float32") for name in ("k_norm", "k_bias")}
        tensors["positions"] = (np.zeros(1, np.int32), "int32")
    elif op == "indexer_logits_paged":
        tensors = paged_tensors()
        tensors["k_pages"] = (tensors["k_pages"][0][:, :-64], "uint8")
    else:
        tensors = scoring_tensors(2, 60, 2, np.random.default_rng(17))
        tensors["k"] = (tensors["k"][0][:, :32], "float8_e4m3")
    out, run = ran(tmp_path, op, 1, tensors, parameters, {})
    assert run.returncode == 2
    assert sentence in run.stderr
    assert not out.exists()
