"""Do the levels that take only V3.2's tokens, 512 + 64 columns, agree with the plain tile kernel, whatever the schedule?"""

from __future__ import annotations

import numpy as np
import pytest
from test_attention import agree, agree_with_level_2, indices, kv_pages, normal, numbers, program, results, write  # noqa: F401

LEVELS = (4, 5, 6, 7, 8, 10)  # 9 is for few heads: test_few_heads.py
rng = np.random.default_rng(21)


def pages(count: int, power_of_two: bool):
    """Tokens of any e4m3 but NaN. A scale that is no bf16 number takes another road than a power of two."""
    dtype, bytes_ = kv_pages(count, 512, 64)
    if power_of_two:
        scales = 2.0 ** rng.integers(-9, -5, (count, 64, 4))
        bytes_[:, :, 512:528] = scales.astype("<f4").view(np.uint8)
    return dtype, bytes_


def question(H: int, k: int, kv, s_q: int = 1):
    drawn = indices(s_q, 64 * kv[1].shape[0], k)[1].reshape(1, s_q, k)  # repeats, -1, past the end, an empty row
    return {"q": normal(1, s_q, H, 576, std=0.3), "kv_pages": kv, "indices": ("int32", drawn), "sink": normal(H, dtype="float32")}


def share(level: int, power_of_two: bool) -> float:
    """By how much lse may differ from level 2's: level 10 does not round a token's numbers to bf16, which other scales than
    powers of two need."""
    return 2.0**-12 if level == 10 and not power_of_two else 2.0**-20


@pytest.mark.parametrize(("H", "power_of_two"), [(128, True), (20, False)])
def test_levels_agree_on_whole_tokens(H, power_of_two, program, tmp_path):  # noqa: F811
    """Several parts with repeats within and across them; 20 heads leave rows of a block unused."""
    tensors = question(H, 200, pages(4, power_of_two), s_q=2)
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {"lse": "base2"})
    first = results(program, "sparse_decode", folder, tmp_path / "2", level=2)
    for level in LEVELS:
        if level == 6 and H <= 64:
            continue  # it shares tokens between two groups of heads
        got = results(program, "sparse_decode", folder, tmp_path / f"{level}", level=level)
        again = results(program, "sparse_decode", folder, tmp_path / f"{level}_again", level=level, seed=1000 + level)
        agree(level, got, again, first, float_share=share(level, power_of_two))


@pytest.mark.parametrize(("level", "s_q", "k"), [(5, 1, 520), (6, 1, 330), (7, 3, 230), (7, 1, 520), (10, 1, 520), (10, 5, 300)])
def test_rings_wrap_and_blocks_take_several_queries(level, s_q, k, program, tmp_path):  # noqa: F811
    """On the simulator levels 5 and 6 have blocks of at least three tiles; level 7 has two clusters for three queries of five
    tiles, and splits one query of eleven; level 10's rings go round within a query of five. Slots stand twice, far apart too."""
    tensors = question(128, k, pages(4, True), s_q=s_q)
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {})
    agree_with_level_2(program, "sparse_decode", folder, tmp_path, level, float_share=2.0**-20)


@pytest.mark.parametrize(("H", "s_q"), [(4, 2), (12, 2), (30, 2), (50, 2), (30, 1)])
def test_level_10_has_8_to_64_columns(H, s_q, program, tmp_path):  # noqa: F811
    """One query leaves room on the simulator's multiprocessors, and those who add its parts rehearse."""
    tensors = question(H, 150, pages(4, True), s_q=s_q)
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {})
    agree_with_level_2(program, "sparse_decode", folder, tmp_path, 10, float_share=2.0**-20)


@pytest.mark.parametrize("H", [3, 8])
def test_two_parts_are_added_by_their_cluster(H, program, tmp_path):  # noqa: F811
    """On the simulator these two queries have two parts each at level 10; with 3 heads the second block has one row to add."""
    tensors = question(H, 520, pages(4, True), s_q=2)
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {})
    agree_with_level_2(program, "sparse_decode", folder, tmp_path, 10, float_share=2.0**-20)


def test_scales_of_any_size_stay_in_range_of_f16(program, tmp_path):  # noqa: F811
    """Level 10 multiplies in f16. Tokens differ by powers of two that f16 does not have, their quarters by 2^8, q's heads by 2^20;
    some have no scale at all."""
    kv = pages(2, True)
    scales = 2.0 ** (rng.integers(-40, 1, (2, 64, 1)) + rng.integers(-8, 1, (2, 64, 4)))
    scales[0, ::7] = 0
    kv[1][:, :, 512:528] = scales.astype("<f4").view(np.uint8)
    tensors = question(20, 128, kv)
    tensors["indices"] = ("int32", rng.permutation(128).reshape(1, 1, 128))
    tensors["q"][1][..., :512] *= 2.0 ** -rng.integers(8, 28, (1, 1, 20, 1))
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {})
    agree_with_level_2(program, "sparse_decode", folder, tmp_path, 10, float_share=2.0**-14)


def test_a_later_tile_raises_the_reference(program, tmp_path):  # noqa: F811
    """Level 10's reference follows when a number is beyond 2^15: tokens of tile 1 are 2^16 times those of tile 0, those of tile 3
    2^10 times those of tile 1, which widens the logits, and of tile 2 one token is 2^8 times, which one warp sees. Five queries, so that a block has all tiles of one."""
    kv = pages(4, True)
    scales = np.full((4, 64, 4), 2.0**-26)
    scales[1:] *= 2**16
    scales[2, 37] *= 2**8
    scales[3] *= 2**10
    kv[1][:, :, 512:528] = scales.astype("<f4").view(np.uint8)
    tensors = question(20, 256, kv, s_q=5)
    tensors["indices"] = ("int32", np.tile(np.arange(256), (1, 5, 1)))
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {})
    agree_with_level_2(program, "sparse_decode", folder, tmp_path, 10, float_share=2.0**-14)


@pytest.mark.parametrize("H", [20, 64])
def test_a_head_without_bounds_leaves_the_others_alone(H, program, tmp_path):  # noqa: F811
    """Level 10 divides q by a power of two of the block's largest number: infinity and NaN are none."""
    tensors = question(H, 100, pages(2, True))
    plain = {name: (dtype, array.copy()) for name, (dtype, array) in tensors.items()}
    tensors["q"][1][0, 0, 3, 500], tensors["q"][1][0, 0, 5, 570] = np.inf, np.nan
    others = [h for h in range(H) if h not in (3, 5)]
    got = {}
    for name, of in (("plain", plain), ("unbounded", tensors)):
        folder = write(tmp_path / name, "sparse_decode", of, {"scale": 0.1, "R_kv": 512}, {})
        result = results(program, "sparse_decode", folder, tmp_path / f"{name}_out", level=10)
        got[name] = numbers("out", result["out"])[0, 0]
    assert (got["plain"][others] == got["unbounded"][others]).all() and np.isfinite(got["plain"]).all()
    assert np.isnan(got["unbounded"][5]).all()


def test_a_nan_code_stays_nan(program, tmp_path):  # noqa: F811
    """0x7f lies where 480 would be if it were a number."""
    kv = pages(2, power_of_two=True)
    kv[1][0, 5, 300] = 0x7F
    tensors = question(128, 128, kv)
    tensors["indices"] = ("int32", np.arange(128).reshape(1, 1, 128))
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {})
    for level in LEVELS:
        got = results(program, "sparse_decode", folder, tmp_path / f"{level}", level=level)
        assert np.isnan(numbers("out", got["out"])).all() and np.isnan(got["lse"]).all(), f"level {level}"


def test_a_level_says_what_it_does_not_take(program, tmp_path):  # noqa: F811
    from test_attention import CASES, call

    folder = write(tmp_path / "in", "sparse_decode", *CASES["sparse_decode"]())
    run = call(program, "sparse_decode", folder, tmp_path / "out", level=4)
    assert run.returncode == 77 and "tokens must be of 512 + 64 columns; they are of 128 + 16" in run.stderr


def test_the_default_is_the_highest_level(program, tmp_path):  # noqa: F811
    folder = write(tmp_path / "in", "sparse_decode", question(128, 128, pages(1, True)), {"scale": 0.1, "R_kv": 512}, {})
    got = results(program, "sparse_decode", folder, tmp_path / "default")
    want = results(program, "sparse_decode", folder, tmp_path / "10", level=10)
    assert all(got[name].tobytes() == want[name].tobytes() for name in want)
