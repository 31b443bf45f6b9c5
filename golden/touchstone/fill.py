"""Where do a case's inputs come from? From a recipe and a seed, element by element. docs/case-format.md, "Fills".

This is a telling of that document, not of the C++: that both give the same bytes is a test.
"""

import math
import sys

import numpy as np

from touchstone import dtypes, require
from touchstone.cases import stored_file
from touchstone.philox import RandomTensor

PAGE_TOKENS = 64
BLOCK = 128  # numbers that share one scale
# bell() has variance 8 (65536^2 - 1) / 12 = 2863311530; this is its root.
BELL_DEVIATION = 53509.91992145008
AT_ONCE = 1 << 20  # elements made at once, to bound the memory of intermediate words


def materialise(entry: dict, name: str, seed: int) -> np.ndarray:
    """The tensor that a case declares.

    entry: {"dtype", "shape", "fill"} and, optionally, "set_rows" and "set".
    name: the tensor's name, which chooses its random numbers.
    seed: the case's seed, a whole number below 2^64.
    -> an array of the declared shape in the dtype's storage (bfloat16 as uint16, float8_e4m3 as uint8)
    Refuses what cannot be made, in a sentence that names the tensor.
    """
    who = f"tensor {name}"
    require(isinstance(entry, dict), f"{who} must be an object with dtype, shape and fill; it is {entry!r}")
    known = ("dtype", "shape", "fill", "set_rows", "set")
    for key in entry:
        require(key in known, f'{who} has no entry "{key}"; it has {", ".join(known)}')
    dtype = entry.get("dtype")
    require(isinstance(dtype, str), f'{who} needs a "dtype"')
    dtypes.storage(dtype)
    shape = _shape(entry, who)
    fill = entry.get("fill")
    require(isinstance(fill, dict) and len(fill) == 1, f"{who} needs a \"fill\", an object with one entry: the fill's name")
    [(kind, given)] = fill.items()
    if kind == "stored":
        return _stored(who, entry, dtype, shape)
    require(kind in FILLS, f'{who}: there is no fill named "{kind}"; there are {", ".join(FILLS)}, stored')
    array = FILLS[kind](_Tensor(f'{who}: "{kind}"', dtype, shape, RandomTensor(seed, name)), given)
    rows = array.reshape(_rows(shape), _cols(shape))
    _patch(entry, "set_rows", dtype, rows, who)
    _patch(entry, "set", dtype, rows.reshape(-1), who)
    return rows.reshape(shape)


def _stored(who: str, entry: dict, dtype: str, shape: tuple) -> np.ndarray:
    """A tensor that no recipe makes: a file kept beside the cases."""
    path = stored_file(entry)
    require(path.exists(), f'{who}: "stored" names the file {path}, which does not exist: check the name')
    array = np.load(path, allow_pickle=False)
    fits = array.shape == shape and array.dtype == dtypes.storage(dtype)
    require(fits, f"{who}: {path} holds {array.dtype} {list(array.shape)}; the case says {dtype} {list(shape)}")
    return array


class _Tensor:
    """What every fill knows: who asks, the dtype, the shape, and the random numbers."""

    def __init__(self, who: str, dtype: str, shape: tuple, random: RandomTensor):
        self.who, self.dtype, self.shape, self.random = who, dtype, shape, random
        self.size = math.prod(shape)

    def made(self, of_elements) -> np.ndarray:
        """of_elements: uint64 [n] -> numbers [n]; gathered over the tensor, rounded into the dtype."""
        out = np.empty(self.size, dtypes.storage(self.dtype))
        for first in range(0, self.size, AT_ONCE):
            i = np.arange(first, min(first + AT_ONCE, self.size), dtype=np.uint64)
            with np.errstate(over="ignore"):  # an outlier may pass float32's range: it is infinite then
                out[first : first + len(i)] = dtypes.to_storage(of_elements(i), self.dtype)
        return out

    def require_floating(self):
        require(
            self.dtype in dtypes.FLOATING,
            f'{self.who} makes numbers that are not whole; the tensor is {self.dtype}. Use a floating dtype, or "integers"',
        )


# Fills whose element i depends on i alone


def _normal(t: _Tensor, given) -> np.ndarray:
    t.require_floating()
    p = _Parameters(t.who, given, required=("std",), optional=("mean",))
    scale, mean = _bell_scale(p), np.float32(p.number("mean", 0))

    def numbers(i):
        x = t.random.bell(i).astype(np.float32) * scale
        return x + mean if mean != 0 else x

    return t.made(numbers)


def _outliers(t: _Tensor, given) -> np.ndarray:
    t.require_floating()
    p = _Parameters(t.who, given, required=("std", "factor", "one_in"))
    scale, factor, one_in = _bell_scale(p), np.float32(p.number("factor")), p.whole("one_in", 1, 2**32)

    def numbers(i):
        x = t.random.bell(i).astype(np.float32) * scale
        return np.where(t.random.below(one_in, i, stream=1) == 0, x * factor, x)

    return t.made(numbers)


def _uniform(t: _Tensor, given) -> np.ndarray:
    t.require_floating()
    interval = _interval(_Parameters(t.who, given, required=("low", "high")), "low", "high")
    return t.made(lambda i: interval(t.random.words(i)[0]))


def _levels(t: _Tensor, given) -> np.ndarray:
    listed = _Parameters(t.who, given, required=("values",)).given["values"]
    require(isinstance(listed, list) and len(listed) > 0, f'{t.who}: "values" must be a list of at least one; it is {listed!r}')
    values = np.array([_value(v, t.dtype, t.who) for v in listed])
    return t.made(lambda i: values[t.random.below(len(values), i)])


def _constant(t: _Tensor, given) -> np.ndarray:
    return np.full(t.size, dtypes.to_storage(np.float64(_value(given, t.dtype, t.who)), t.dtype))


def _integers(t: _Tensor, given) -> np.ndarray:
    p = _Parameters(t.who, given, required=("low", "high"))
    low, high = p.whole("low", -(2**53), 2**53), p.whole("high", -(2**53), 2**53)
    require(
        0 <= high - low < 2**32,
        f'{t.who}: "low" must not be above "high", nor 2^32 or more below it; they are {low} and {high}',
    )
    _value(low, t.dtype, t.who)
    _value(high, t.dtype, t.who)
    return t.made(lambda i: np.float64(low) + t.random.below(high - low + 1, i))


def _arange(t: _Tensor, given) -> np.ndarray:
    p = _Parameters(t.who, given, optional=("start", "step"))
    start, step = p.number("start", 0), p.number("step", 1)
    _value(start, t.dtype, t.who)
    _value(start + step * max(t.size - 1, 0), t.dtype, t.who)
    require(
        t.dtype in dtypes.FLOATING or step == math.trunc(step),
        f'{t.who}: "step" must be whole for a {t.dtype} tensor; it is {step}',
    )
    return t.made(lambda i: start + step * i.astype(np.float64))


# Fills that are made as a whole


def _values(t: _Tensor, given) -> np.ndarray:
    require(isinstance(given, list), f"{t.who} must be a list; it is {given!r}")
    flat = []

    def walk(part, shape):
        if not shape:
            flat.append(_value(part, t.dtype, t.who))
            return
        require(
            isinstance(part, list) and len(part) == shape[0],
            f'{t.who}: "values" must be a flat list, or nested as the shape {list(t.shape)} is; one part is {part!r:.60}',
        )
        for inner in part:
            walk(inner, shape[1:])

    nested = len(given) > 0 and isinstance(given[0], list)
    walk(given, t.shape if nested else (len(given),))
    require(len(flat) == t.size, f"{t.who}: the shape {list(t.shape)} needs {t.size} values; there are {len(flat)}")
    return dtypes.to_storage(np.array(flat, dtype=np.float64), t.dtype)


def _permutation(t: _Tensor, given) -> np.ndarray:
    count = _Parameters(t.who, given, required=("count",)).whole("count", 0, 2**28)
    require(count >= t.size, f'{t.who}: "count" must be at least the tensor\'s {t.size} elements; it is {count}')
    if count > 0:
        _value(count - 1, t.dtype, t.who)
    drawn = _by_first_word(t.random, 0, count, stream=0)[: t.size]
    return dtypes.to_storage(drawn.astype(np.float64), t.dtype)


def _selection(t: _Tensor, given) -> np.ndarray:
    require(
        t.dtype in ("int32", "int64") and len(t.shape) > 0,
        f"{t.who} makes positions and -1, int32 or int64 [..., k]; the tensor is {t.dtype} {list(t.shape)}",
    )
    R, k = _rows(t.shape), _cols(t.shape)
    p = _Parameters(t.who, given, required=("context",), optional=("causal", "order", "at_most"))
    S = p.whole("context", 0, 2**31)
    causal, at_most = p.flag("causal", True), p.whole("at_most", 0, 2**53, k)
    order = p.choice("order", ("ascending", "drawn"), "ascending")
    require(not causal or S >= R, f'{t.who}: a causal "context" must be at least the tensor\'s {R} rows; it is {S}')
    indices = np.full((R, k), -1, dtypes.storage(t.dtype))
    for r in range(R):
        n = S - R + r + 1 if causal else S
        drawn = _by_first_word(t.random, r * S, n, stream=2)[: min(k, at_most, n)]
        indices[r, : len(drawn)] = drawn if order == "drawn" else np.sort(drawn)
    return indices


def _crowded(t: _Tensor, given) -> np.ndarray:
    t.require_floating()
    require(len(t.shape) > 0, f"{t.who} needs a tensor with at least one axis; the shape is []")
    R, N = _rows(t.shape), _cols(t.shape)
    p = _Parameters(t.who, given, required=("count", "low", "high", "rest_low", "rest_high"))
    count = p.whole("count", 0, 2**53)
    require(count <= N, f'{t.who}: "count" must be at most the last axis, {N}; it is {count}')
    chosen, rest = _interval(p, "low", "high"), _interval(p, "rest_low", "rest_high")
    x = np.empty((R, N), np.float32)
    for r in range(R):
        w0 = t.random.words(np.arange(r * N, (r + 1) * N, dtype=np.uint64))[0]
        x[r] = rest(w0)
        columns = _by_first_word(t.random, r * N, N, stream=2)[:count]
        x[r, columns] = chosen(w0[columns])
    return dtypes.to_storage(x, t.dtype)


def _kv_pages(t: _Tensor, given) -> np.ndarray:
    p = _Parameters(t.who, given, required=("std", "quantizer", "scale_format"), optional=("R_kv", "d_rope"))
    R_kv, d_rope = p.whole("R_kv", 1, 2**32, 512), p.whole("d_rope", 0, 2**32, 64)
    require(R_kv < BLOCK or R_kv % BLOCK == 0, f'{t.who}: "R_kv" must be below 128, or a multiple of it; it is {R_kv}')
    block = min(R_kv, BLOCK)
    scale, quantizer = _bell_scale(p), _quantizer(p)
    bytes_ = R_kv + 4 * (R_kv // block) + 2 * d_rope
    pages = _pages(t, [PAGE_TOKENS, bytes_])
    out = np.empty((pages, PAGE_TOKENS, bytes_), np.uint8)
    for page in range(pages):
        bf16 = _page_of_tokens(t, page, R_kv + d_rope, scale)  # [64, R_kv + d_rope]
        latent = dtypes.from_bfloat16(bf16[:, :R_kv]).reshape(PAGE_TOKENS, -1, block)
        q, scales = quantize(latent, *quantizer)  # [64, blocks, block], [64, blocks]
        rope = np.ascontiguousarray(bf16[:, R_kv:])
        parts = q.reshape(PAGE_TOKENS, R_kv), _bytes(scales), _bytes(rope)
        out[page] = np.concatenate(parts, axis=1)
    return out


def _key_pages(t: _Tensor, given) -> np.ndarray:
    p = _Parameters(t.who, given, required=("std", "quantizer", "scale_format"), optional=("D_I",))
    D_I = p.whole("D_I", 1, 2**32, 128)
    scale, quantizer = _bell_scale(p), _quantizer(p)
    bytes_ = PAGE_TOKENS * (D_I + 4)
    pages = _pages(t, [bytes_])
    out = np.empty((pages, bytes_), np.uint8)
    for page in range(pages):
        q, scales = quantize(dtypes.from_bfloat16(_page_of_tokens(t, page, D_I, scale)), *quantizer)  # [64, D_I], [64]
        out[page] = np.concatenate([q.reshape(-1), _bytes(scales)])
    return out


FILLS = {
    "normal": _normal,
    "outliers": _outliers,
    "uniform": _uniform,
    "levels": _levels,
    "constant": _constant,
    "integers": _integers,
    "arange": _arange,
    "values": _values,
    "permutation": _permutation,
    "selection": _selection,
    "crowded": _crowded,
    "kv_pages": _kv_pages,
    "key_pages": _key_pages,
}


def quantize(x: np.ndarray, quantizer: str, scale_format: str) -> tuple[np.ndarray, np.ndarray]:
    """Quantises each vector along the last axis with one scale. spec sections 3 and 9.

    x: float32 [..., n] -> e4m3 bytes [..., n], scales float32 [...]; byte's number * scale is near x.
    """
    if quantizer == "none":
        return dtypes.to_e4m3(x), np.ones(x.shape[:-1], np.float32)
    amax = np.abs(x).max(axis=-1)
    floors = {"deepseek": 1e-4, "vllm": 2.0**-126, "no_floor": 0.0, "flashmla": 0.0}
    scale = np.maximum(amax, np.float32(floors[quantizer])) / dtypes.E4M3_MAX
    if quantizer == "flashmla":
        scale = np.maximum(scale, np.float32(1e-4))
    if scale_format == "ue8m0":
        mantissa, exponent = np.frexp(scale)  # scale = mantissa * 2^exponent, mantissa in [0.5, 1)
        power = np.where(mantissa == 0.5, exponent - 1, exponent)
        scale = np.ldexp(np.float32(1), np.maximum(power, -127)).astype(np.float32)
    return dtypes.to_e4m3(x / scale[..., None]), scale


# Shared pieces


def _by_first_word(random: RandomTensor, base: int, count: int, stream: int) -> np.ndarray:
    """The numbers j = 0 ... count - 1 sorted by (w0 of element base + j, j)."""
    elements = np.arange(base, base + count, dtype=np.uint64)
    return np.argsort(random.words(elements, stream)[0], kind="stable")


def _page_of_tokens(t: _Tensor, page: int, cols: int, scale: np.float32) -> np.ndarray:
    """The normal numbers of one page's tokens. -> bf16 [64, cols]"""
    first = page * PAGE_TOKENS * cols
    elements = np.arange(first, first + PAGE_TOKENS * cols, dtype=np.uint64)
    return dtypes.to_bfloat16(t.random.bell(elements).astype(np.float32) * scale).reshape(PAGE_TOKENS, cols)


def _bytes(x: np.ndarray) -> np.ndarray:
    """The little-endian bytes of each row. -> uint8 [..., n * itemsize]"""
    return np.ascontiguousarray(x.astype(x.dtype.newbyteorder("<"))).view(np.uint8)


def _pages(t: _Tensor, page_shape: list) -> int:
    expected = ", ".join(str(n) for n in page_shape)
    require(
        t.dtype == "uint8" and list(t.shape[1:]) == page_shape,
        f"{t.who} makes uint8 [pages, {expected}]; the tensor is {t.dtype} {list(t.shape)}",
    )
    return t.shape[0]


def _rows(shape: tuple) -> int:
    return math.prod(shape[:-1]) if _cols(shape) > 0 else 0


def _cols(shape: tuple) -> int:
    return shape[-1] if shape else 1


def _is_number(x) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _is_whole(x) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _shape(entry: dict, who: str) -> tuple:
    shape = entry.get("shape")
    require(isinstance(shape, list), f'{who} needs a "shape", a list of whole numbers')
    for extent in shape:
        require(
            _is_whole(extent) and 0 <= extent <= 2**40,
            f"{who}: the shape must be whole numbers from 0 to 2^40; it has {extent!r}",
        )
    size = math.prod(max(extent, 1) for extent in shape)
    require(size <= 2**53, f"{who}: the shape {shape} has more than 2^53 elements")
    return tuple(shape)


def _value(x, dtype: str, who: str) -> float:
    """A value of a case that can be an element of the tensor: a number, "nan", "inf" or "-inf"."""
    if x in ("nan", "inf", "-inf"):
        x = float(x)
    else:
        require(
            _is_number(x) and abs(x) <= sys.float_info.max, f'{who}: a value must be a number, "nan", "inf" or "-inf"; it is {x!r}'
        )
    if dtype in dtypes.FLOATING:
        fits = dtype == "float64" or not math.isfinite(x) or abs(x) <= dtypes.FLOAT32_MAX
        require(fits, f"{who}: {x} is beyond what {dtype} is made from, float32")
    else:
        low, high = dtypes.whole_range(dtype)
        require(
            low <= x <= high and x == math.trunc(x),
            f"{who}: {x:g} cannot be an element of a {dtype} tensor; it holds whole numbers from {low} to {high}",
        )
    return float(x)


def _patch(entry: dict, key: str, dtype: str, places: np.ndarray, who: str) -> None:
    who = f'{who}: "{key}"'
    patches = entry.get(key, [])
    require(isinstance(patches, list), f"{who} must be a list of [place, value]; it is {patches!r}")
    for patch in patches:
        require(
            isinstance(patch, list) and len(patch) == 2, f"{who} must be a list of [place, value]; it has {patch!r}"
        )
        place, value = patch
        require(
            _is_whole(place) and 0 <= place < len(places),
            f"{who}: a place must be a whole number from 0 to {len(places) - 1}; it is {place!r}",
        )
        places[place] = dtypes.to_storage(np.float64(_value(value, dtype, who)), dtype)


class _Parameters:
    """The parameters of one fill, with none missing, none unknown."""

    def __init__(self, who: str, given, required: tuple = (), optional: tuple = ()):
        require(isinstance(given, dict), f"{who} must be an object of parameters; it is {given!r}")
        for key in required:
            require(key in given, f'{who} needs "{key}"')
        known = required + optional
        for key in given:
            require(key in known, f'{who} has no parameter "{key}"; it has {", ".join(known)}')
        self.who, self.given = who, given

    def number(self, key: str, otherwise: float = 0.0) -> float:
        x = self.given.get(key, otherwise)
        require(
            _is_number(x) and abs(x) <= dtypes.FLOAT32_MAX,
            f'{self.who}: "{key}" must be a number within float32; it is {x!r}',
        )
        return float(x)

    def whole(self, key: str, lowest: int, highest: int, otherwise: int = 0) -> int:
        x = self.given.get(key, otherwise)
        require(
            _is_whole(x) and lowest <= x <= highest,
            f'{self.who}: "{key}" must be a whole number from {lowest} to {highest}; it is {x!r}',
        )
        return x

    def flag(self, key: str, otherwise: bool) -> bool:
        x = self.given.get(key, otherwise)
        require(isinstance(x, bool), f'{self.who}: "{key}" must be true or false; it is {x!r}')
        return x

    def choice(self, key: str, choices: tuple, otherwise: str = "") -> str:
        x = self.given.get(key, otherwise)
        words = ", ".join(f'"{c}"' for c in choices)
        require(x in choices, f'{self.who}: "{key}" must be one of {words}; it is {x!r}')
        return x


def _bell_scale(p: _Parameters) -> np.float32:
    std = p.number("std")
    require(0 <= std <= 1e37, f'{p.who}: "std" must be from 0 to 1e37, so that 5 of it are within float32; it is {std}')
    return np.float32(std / BELL_DEVIATION)


def _interval(p: _Parameters, low_key: str, high_key: str):
    """-> a function from words w0 to float32 numbers in [low, high)"""
    low, high = p.number(low_key), p.number(high_key)
    require(low <= high, f'{p.who}: "{low_key}" must not be above "{high_key}"; they are {low} and {high}')
    require(
        high - low <= dtypes.FLOAT32_MAX,
        f'{p.who}: "{high_key}" - "{low_key}" must be within float32; it is {high - low}',
    )
    width = np.float32(high - low)
    return lambda w0: np.float32(low) + width * ((w0 >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24))


def _quantizer(p: _Parameters) -> tuple[str, str]:
    quantizer = p.choice("quantizer", ("deepseek", "flashmla", "vllm", "no_floor", "none"))
    require(
        quantizer != "no_floor" or p.number("std") >= 1e-25,
        f'{p.who}: the quantizer "no_floor" needs a "std" of at least 1e-25; smaller ones can give blocks of zeros',
    )
    return quantizer, p.choice("scale_format", ("float32", "ue8m0"))
