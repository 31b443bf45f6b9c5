"""Are random inputs really the same everywhere? The NumPy and the C++ telling of the fills, byte against byte."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from touchstone import Refusal, dtypes
from touchstone.fill import FILLS, materialise
from touchstone.philox import RandomTensor, philox, tensor_id

REPOSITORY = Path(__file__).resolve().parents[2]
DUMP_FILL = Path(os.environ.get("TOUCHSTONE_BUILD", REPOSITORY / "build")) / "tests" / "reference" / "dump_fill"


@pytest.fixture(scope="session")
def cpp():
    """cpp(entry, name, seed) -> the bytes that the C++ makes, or its Refusal raised; elements=[...] -> float32."""
    if not DUMP_FILL.exists():
        pytest.skip(f"{DUMP_FILL} is not built; build the target dump_fill, or set TOUCHSTONE_BUILD")
    with subprocess.Popen([DUMP_FILL], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def ask(entry, name, seed, elements=None):
            request = {"name": name, "seed": seed, "tensor": entry}
            if elements is not None:
                request["elements"] = elements
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if "refused" in answer:
                raise Refusal(answer["refused"])
            body = process.stdout.read(answer["bytes"])
            return body if elements is None else np.frombuffer(body, "<f4")

        yield ask
        process.stdin.close()


def assert_same(cpp, entry, name="x", seed=7):
    """Both make the same bytes, in the declared shape and storage. -> the array"""
    array = materialise(entry, name, seed)
    assert array.shape == tuple(entry["shape"]) and array.dtype == dtypes.STORAGE[entry["dtype"]]
    theirs = np.frombuffer(cpp(entry, name, seed), array.dtype)
    ours = array.reshape(-1)
    assert len(ours) == len(theirs), f"{len(ours)} elements in NumPy, {len(theirs)} in C++ of {entry}"
    differ = np.flatnonzero(ours.view(np.uint8) != theirs.view(np.uint8)) // array.itemsize
    assert len(differ) == 0, (
        f"{len(differ)} bytes differ; the first is in element {differ[0]}: NumPy {ours[differ[0]]!r}, "
        f"C++ {theirs[differ[0]]!r} of {entry}, seed {seed}"
    )
    return array


# What both are measured against


def test_philox_gives_its_authors_known_answers():
    # Random123 1.14, tests/kat_vectors, philox4x32 10
    ones = 0xFFFFFFFF
    for counter, key, expected in [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones, ones, ones, ones), 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]:
        assert tuple(int(word) for word in philox(counter, key)) == expected


def test_tensor_id_is_fnv_1a():
    # draft-eastlake-fnv, appendix C
    assert [tensor_id(text) for text in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


def test_normal_has_the_deviation_and_mean_that_it_claims():
    n = 100_000
    x = materialise({"dtype": "float64", "shape": [n], "fill": {"normal": {"std": 2, "mean": 1}}}, "x", 1)
    # The mean of n samples deviates by 2 / sqrt(n), their deviation by 2 / sqrt(2 n): five of these.
    assert abs(x.mean() - 1) <= 5 * 2 / n**0.5
    assert abs(x.std() - 2) <= 5 * 2 / (2 * n) ** 0.5


def test_bfloat16_rounds_ties_to_even_and_keeps_nan():
    x = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -0.0, np.inf, 3.4e38, np.nan, -np.nan, 2.0**-134], np.float32)
    expected = [0x3F80, 0x3F82, 0x8000, 0x7F80, 0x7F80, 0x7FFF, 0x7FFF, 0x0000]
    assert dtypes.to_bfloat16(x).tolist() == expected


def test_e4m3_saturates_rounds_ties_to_even_and_keeps_nan():
    x = np.array([448, 464, 1e30, np.inf, -np.inf, 17, 19, 2.0**-10, 3 * 2.0**-10, -0.0, np.nan], np.float32)
    expected = [0x7E, 0x7E, 0x7E, 0x7E, 0xFE, 0x58, 0x5A, 0x00, 0x02, 0x80, 0x7F]
    assert dtypes.to_e4m3(x).tolist() == expected


def test_every_bfloat16_and_e4m3_survives_the_way_there_and_back():
    for to, of, count in [(dtypes.to_bfloat16, dtypes.from_bfloat16, 2**16), (dtypes.to_e4m3, dtypes.from_e4m3, 2**8)]:
        bits = np.arange(count).astype(np.uint16 if count == 2**16 else np.uint8)
        numbers = of(bits)
        known = ~np.isnan(numbers)
        assert (to(numbers)[known] == bits[known]).all()


def test_levels_are_about_equally_frequent_and_permutations_are_permutations():
    x = materialise({"dtype": "int32", "shape": [30_000], "fill": {"levels": {"values": [3, 1, 2]}}}, "x", 1)
    # A count deviates by sqrt(n p (1 - p)): five of these.
    assert all(abs((x == level).sum() - 10_000) <= 5 * (30_000 * 2 / 9) ** 0.5 for level in (1, 2, 3))
    y = materialise({"dtype": "int32", "shape": [100], "fill": {"permutation": {"count": 100}}}, "y", 1)
    assert sorted(y) == list(range(100)) and list(y) != list(range(100))


def test_selection_keeps_to_its_row():
    entry = {"dtype": "int32", "shape": [5, 4], "fill": {"selection": {"context": 6}}}
    chosen = materialise(entry, "indices", 3)
    for r, row in enumerate(chosen):  # row r may see 0 ... r + 1
        kept = row[row >= 0]
        assert len(kept) == min(4, r + 2) and (np.diff(kept) > 0).all() and kept.max() <= r + 1
        assert (row[len(kept) :] == -1).all()
    drawn = materialise({**entry, "fill": {"selection": {"context": 6, "order": "drawn", "at_most": 3}}}, "indices", 3)
    for ascending, row in zip(chosen, drawn):
        assert set(row[row >= 0]) <= set(ascending) and (row[3:] == -1).all()


def test_crowded_rows_hold_their_crowd():
    fill = {"crowded": {"count": 7, "low": 1, "high": 2, "rest_low": -4, "rest_high": -3}}
    x = materialise({"dtype": "float32", "shape": [3, 33], "fill": fill}, "logits", 3)
    assert ((x >= 1) & (x <= 2)).sum(axis=-1).tolist() == [7, 7, 7]
    assert ((x >= -4) & (x <= -3)).sum(axis=-1).tolist() == [26, 26, 26]


def test_kv_page_holds_its_tokens():
    fill = {"kv_pages": {"std": 1.5, "quantizer": "flashmla", "scale_format": "ue8m0"}}
    page = materialise({"dtype": "uint8", "shape": [2, 64, 656], "fill": fill}, "kv", 3)
    tokens = RandomTensor(3, "kv").bell(np.arange(128 * 576)).astype(np.float32) * np.float32(1.5 / 53509.91992145008)
    tokens = dtypes.from_bfloat16(dtypes.to_bfloat16(tokens)).reshape(2, 64, 576)
    values = dtypes.from_e4m3(page[..., :512]).reshape(2, 64, 4, 128)
    scales = np.ascontiguousarray(page[..., 512:528]).view("<f4")
    assert (np.frexp(scales)[0] == 0.5).all()  # powers of two
    # e4m3 is off by at most half a step: 2^-4 of the number, or half of 2^-9 in units of the scale.
    bound = np.maximum(2.0**-4 * np.abs(tokens[..., :512].reshape(values.shape)), 2.0**-10 * scales[..., None])
    assert (np.abs(values * scales[..., None] - tokens[..., :512].reshape(values.shape)) <= bound).all()
    rope = np.ascontiguousarray(page[..., 528:]).view("<u2")
    assert (dtypes.from_bfloat16(rope) == tokens[..., 512:]).all()


def test_key_page_holds_64_keys_then_64_scales():
    fill = {"key_pages": {"std": 1.5, "quantizer": "deepseek", "scale_format": "float32"}}
    page = materialise({"dtype": "uint8", "shape": [1, 8448], "fill": fill}, "keys", 3)[0]
    keys, scales = dtypes.from_e4m3(page[:8192]).reshape(64, 128), page[8192:].view("<f4")
    assert (np.abs(keys).max(axis=-1) == 448).all()  # a key's largest number just fits
    amax = dtypes.from_bfloat16(
        dtypes.to_bfloat16(RandomTensor(3, "keys").bell(np.arange(8192)) * np.float32(1.5 / 53509.91992145008))
    )
    assert (scales == np.abs(amax.reshape(64, 128)).max(axis=-1) / np.float32(448)).all()


# One against the other

FLOATS = st.sampled_from(dtypes.FLOATING)
WHOLE = st.sampled_from(("uint8", "int32", "int64", "bool"))
SEEDS = st.one_of(st.integers(0, 2**53 - 1), st.sampled_from((0, 2**32, 2**32 + 1, 2**53 - 1)))
NAMES = st.sampled_from(("x", "W_uq", "k_scale", "Größe"))
SHAPES = st.lists(st.integers(0, 9), min_size=0, max_size=3).map(lambda s: s)
LONG_SHAPES = st.one_of(SHAPES, st.lists(st.integers(1, 4200), min_size=1, max_size=1))
SMALL = st.floats(-1e4, 1e4, allow_nan=False)
ANY_FLOAT = st.floats(-3.4e38, 3.4e38, allow_nan=False)
DEVIATIONS = st.one_of(st.floats(0, 300), st.floats(0, 1e37), st.just(1e-40))


def values_for(dtype):
    if dtype in dtypes.FLOATING:
        return st.one_of(ANY_FLOAT, SMALL, st.integers(-500, 500), st.sampled_from(("nan", "inf", "-inf", -0.0, 449, 2.0**-10)))
    low, high = dtypes.whole_range(dtype)
    return st.one_of(st.integers(low, high), st.sampled_from((low, high)))


def ordered(draw, numbers):
    return sorted((draw(numbers), draw(numbers)))


@st.composite
def entries(draw, kinds=tuple(FILLS)):
    """A tensor that can be made: (entry, name, seed)."""
    kind = draw(st.sampled_from(kinds))
    dtype = draw(FLOATS if kind in ("normal", "outliers", "uniform", "crowded") else st.one_of(FLOATS, WHOLE))
    shape = draw(LONG_SHAPES if kind in ("normal", "outliers", "uniform", "levels", "integers", "arange") else SHAPES)
    size = int(np.prod(shape))
    if kind == "normal":
        fill = {"std": draw(DEVIATIONS)} | draw(st.one_of(st.just({}), st.fixed_dictionaries({"mean": SMALL})))
    elif kind == "outliers":
        fill = {"std": draw(DEVIATIONS), "factor": draw(SMALL), "one_in": draw(st.sampled_from((1, 2, 50, 2**32)))}
    elif kind == "uniform":
        low, high = ordered(draw, draw(st.sampled_from((SMALL, st.floats(-1e38, 1e38)))))
        fill = {"low": low, "high": high}
    elif kind == "levels":
        fill = {"values": draw(st.lists(values_for(dtype), min_size=1, max_size=5))}
    elif kind == "constant":
        fill = draw(values_for(dtype))
    elif kind == "integers":
        low, high = (-(2**53), 2**53) if dtype in dtypes.FLOATING else dtypes.whole_range(dtype)
        low = draw(st.integers(low, high))
        fill = {"low": low, "high": draw(st.integers(low, min(high, low + 2**32 - 1)))}
    elif kind == "arange":
        if dtype in dtypes.FLOATING:
            fill = draw(st.fixed_dictionaries({}, optional={"start": SMALL, "step": SMALL}))
        else:
            dtype = "int32" if dtype != "int64" else dtype
            whole = st.integers(-10_000, 10_000)
            fill = draw(st.fixed_dictionaries({}, optional={"start": whole, "step": whole}))
    elif kind == "values":
        fill = draw(st.lists(values_for(dtype), min_size=size, max_size=size))
        if draw(st.booleans()) and len(shape) > 1 and size > 0:
            for extent in reversed(shape[1:]):
                fill = [fill[i : i + extent] for i in range(0, len(fill), extent)]
    elif kind == "permutation":
        shape = draw(st.lists(st.integers(0, 6), max_size=2))
        size = int(np.prod(shape))
        highest = dtypes.whole_range(dtype)[1] + 1 if dtype not in dtypes.FLOATING else 5000
        if size > highest:
            shape, size = [1], 1
        fill = {"count": draw(st.integers(size, min(highest, 5000)))}
    elif kind == "selection":
        dtype = draw(st.sampled_from(("int32", "int64")))
        shape = [*shape, draw(st.integers(0, 40))]
        rows = int(np.prod(shape[:-1])) if shape[-1] > 0 else 0
        causal = draw(st.booleans())
        fill = {"context": draw(st.integers(rows if causal else 0, rows + 60)), "causal": causal} | draw(
            st.fixed_dictionaries(
                {}, optional={"order": st.sampled_from(("ascending", "drawn")), "at_most": st.integers(0, 50)}
            )
        )
    elif kind == "crowded":
        shape = [*shape, draw(st.integers(0, 300))]
        low, high = ordered(draw, SMALL)
        rest_low, rest_high = ordered(draw, SMALL)
        count = draw(st.integers(0, shape[-1]))
        fill = {"count": count, "low": low, "high": high, "rest_low": rest_low, "rest_high": rest_high}
    else:
        dtype = "uint8"
        quantizer = draw(st.sampled_from(("deepseek", "flashmla", "vllm", "none", "no_floor")))
        std = draw(st.one_of(st.floats(1e-25, 1e30), st.floats(1e-4, 10)))
        if quantizer != "no_floor":
            std = draw(st.sampled_from((std, 0.0, 1e-42)))
        fill = {"std": std, "quantizer": quantizer, "scale_format": draw(st.sampled_from(("float32", "ue8m0")))}
        pages = draw(st.integers(0, 2))
        if kind == "kv_pages":
            R_kv, d_rope = draw(st.sampled_from((7, 64, 128, 256, 512))), draw(st.sampled_from((0, 1, 64)))
            shape = [pages, 64, R_kv + 4 * max(1, R_kv // 128) + 2 * d_rope]
            fill |= {"R_kv": R_kv, "d_rope": d_rope} if (R_kv, d_rope) != (512, 64) else {}
        else:
            D_I = draw(st.sampled_from((1, 32, 128, 192)))
            shape = [pages, 64 * (D_I + 4)]
            fill |= {"D_I": D_I}
    entry = {"dtype": dtype, "shape": shape, "fill": {kind: fill}}
    size = int(np.prod(shape))
    if size > 0 and draw(st.booleans()):
        cols = shape[-1] if shape else 1
        rows, elements = st.integers(0, size // cols - 1), st.integers(0, size - 1)
        value = values_for(dtype)
        entry["set_rows"] = draw(st.lists(st.tuples(rows, value).map(list), max_size=3))
        entry["set"] = draw(st.lists(st.tuples(elements, value).map(list), max_size=3))
    return entry, draw(NAMES), draw(SEEDS)


@pytest.mark.parametrize("kind", FILLS)
def test_numpy_and_cpp_make_the_same_bytes(cpp, kind):
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(entries(kinds=(kind,)))
    def same(case):
        assert_same(cpp, *case)

    same()


LAZY = ("normal", "outliers", "uniform", "levels", "constant", "integers", "arange")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=entries(kinds=LAZY), draw=st.data())
def test_elements_made_one_by_one_are_the_tensors(cpp, case, draw):
    entry, name, seed = case
    array = dtypes.from_storage(materialise(entry, name, seed), entry["dtype"]).reshape(-1)
    if array.size == 0:
        return
    chosen = draw.draw(st.lists(st.integers(0, array.size - 1), min_size=1, max_size=20))
    with np.errstate(over="ignore"):
        expected = array[chosen].astype(np.float32)
    np.testing.assert_array_equal(cpp(entry, name, seed, elements=chosen), expected)


def test_an_element_past_2_to_the_32_uses_both_words_of_its_number(cpp):
    i, seed = 5_000_000_000, 2**40 + 5
    entry = {"dtype": "float32", "shape": [3_000_000, 2000], "fill": {"normal": {"std": 1}}}
    expected = RandomTensor(seed, "W").bell([i, i - 2**32]).astype(np.float32) * np.float32(1 / 53509.91992145008)
    made = cpp(entry, "W", seed, elements=[i, i - 2**32])
    assert made.tolist() == expected.tolist() and made[0] != made[1]


def test_a_selection_past_2_to_the_32_elements(cpp):
    # Row r draws from elements r * S + s: here beyond 2^32 already in row 2.
    entry = {"dtype": "int64", "shape": [3, 5], "fill": {"selection": {"context": 30_000_00, "causal": False}}}
    assert_same(cpp, entry, "indices")


# Refusals: what cannot be made is refused by both, in a sentence that says why

X = {"dtype": "float32", "shape": [2, 3]}
REFUSED = [
    ({**X, "fill": {"gaussian": {}}}, 'there is no fill named "gaussian"; there are normal'),
    ({**X, "fill": {}}, 'needs a "fill"'),
    ({**X}, 'needs a "fill"'),
    ({"shape": [2], "fill": {"constant": 0}}, 'needs a "dtype"'),
    ({"dtype": "float16", "shape": [2], "fill": {"constant": 0}}, 'there is no dtype named "float16"'),
    ({"dtype": "float32", "fill": {"constant": 0}}, 'needs a "shape"'),
    ({"dtype": "float32", "shape": [2, -1], "fill": {"constant": 0}}, "the shape must be whole numbers"),
    ({"dtype": "float32", "shape": [2, 1.5], "fill": {"constant": 0}}, "the shape must be whole numbers"),
    ({"dtype": "float32", "shape": [2**40, 2**40], "fill": {"constant": 0}}, "more than 2^53 elements"),
    ({**X, "fill": {"constant": 0}, "set_row": []}, 'has no entry "set_row"'),
    ({**X, "fill": {"normal": {}}}, 'needs "std"'),
    ({**X, "fill": {"normal": {"std": 1, "sdt": 2}}}, 'has no parameter "sdt"; it has std, mean'),
    ({**X, "fill": {"normal": {"std": -1}}}, '"std" must be from 0'),
    ({**X, "fill": {"normal": {"std": "1"}}}, '"std" must be a number'),
    ({**X, "fill": {"normal": {"std": True}}}, '"std" must be a number'),
    ({**X, "fill": {"normal": 1}}, "must be an object of parameters"),
    ({**X, "dtype": "int32", "fill": {"normal": {"std": 1}}}, 'the tensor is int32. Use a floating dtype, or "integers"'),
    ({**X, "fill": {"outliers": {"std": 1, "factor": 2, "one_in": 0}}}, '"one_in" must be a whole number from 1'),
    ({**X, "fill": {"outliers": {"std": 1, "factor": 2, "one_in": 1.5}}}, '"one_in" must be a whole number'),
    ({**X, "fill": {"uniform": {"low": 1, "high": 0}}}, '"low" must not be above "high"; they are 1'),
    ({**X, "fill": {"uniform": {"low": -3e38, "high": 3e38}}}, "must be within float32"),
    ({**X, "fill": {"levels": {"values": []}}}, "a list of at least one"),
    ({**X, "fill": {"levels": {"values": ["big"]}}}, 'a value must be a number, "nan", "inf" or "-inf"'),
    ({**X, "fill": {"constant": True}}, 'a value must be a number, "nan", "inf" or "-inf"'),
    ({**X, "fill": {"constant": 1e39}}, "is beyond what float32 is made from"),
    ({**X, "dtype": "int32", "fill": {"constant": "nan"}}, "nan cannot be an element of a int32 tensor"),
    ({**X, "dtype": "int32", "fill": {"constant": 0.5}}, "0.5 cannot be an element of a int32 tensor"),
    ({**X, "dtype": "uint8", "fill": {"levels": {"values": [256]}}}, "whole numbers from 0 to 255"),
    ({**X, "dtype": "bool", "fill": {"constant": 2}}, "whole numbers from 0 to 1"),
    ({**X, "dtype": "int64", "fill": {"constant": 2**54}}, "whole numbers from -9007199254740992"),
    ({**X, "fill": {"integers": {"low": 3, "high": 2}}}, '"low" must not be above "high"'),
    ({**X, "fill": {"integers": {"low": 0, "high": 2**32}}}, "2^32 or more below it"),
    ({**X, "dtype": "uint8", "fill": {"integers": {"low": -1, "high": 2}}}, "-1 cannot be an element of a uint8 tensor"),
    ({**X, "dtype": "uint8", "fill": {"arange": {"step": 100}}}, "500 cannot be an element of a uint8 tensor"),
    ({**X, "dtype": "int32", "shape": [3], "fill": {"arange": {"step": 0.5}}}, '"step" must be whole for a int32 tensor'),
    ({**X, "fill": {"values": [1, 2, 3]}}, "the shape [2, 3] needs 6 values; there are 3"),
    ({**X, "fill": {"values": [[1, 2], [3, 4], [5, 6]]}}, "nested as the shape [2, 3] is"),
    ({**X, "fill": {"values": [1, 2, 3, 4, 5, [6]]}}, "a value must be a number"),
    ({**X, "fill": {"values": 3}}, "must be a list"),
    ({**X, "fill": {"permutation": {"count": 5}}}, '"count" must be at least the tensor\'s 6 elements; it is 5'),
    ({**X, "dtype": "uint8", "fill": {"permutation": {"count": 257}}}, "256 cannot be an element of a uint8 tensor"),
    ({**X, "fill": {"selection": {"context": 5}}}, "int32 or int64 [..., k]; the tensor is float32 [2, 3]"),
    ({**X, "dtype": "int32", "fill": {"selection": {"context": 1}}}, '"context" must be at least the tensor\'s 2 rows'),
    ({**X, "dtype": "int32", "fill": {"selection": {"context": 9, "order": "up"}}}, '"order" must be one of "ascending"'),
    ({**X, "dtype": "int32", "fill": {"selection": {"context": 9, "causal": 1}}}, '"causal" must be true or false'),
    (
        {**X, "fill": {"crowded": {"count": 4, "low": 0, "high": 1, "rest_low": 0, "rest_high": 1}}},
        '"count" must be at most the last axis, 3; it is 4',
    ),
    (
        {**X, "fill": {"crowded": {"count": 1, "low": 0, "high": 1, "rest_low": 1, "rest_high": 0}}},
        '"rest_low" must not be above "rest_high"',
    ),
    (
        {**X, "dtype": "uint8", "fill": {"kv_pages": {"std": 1, "quantizer": "vllm", "scale_format": "ue8m0"}}},
        "makes uint8 [pages, 64, 656]; the tensor is uint8 [2, 3]",
    ),
    (
        {**X, "dtype": "uint8", "fill": {"kv_pages": {"R_kv": 200, "std": 1, "quantizer": "vllm", "scale_format": "ue8m0"}}},
        '"R_kv" must be below 128, or a multiple of it; it is 200',
    ),
    (
        {**X, "dtype": "uint8", "fill": {"key_pages": {"std": 1, "quantizer": "sglang", "scale_format": "ue8m0"}}},
        '"quantizer" must be one of "deepseek"',
    ),
    (
        {"dtype": "uint8", "shape": [1, 8448], "fill": {"key_pages": {"std": 0, "quantizer": "no_floor", "scale_format": "ue8m0"}}},
        'needs a "std" of at least 1e-25',
    ),
    ({**X, "fill": {"constant": 0}, "set": [[6, 1]]}, '"set": a place must be a whole number from 0 to 5; it is 6'),
    ({**X, "fill": {"constant": 0}, "set": [[-1, 1]]}, '"set": a place must be a whole number from 0 to 5'),
    ({**X, "fill": {"constant": 0}, "set_rows": [[2, 1]]}, '"set_rows": a place must be a whole number from 0 to 1'),
    ({**X, "fill": {"constant": 0}, "set_rows": [2, 1]}, "must be a list of [place, value]"),
    ({**X, "dtype": "int64", "fill": {"constant": 0}, "set": [[0, "inf"]]}, "inf cannot be an element of a int64 tensor"),
]


@pytest.mark.parametrize("entry, sentence", REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_both_refuse_in_a_sentence(cpp, entry, sentence):
    with pytest.raises(Refusal) as numpys:
        materialise(entry, "x", 7)
    with pytest.raises(Refusal) as cpps:
        cpp(entry, "x", 7)
    assert sentence in str(numpys.value)
    assert sentence in str(cpps.value)


def test_elements_of_fills_made_as_a_whole_are_refused(cpp):
    with pytest.raises(Refusal, match="does not make its elements one by one"):
        cpp({**X, "fill": {"permutation": {"count": 6}}}, "x", 7, elements=[0])
    with pytest.raises(Refusal, match="has elements 0 to 5"):
        cpp({**X, "fill": {"constant": 0}}, "x", 7, elements=[6])
