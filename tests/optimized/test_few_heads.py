"""Do the levels for at most 32 heads agree with the plain tile kernel, whatever the schedule?"""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from test_attention import agree_with_level_2, call, indices, normal, numbers, program, results, write  # noqa: F401
from test_sparse_decode import pages, question

OPS = ("sparse_prefill", "sparse_decode")
KEYS_AS_ROWS = "keys as rows, on wgmma"


def level_of(program, op: str, title: str = "tokens as rows") -> int:  # noqa: F811
    """The level's number, by its title."""
    lines = subprocess.run([program, "ops"], capture_output=True, text=True, check=True).stdout.splitlines()
    mine = lines[lines.index(op) + 1 :]
    return next(int(line.split()[1]) for line in mine if line.endswith(title))


def prefill(T: int, H: int, k: int):
    return {"q": normal(T, H, 576, std=0.6), "kv": normal(90, 576), "indices": indices(T, 90, k), "sink": normal(H, dtype="float32")}


@pytest.mark.parametrize("H", [3, 8, 13])
def test_few_heads_agree_in_prefill(H, program, tmp_path):  # noqa: F811
    """Heads that fill their 8 or 16 columns and do not; several queries a block, more tiles than the ring has places."""
    folder = write(tmp_path / "in", "sparse_prefill", prefill(3, H, 170), {"scale": 0.1, "d_v": 512}, {"lse": "base2"})
    agree_with_level_2(program, "sparse_prefill", folder, tmp_path, level_of(program, "sparse_prefill"))


KEYS_AS_ROWS_CASES = [(3, 3, 170, 90), (5, 1, 63, 90), (5, 8, 64, 150), (3, 8, 420, 150), (5, 12, 65, 90), (3, 16, 320, 90), (3, 20, 130, 90),
                      (3, 32, 200, 90), (5, 4, 1, 90), (3, 8, 0, 90), (7, 13, 20, 90)]  # fmt: skip


@pytest.mark.parametrize(("T", "H", "k", "S"), KEYS_AS_ROWS_CASES)
def test_keys_as_rows_agree_in_prefill(T, H, k, S, program, tmp_path):  # noqa: F811
    """Heads that fill their 8, 16 or 32 columns and do not; items of no slot, of one tile and of more than the ring holds, several a block; a
    longer ring and a shorter one, for more rows."""
    rows = indices(T, S, k) if k > 3 else ("int32", np.arange(-1, T * k - 1).reshape(T, k))
    tensors = {"q": normal(T, H, 576, std=0.6), "kv": normal(S, 576), "indices": rows, "sink": normal(H, dtype="float32")}
    folder = write(tmp_path / "in", "sparse_prefill", tensors, {"scale": 0.1, "d_v": 512}, {"lse": "base2"})
    agree_with_level_2(program, "sparse_prefill", folder, tmp_path, level_of(program, "sparse_prefill", KEYS_AS_ROWS))


@pytest.mark.parametrize(("H", "power_of_two", "k", "s_q"), [(3, True, 200, 2), (16, False, 200, 1), (21, True, 100, 3), (5, True, 30, 1)])
def test_few_heads_agree_in_decoding(H, power_of_two, k, s_q, program, tmp_path):  # noqa: F811
    """Several parts with repeats within and across them; one part alone, of the shortest selection."""
    tensors = question(H, k, pages(4 if k < 500 else 40, power_of_two), s_q=s_q)
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {"lse": "base2"})
    agree_with_level_2(program, "sparse_decode", folder, tmp_path, level_of(program, "sparse_decode"), float_share=2.0**-20)


@pytest.mark.parametrize(("op", "title"), [*((op, "tokens as rows") for op in OPS), ("sparse_prefill", KEYS_AS_ROWS)])
def test_a_slot_that_does_not_count_adds_no_nan(op, title, program, tmp_path):  # noqa: F811
    """Where nothing is selected no row is read: neither row 0 nor what a place in shared memory held before."""
    if op == "sparse_prefill":
        tensors = prefill(2, 5, 70)
        tensors["kv"][1][0] = np.nan
        chosen = tensors["indices"][1]
    else:
        kv = pages(1, power_of_two=True)
        kv[1][0, 0, :512] = 0x7F
        tensors = question(5, 70, kv, s_q=2)
        chosen = tensors["indices"][1][0]
    chosen[:] = np.arange(1, 71) % 60
    chosen[:, 1::3] = -1
    chosen[1, 20:] = -1
    chosen[chosen == 0] = 7
    folder = write(tmp_path / "in", op, tensors, {"scale": 0.1, "d_v": 512} if op == "sparse_prefill" else {"scale": 0.1, "R_kv": 512}, {})
    got = results(program, op, folder, tmp_path / "got", level=level_of(program, op, title))
    assert all(np.isfinite(numbers(name, array)).all() for name, array in got.items())


@pytest.mark.parametrize("title", ["two score in turn", "selection inside", "tokens as rows", KEYS_AS_ROWS, "last round in parts"])
def test_a_nan_stays_with_its_head(title, program, tmp_path):  # noqa: F811
    """Heads are padded with rows of the next query, and share votes and tiles with others: no other result has other bits for that."""
    tensors, parameters = prefill(3, 5, 110), {"scale": 0.4, "d_v": 512}
    level = level_of(program, "sparse_prefill", title)
    clean = results(program, "sparse_prefill", write(tmp_path / "in", "sparse_prefill", tensors, parameters, {}), tmp_path / "clean", level=level)
    tensors["q"][1][2, 1, 7] = np.nan
    got = results(program, "sparse_prefill", write(tmp_path / "nan", "sparse_prefill", tensors, parameters, {}), tmp_path / "got", level=level)
    assert np.isnan(numbers("out", got["out"][2, 1])).all()
    for name, array in got.items():
        array[2, 1] = clean[name][2, 1]
        assert array.tobytes() == clean[name].tobytes(), name


def test_a_nan_code_stays_nan_for_few_heads(program, tmp_path):  # noqa: F811
    """0x7f lies where 480 would be if it were a number."""
    kv = pages(1, power_of_two=True)
    kv[1][0, 5, 300] = 0x7F
    tensors = question(7, 64, kv)
    tensors["indices"] = ("int32", np.arange(64).reshape(1, 1, 64))
    folder = write(tmp_path / "in", "sparse_decode", tensors, {"scale": 0.1, "R_kv": 512}, {})
    got = results(program, "sparse_decode", folder, tmp_path / "got", level=level_of(program, "sparse_decode"))
    assert np.isnan(numbers("out", got["out"])).all() and np.isnan(got["lse"]).all()


@pytest.mark.parametrize(
    ("op", "title", "most"), [("sparse_prefill", "tokens as rows", 16), ("sparse_decode", "tokens as rows", 32), ("sparse_prefill", KEYS_AS_ROWS, 32)]
)
def test_more_heads_are_declined(op, title, most, program, tmp_path):  # noqa: F811
    H = most + 1
    tensors = prefill(1, H, 4) if op == "sparse_prefill" else question(H, 4, pages(1, power_of_two=True))
    folder = write(tmp_path / "in", op, tensors, {"scale": 0.1, "d_v": 512} if op == "sparse_prefill" else {"scale": 0.1, "R_kv": 512}, {})
    run = call(program, op, folder, tmp_path / "out", level=level_of(program, op, title))
    assert run.returncode == 77 and f"it is for at most {most} heads; there are {H}" in run.stderr
