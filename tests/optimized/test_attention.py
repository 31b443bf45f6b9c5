"""Do the levels of the attention ops agree, whatever the schedule, and is a bad call told in one sentence?"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from touchstone import dtypes

REPOSITORY = Path(__file__).resolve().parents[2]
LEVELS = {"sparse_prefill": 2, "sparse_decode": 3, "dense_attention": 2, "attention_target": 2, "indexer_kl_loss": 2,
          "sparse_attention_backward": 2}  # fmt: skip
DESCR = {"bfloat16": dtypes.to_bfloat16, "float32": np.float32, "int32": np.int32, "uint8": np.uint8}


@pytest.fixture(scope="module")
def program() -> Path:
    path = Path(os.environ.get("TOUCHSTONE_SIMULATED") or REPOSITORY / "build" / "dsa-simulated")
    if not path.is_file():
        pytest.skip(f"{path} is not built: cmake --build build --target dsa-simulated")
    return path


def write(folder: Path, op: str, tensors: dict, parameters: dict, conventions: dict) -> Path:
    """A case folder. tensors: name -> (dtype, numbers)"""
    folder.mkdir()
    described = {}
    for name, (dtype, numbers) in tensors.items():
        numbers = np.asarray(numbers, None if dtype in ("int32", "uint8", "int64") else np.float32)
        stored = DESCR.get(dtype, lambda x: x.astype(dtype))(numbers)
        np.save(folder / f"{name}.npy", stored)
        described[name] = {"dtype": dtype, "shape": list(stored.shape)}
    case = {"version": 1, "op": op, "tier": "deployed", "conventions": {"preset": "deepseek-v3.2-exp"} | conventions,
            "parameters": parameters, "tensors": described}  # fmt: skip
    (folder / "case.json").write_text(json.dumps(case))
    return folder


def call(program: Path, op: str, folder: Path, out: Path, level: int = 0, seed: int = 1, runs: int = 1):
    """dsa-simulated op -> CompletedProcess"""
    command = [program, "op", op, folder, out, "--runs", str(runs)] + (["--level", str(level)] if level else [])
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False,
                          env=os.environ | {"DSA_SIMULATOR_SEED": str(seed)})  # fmt: skip


def results(program: Path, op: str, folder: Path, out: Path, **how) -> dict:
    run = call(program, op, folder, out, **how)
    assert run.returncode == 0, run.stderr
    return {path.stem: np.load(path) for path in out.glob("*.npy")}


rng = np.random.default_rng(20)


def indices(rows: int, S: int, k: int):
    """Selections with everything that does not count: repeats near and far, -1, past the end, an empty row."""
    drawn = rng.integers(0, S, (rows, k))  # repeats come by themselves
    drawn[:, -1:] = drawn[:, :1]
    drawn[0, 1:4] = [-1, S, 2**31 - 1][: max(k - 1, 0)]
    if rows > 1:
        drawn[1] = -5
    return "int32", drawn


def normal(*shape, std: float = 1.0, dtype: str = "bfloat16"):
    return dtype, std * rng.standard_normal(shape)


def kv_pages(pages: int, R_kv: int, d_rope: int):
    """Tokens of any e4m3 but NaN, scales that are no powers of two, bf16."""
    blocks = max(1, R_kv // 128)
    latent = rng.integers(0, 127, (pages, 64, R_kv)) | rng.integers(0, 2, (pages, 64, R_kv)) << 7
    scale = rng.uniform(0.001, 0.01, (pages, 64, blocks)).astype("<f4").view(np.uint8)
    rope = dtypes.to_bfloat16(rng.standard_normal((pages, 64, d_rope)).astype(np.float32)).astype("<u2").view(np.uint8)
    return "uint8", np.concatenate([latent.astype(np.uint8), scale, rope], axis=-1)


CASES = {
    "sparse_prefill": lambda: ({"q": normal(3, 20, 40), "kv": normal(90, 40), "indices": indices(3, 90, 150),
                                "sink": normal(20, dtype="float32")}, {"scale": 0.2, "d_v": 36}, {"lse": "base2"}),
    "sparse_decode": lambda: ({"q": normal(1, 3, 18, 144), "kv_pages": kv_pages(3, 128, 16),
                               "indices": ("int32", indices(3, 192, 300)[1].reshape(1, 3, 300)),
                               "sink": normal(18, dtype="float32")}, {"scale": 0.1, "R_kv": 128}, {"empty_row_lse": "+inf"}),
    "dense_attention": lambda: ({"q": normal(21, 3, 40), "k": normal(80, 3, 40), "v": normal(80, 3, 24),
                                 "start": ("int32", np.arange(21) // 5 * 7)}, {"scale": 0.2, "mode": "mha"}, {}),
    "attention_target": lambda: ({"q": normal(3, 18, 40), "kv": normal(90, 40), "indices": ("int32", rng.integers(-9, 88, (3, 70)))},
                                 {"scale": 0.2}, {"sparse_kl_target": "renormalised"}),
    "indexer_kl_loss": lambda: ({"q": normal(40, 18, 24, dtype="float32"), "k": normal(70, 24, dtype="float32"),
                                 "weights": normal(40, 18, std=0.1, dtype="float32"), "q_mla": normal(40, 2, 16),
                                 "kv": normal(70, 16)}, {"scale": 0.3}, {"kl_reduction": "mean"}),
    "sparse_attention_backward": lambda: (
        {"q": normal(40, 5, 40), "kv": normal(30, 40), "indices": indices(40, 30, 70), "out": normal(40, 5, 32, std=0.3),
         "lse": ("float32", rng.uniform(4, 5, (40, 5))), "dout": normal(40, 5, 32)}, {"scale": 0.2}, {}),
}  # fmt: skip

# Roundings of a level that differ from another's, as shares of a tensor's largest number. A bf16 store: 2^-9, and the
# probabilities that it is made of are rounded too, under another maximum: as much again; of two levels. The backward's
# dscore and p are rounded alike in both levels unless the last bit of a float32 sum tips one over: 2^-8 of that product.
# Float32 results differ by the order of sums of fewer than 2^12 terms alone.
SHARE = {"out": 4 * 2.0**-9, "dq": 4 * 2.0**-9, "dkv": 2 * 2.0**-8}
FLOAT_SHARE = 2.0**-24 * 2**12


def numbers(name: str, array):
    return (dtypes.from_bfloat16(array) if array.dtype == np.uint16 else array).astype(np.float64)


def agree(level: int, got: dict, again: dict, first: dict, shares: dict = SHARE, float_share: float = FLOAT_SHARE) -> None:
    """The same bits under another schedule, and the first level's numbers up to roundings."""
    for name, array in got.items():
        assert array.tobytes() == again[name].tobytes(), f"{name} of level {level} depends on the schedule"
        mine, theirs = numbers(name, array), numbers(name, first[name])
        assert np.array_equal(np.isfinite(mine), np.isfinite(theirs)), f"{name} of level {level}"
        finite = np.isfinite(theirs)
        assert np.array_equal(mine[~finite], theirs[~finite])
        bound = shares.get(name, float_share) * np.abs(theirs[finite]).max(initial=0)
        worst = np.abs(mine[finite] - theirs[finite]).max(initial=0)
        assert worst <= bound, f"{name} of level {level} is off by {worst}; {bound} is allowed"


def agree_with_level_2(program, op: str, folder, tmp_path, level: int, **how) -> None:
    """A level under two schedules, and level 2 on the same inputs."""
    first = results(program, op, folder, tmp_path / "2", level=2)
    got = results(program, op, folder, tmp_path / f"{level}", level=level)
    again = results(program, op, folder, tmp_path / f"{level}_again", level=level, seed=1000 + level)
    agree(level, got, again, first, **how)


@pytest.mark.parametrize("op", LEVELS)
def test_levels_agree_under_any_schedule(op, program, tmp_path):
    """Every level, two runs each, and again with threads in another order: the same bits; levels differ by roundings."""
    folder = write(tmp_path / "in", op, *CASES[op]())
    shares = {name: share for name, share in SHARE.items() if (op, name) != ("indexer_kl_loss", "dq")}  # which is float32
    first = None
    for level in range(1, LEVELS[op] + 1):
        got = results(program, op, folder, tmp_path / f"{level}", level=level, runs=2)
        again = results(program, op, folder, tmp_path / f"{level}_again", level=level, seed=1000 + level)
        first = first or got
        agree(level, got, again, first, shares)


@pytest.mark.parametrize(("level", "falls"), [(3, [0]), (4, [0]), (5, [0]), (6, [0]), (6, []), (6, [100, 48]), (6, [97, 169])])
def test_latents_agree_on_wgmma(program, tmp_path, level, falls):
    """Levels 3 to 6 of sparse_prefill take V3.2's widths only: two groups of heads, the second not full, several items a block.

    Rows that ascend, with what does not count at their end, have a way of their own at level 6; a row may also ascend
    up to a later tile's first slot, or to a slot within it, and stand for older slots from there on.
    """
    dtype, rows = indices(2, 90, 170)
    if falls != [0]:
        rows = rows.astype(np.uint32)
        if falls:
            rows[1] = rng.integers(0, 90, 170)
        for row, fall in zip(rows, falls or [170, 170]):
            row[:fall] = np.sort(row[:fall])
            row[fall:] = np.sort(row[fall:])
        rows = rows.astype(np.int32)
    tensors = {"q": normal(2, 70, 576, std=0.6), "kv": normal(90, 576), "indices": (dtype, rows), "sink": normal(70, dtype="float32")}
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 0.1, "d_v": 512}, {"lse": "base2"})
    agree_with_level_2(program, "sparse_prefill", folder, tmp_path, level)


@pytest.mark.parametrize(("level", "k"), [(5, 48), (5, 96), (6, 0), (6, 1), (6, 48), (6, 49), (6, 96), (6, 97), (6, 144)])
def test_items_of_few_tiles(program, tmp_path, level, k):
    """Levels 5 and 6 score tile after tile, whatever item each is of: five items a block, of two and three tiles, the last whole or not, or empty."""
    tensors = {"q": normal(5, 70, 576, std=0.6), "kv": normal(90, 576), "indices": indices(5, 90, k), "sink": normal(70, dtype="float32")}
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 0.1, "d_v": 512}, {"lse": "base2"})
    agree_with_level_2(program, "sparse_prefill", folder, tmp_path, level)


@pytest.mark.parametrize("level", range(1, 10))
@pytest.mark.parametrize(("T", "H"), [(0, 70), (3, 0), (0, 0)])
def test_nothing_is_asked(program, tmp_path, T, H, level):
    """No query or no head: a call that does nothing, or is declined. Levels 3 to 6 divided by the number of groups of heads."""
    tensors = {"q": normal(T, H, 576), "kv": normal(9, 576), "indices": ("int32", np.zeros((T, 60), np.int32))}
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 0.1, "d_v": 512}, {})
    run = call(program, "sparse_prefill", folder, tmp_path / "out", level=level)
    assert run.returncode in (0, 77), run.stderr


@pytest.mark.parametrize("level", [3, 4, 5, 6, 7, 8, 9])
def test_scales_next_to_nothing(program, tmp_path, level):
    """Where 2^32 is no float when it is told as a difference of q k^T, no reference was ever beyond -inf plus it: rows were empty."""
    tensors = {"q": normal(1, 4, 576), "kv": normal(90, 576), "indices": ("int32", np.arange(60)[None])}
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 5e-38, "d_v": 512}, {})
    agree_with_level_2(program, "sparse_prefill", folder, tmp_path, level, shares=SHARE | {"max_logit": 2.0**-10})


@pytest.mark.parametrize(("level", "H"), [(3, 70), (4, 70), (5, 70), (6, 70), (7, 16), (8, 8), (8, 32), (9, 64)])
def test_later_tiles_raise_the_reference(program, tmp_path, level, H):
    """Sums are rescaled only where a logit lies 2^32 beyond the reference (2^8 up to level 4, and at level 7): by random numbers alone hardly
    ever. Here the rotated columns of single keys, which are no part of v, are so large that some heads' logits do, in tile after tile. (Level 9
    cuts the last query: a part's sums lie under its largest logit, behind which its reference lags.)"""
    kv = normal(200, 576)
    for key, factor in ((60, 100), (61, 200), (130, 400), (180, 800)):
        kv[1][key, 512:] *= factor
    rows = np.tile(np.arange(200), (5, 1))
    tensors = {"q": normal(5, H, 576, std=0.6), "kv": kv, "indices": ("int32", rows), "sink": normal(H, dtype="float32")}
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 0.1, "d_v": 512}, {"lse": "base2"})
    agree_with_level_2(program, "sparse_prefill", folder, tmp_path, level)


@pytest.mark.parametrize("level", [5, 6])
def test_items_of_one_tile_end(program, tmp_path, monkeypatch, level):
    """When an item of so few slots had one tile, who scored none of it waited for its q nevertheless, and level 6 stood still under these
    schedules. Now its second tile is empty."""
    monkeypatch.setenv("DSA_SIMULATOR_CHECKS", "off")  # the schedules are those that did
    tensors = {"q": normal(8, 70, 576, std=0.6), "kv": normal(90, 576), "indices": indices(8, 90, 20)}
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 0.1, "d_v": 512}, {})
    for seed in (3, 4, 5):
        results(program, "sparse_prefill", folder, tmp_path / f"{seed}", level=level, seed=seed)


@pytest.mark.parametrize(("T", "H", "S", "causal", "packed"), [(3, 130, 150, True, False), (70, 5, 130, True, True), (2, 64, 260, False, False)])
def test_dense_latents_agree_on_wgmma(program, tmp_path, T, H, S, causal, packed):
    """Level 3 of dense_attention takes V3.2's widths only: groups of several queries, parts of a query's keys, rows past the last one, queries that
    see nothing, several items a cluster."""
    tensors = {"q": normal(T, H, 576, std=0.6), "kv": normal(S, 576), "sink": normal(H, dtype="float32")}
    if packed:
        tensors["start"] = "int32", np.where(np.arange(T) % 7 == 3, S, np.arange(T) // 9 * 13)
    folder = write(tmp_path / "in", "dense_attention", tensors, {"scale": 0.1, "mode": "mqa", "d_v": 512, "causal": causal}, {"lse": "base2"})
    agree_with_level_2(program, "dense_attention", folder, tmp_path, 3)


@pytest.mark.parametrize(("T", "H", "S", "causal", "packed"), [(5, 2, 300, True, False), (300, 2, 310, True, True), (130, 1, 140, False, False)])
def test_own_heads_agree_on_wgmma(program, tmp_path, T, H, S, causal, packed):
    """Level 4 of dense_attention takes MHA of V3.2's widths only: several tiles, rows past the last one, clusters of several tiles of queries."""
    tensors = {"q": normal(T, H, 192), "k": normal(S, H, 192), "v": normal(S, H, 128), "sink": normal(H, dtype="float32")}
    if packed:
        tensors["start"] = "int32", np.where(np.arange(T) % 7 == 3, S, np.arange(T) // 90 * 60)
    folder = write(tmp_path / "in", "dense_attention", tensors, {"scale": 0.1, "mode": "mha", "causal": causal}, {"lse": "base2"})
    agree_with_level_2(program, "dense_attention", folder, tmp_path, 4)


def tensors_without(op: str, *names: str):
    tensors, parameters, conventions = CASES[op]()
    return {n: t for n, t in tensors.items() if n not in names}, parameters, conventions


def changed(op: str, parameters: dict | None = None, **tensors):
    old, old_parameters, conventions = CASES[op]()
    return old | tensors, old_parameters | (parameters or {}), conventions


BAD = [
    ("sparse_prefill", lambda: changed("sparse_prefill", {"d_v": 41}), "d_v must be at most the 40 columns of kv; it is 41"),
    ("sparse_prefill", lambda: changed("sparse_prefill", indices=("int64", np.zeros((3, 4)))), "indices must be int32; it is int64"),
    ("sparse_prefill", lambda: changed("sparse_prefill", kv=normal(90, 48)), "must be 40"),
    ("sparse_decode", lambda: changed("sparse_decode", {"R_kv": 144}), "R_kv must be below the 144 columns of q"),
    ("sparse_decode", lambda: changed("sparse_decode", {"R_kv": 64}), "token bytes, must be 228"),
    ("dense_attention", lambda: changed("dense_attention", k=normal(9, 3, 40), v=normal(9, 3, 24)), "causal attention needs S >= T"),
    ("dense_attention", lambda: changed("dense_attention", {"mode": "gqa"}), 'mode must be mqa or mha; it is "gqa"'),
    ("attention_target", lambda: changed("attention_target", kv=normal(2, 40)), "S must be at least T; it is 2"),
    ("indexer_kl_loss", lambda: tensors_without("indexer_kl_loss", "q_mla"), "the tensor q_mla is missing"),
    ("indexer_kl_loss", lambda: changed("indexer_kl_loss", p=("float32", np.zeros((40, 69)))), "must be 70"),
    ("sparse_attention_backward", lambda: changed("sparse_attention_backward", out=normal(40, 5, 48), dout=normal(40, 5, 48)),
     "out must have at most the 40 columns of kv; it has 48"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "case", "sentence"), BAD)
def test_a_bad_call_is_told(op, case, sentence, program, tmp_path):
    """One sentence, exit code 2, and nothing written."""
    run = call(program, op, write(tmp_path / "in", op, *case()), tmp_path / "out")
    assert run.returncode == 2, run.stderr
    assert sentence in run.stderr
    assert run.stderr.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()
