"""Do the adapters ask other systems our questions, and give their answers back as ours?

No peer runs here. Each is stood in for by NumPy written from the peer's documentation, which insists on the peer's
shapes and dtypes, computes in float64 and answers in the peer's convention. Through the adapter its results must be
the goldens' within their bounds; those of a stand-in with one thing wrong must not be.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from touchstone import Refusal, cases, fill
from touchstone.adapters import (
    _torch,
    deepgemm,
    flashinfer,
    flashmla,
    sglang,
    transformers,
    vllm,
)

BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
LOGICAL = {"bfloat16": BF16, "float8_e4m3": E4M3}


# The answers, and how they are compared


class Golden:
    """A case answered by the reference under the conventions of a plug-in function."""

    def __init__(self, reference, scratch, entry: dict, op: str, conventions: dict, arrays: dict | None = None):
        given = entry.get("conventions", "deepseek-v3.2-exp")
        base = {"preset": given} if isinstance(given, str) else given
        entry = {"note": "", "flags": [], **entry, "conventions": base | conventions}
        source, self.folder = scratch / "in", scratch / "out"
        cases.write_in_dir(cases.Case(op, entry), source)
        self.inputs = {}
        for name, tensor in entry["tensors"].items():
            made = arrays[name] if arrays else fill.materialise(tensor, name, entry["seed"])
            if arrays:
                np.save(source / f"{name}.npy", made)
            self.inputs[name] = made.view(LOGICAL.get(tensor["dtype"], made.dtype))
        self.parameters = entry["parameters"]
        self.reference, self.op = reference, op
        run = subprocess.run([reference, "golden", source, self.folder], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr

    def load(self, tier: str, name: str) -> np.ndarray:
        return np.load(self.folder / tier / f"{name}.npy", allow_pickle=False)

    def unrounded(self, stage: str) -> np.ndarray:
        """A stage in float64 throughout; `exact` in the golden starts from the deployed stage before it."""
        out = self.folder / "unrounded"
        if not out.exists():
            source = self.folder / "inputs"
            subprocess.run([self.reference, "op", self.op, source, out, "--tier", "exact", "--stages"], check=True)
        return np.load(out / f"{stage}.npy", allow_pickle=False)

    def ask(self, plugin) -> dict:
        return plugin(**self.inputs, **self.parameters)


@pytest.fixture(scope="module")
def golden(reference, tmp_path_factory):
    """golden(op, case, conventions) -> Golden, each made once."""
    made: dict = {}

    def make(op: str, case: str, conventions: dict) -> Golden:
        key = (op, case, json.dumps(conventions))
        if key not in made:
            entry = next(c.entry for c in cases.all_cases() if c.name == f"{op}/{case}")
            made[key] = Golden(reference, tmp_path_factory.mktemp("golden"), entry, op, conventions)
        return made[key]

    return make


def small(op: str, *, without: tuple = (), flagged_not: str | None = None) -> list[str]:
    """The small cases of an op, by their short names."""
    chosen = [c for c in cases.all_cases() if c.op == op and c.size == "small" and flagged_not not in c.flags]
    return [c.entry["name"] for c in chosen if c.entry["name"] not in without]


def within(result: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> bool:
    """Every element is equal (infinities too) or off by at most its bound; a NaN is neither."""
    if result.shape != exact.shape:
        return False
    result = result.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return bool(((result == exact) | (np.abs(result - exact) <= bound)).all())


def right(golden: Golden, results: dict, names: tuple) -> bool:
    return set(results) == set(names) and all(
        within(results[n], golden.load("exact", n), golden.load("exact_bound", n)) for n in names
    )


def same_bytes(golden: Golden, results: dict) -> bool:
    """Outputs with one right answer."""
    for name, result in results.items():
        wanted = golden.load("deployed", name)
        if result.shape != wanted.shape or result.tobytes() != wanted.tobytes():
            return False
    return True


def right_selection(indices, logits, bound, start, end) -> bool:
    """docs/04-selection.md: min(k, candidates) distinct candidates, every must and no must-not, -1 in the rest.

    indices: int32 [T, k]  logits, bound: [T, S]  start, end: [T]
    """
    k = indices.shape[1]
    for row, scores, b, first, last in zip(indices, logits.astype(np.float64), bound, start, end):
        chosen = row[row != -1]
        count = min(k, last - first)
        if len(chosen) != count or len(set(chosen.tolist())) != count:
            return False
        if not all(first <= s < last for s in chosen):
            return False
        low, high = scores[first:last] - b[first:last], scores[first:last] + b[first:last]
        for i in range(last - first):
            could_beat = int((high >= low[i]).sum()) - 1  # others
            surely_beat = int((low > high[i]).sum())
            selected = first + i in chosen
            if (could_beat < k and not selected) or (surely_beat >= k and selected):
                return False
    return True


def implemented(plugin, golden: Golden) -> dict | None:
    """The plug-in's results; None where the peer cannot do this, said in a sentence."""
    try:
        return golden.ask(plugin)
    except NotImplementedError as reason:
        assert len(str(reason)) > 20 and "\n" not in str(reason)
        return None


def test_the_comparison_fails_on_nan_and_on_shapes():
    one = np.ones(3)
    assert within(one, one, np.zeros(3))
    assert not within(np.array([1, np.nan, 1]), one, np.full(3, np.inf))
    assert not within(one[:2], one, one)
    assert not within(np.array([np.inf, 1, 1]), np.array([-np.inf, 1, 1]), np.array([np.nan, 0, 0]))


def test_the_judge_of_selections_fails_on_each_kind_of_mistake():
    logits, zero = np.array([[5.0, 1, 4, 3, 2]]), np.zeros((1, 5))

    def judged(*chosen, bound=zero, end=5):
        return right_selection(np.array([chosen], np.int32), logits, bound, [0], [end])

    assert judged(2, 0) and judged(0, 2) and judged(0, 1, -1, -1, end=2)
    assert not judged(0, 3) and not judged(0, 0) and not judged(0, -1) and not judged(0, 5)
    assert not judged(0, 1, 2, 3, end=2)
    assert judged(0, 3, bound=zero + 0.5) and not judged(0, 4, bound=zero + 0.5)


# FlashMLA


def e4m3_number(byte: int) -> float:
    """A byte as e4m3: sign, 4 bits of exponent with bias 7, 3 of mantissa; the exponent 0 is of subnormals."""
    sign, exponent, mantissa = -1.0 if byte & 0x80 else 1.0, byte >> 3 & 15, byte & 7
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


NUMBER_OF_BYTE = np.array([e4m3_number(b) if b & 0x7F != 0x7F else math.nan for b in range(256)])


def attend(q, rows, scale, sink, natural=True, empty=math.inf):
    """One query token over gathered rows. q: [H, 576]  rows: [n, 576] -> out [H, 512], max_logits [H], lse [H]"""
    H = len(q)
    if len(rows) == 0:
        return np.zeros((H, 512)), np.full(H, -np.inf), np.full(H, empty)
    scores = (q @ rows.T) * scale
    top = scores.max(axis=1)
    weights = np.exp(scores - top[:, None])
    lse = top + np.log(weights.sum(axis=1))
    out = weights @ rows[:, :512] / weights.sum(axis=1)[:, None]
    if sink is not None:
        out /= 1 + np.exp(sink - lse)[:, None]
    return (out, top, lse) if natural else (out, top / math.log(2), lse / math.log(2))


def flash_mla_sparse_fwd(natural=True, empty=math.inf, rope_first=False, ignores_scale=False):
    def stand_in(q, kv, indices, sm_scale, d_v=512, attn_sink=None, topk_length=None):
        T, H, d = q.shape
        assert q.dtype == kv.dtype == BF16 and indices.dtype == np.int32
        assert H in (64, 128) and d == 576 and d_v == 512 and kv.shape[1:] == (1, 576)
        assert indices.shape[:2] == (T, 1) and indices.shape[2] % 128 == 0 and topk_length is None
        assert attn_sink is None or (attn_sink.shape == (H,) and attn_sink.dtype == np.float32)
        out, top, lse = np.empty((T, H, 512)), np.empty((T, H)), np.empty((T, H))
        keys = kv[:, 0].astype(np.float64)
        if rope_first:
            keys = np.roll(keys, 64, axis=1)
        for t in range(T):
            rows = keys[[i for i in indices[t, 0] if 0 <= i < len(keys)]]
            scale = d**-0.5 if ignores_scale else sm_scale
            out[t], top[t], lse[t] = attend(q[t].astype(np.float64), rows, scale, attn_sink, natural, empty)
        return out.astype(np.float32).astype(BF16), top.astype(np.float32), lse.astype(np.float32)

    return stand_in


def flash_mla_with_kvcache(natural=True, scales_last=False, transposed=True):
    def stand_in(q, k_cache, block_table, cache_seqlens, head_dim_v, softmax_scale, causal, is_fp8_kvcache, indices,
                 attn_sink=None):  # fmt: skip
        B, s_q, H, d = q.shape
        assert q.dtype == BF16 and k_cache.dtype == np.uint8 and indices.dtype == np.int32
        assert H in (64, 128) and d == 576 and head_dim_v == 512 and k_cache.shape[1:] == (64, 1, 656)
        assert indices.shape[:2] == (B, s_q) and indices.shape[2] % 64 == 0 and is_fp8_kvcache and not causal
        out, lse = np.empty((B, s_q, H, 512)), np.empty((B, s_q, H))
        scales_at, rope_at = (640, 512) if scales_last else (512, 528)

        def token(slot):
            assert slot < len(k_cache) * 64, "this would read beyond the cache"
            record = k_cache[slot // 64, slot % 64, 0]
            scales = np.repeat(record[scales_at : scales_at + 16].view(np.float32), 128).astype(np.float64)
            latent = (NUMBER_OF_BYTE[record[:512]] * scales).astype(np.float32).astype(BF16)
            return np.concatenate([latent, record[rope_at : rope_at + 128].view(BF16)]).astype(np.float64)

        for b in range(B):
            for i in range(s_q):
                rows = np.array([token(slot) for slot in indices[b, i] if slot != -1]).reshape(-1, 576)
                out[b, i], _, lse[b, i] = attend(q[b, i].astype(np.float64), rows, softmax_scale, attn_sink, natural)
        lse = lse.astype(np.float32)
        return out.astype(np.float32).astype(BF16), lse.transpose(0, 2, 1) if transposed else lse

    return stand_in


def flashmla_prefill_is_right(golden, case, **wrong):
    plugin = flashmla.sparse_prefill(flash_mla_sparse_fwd(**wrong))
    answer = golden("sparse_prefill", case, plugin.conventions)
    return right(answer, answer.ask(plugin), ("out", "lse", "max_logit"))


def flashmla_decode_is_right(golden, case, **wrong):
    plugin = flashmla.sparse_decode(flash_mla_with_kvcache(**wrong))
    answer = golden("sparse_decode", case, plugin.conventions)
    return right(answer, answer.ask(plugin), ("out", "lse"))


@pytest.mark.parametrize("case", small("sparse_prefill", without=("duplicates",)))
def test_flashmla_sparse_prefill(golden, case):
    assert flashmla_prefill_is_right(golden, case)


@pytest.mark.parametrize("case", small("sparse_decode", without=("slots_twice",)))
def test_flashmla_sparse_decode(golden, case):
    assert flashmla_decode_is_right(golden, case)


@pytest.mark.parametrize("case, wrong", [
    ("typical", {"natural": False}), ("typical", {"rope_first": True}), ("tiny", {"ignores_scale": True}),
    ("empty_row", {"empty": -math.inf}), ("sink", {"natural": False}),
])  # fmt: skip
def test_flashmla_sparse_prefill_notices(golden, case, wrong):
    assert not flashmla_prefill_is_right(golden, case, **wrong)


@pytest.mark.parametrize("case, wrong", [
    ("typical", {"natural": False}), ("typical", {"scales_last": True}), ("tiny", {"scales_last": True}),
    ("s_q_2", {"transposed": False}),
])  # fmt: skip
def test_flashmla_sparse_decode_notices(golden, case, wrong):
    assert not flashmla_decode_is_right(golden, case, **wrong)


@pytest.mark.parametrize("case", ["typical", "base2", "empty_row"])
def test_flashmla_of_base_2(golden, case):
    for natural in (False, True):
        plugin = flashmla.sparse_prefill(flash_mla_sparse_fwd(natural=natural), base2=True)
        answer = golden("sparse_prefill", case, plugin.conventions)
        assert right(answer, answer.ask(plugin), ("out", "lse", "max_logit")) is not natural


def test_flashmla_says_what_it_cannot_do(golden):
    prefill = flashmla.sparse_prefill(flash_mla_sparse_fwd())
    with pytest.raises(NotImplementedError, match="twice"):
        golden("sparse_prefill", "duplicates", prefill.conventions).ask(prefill)
    decode = flashmla.sparse_decode(flash_mla_with_kvcache())
    with pytest.raises(NotImplementedError, match="twice"):
        golden("sparse_decode", "slots_twice", decode.conventions).ask(decode)
    one = np.zeros((1, 129, 576), BF16)
    with pytest.raises(NotImplementedError, match="129"):
        prefill(q=one, kv=one[0], indices=np.zeros((1, 1), np.int32))
    with pytest.raises(NotImplementedError, match="500 \\+ 76"):
        prefill(q=one[:, :1], kv=one[0], indices=np.zeros((1, 1), np.int32), d_v=500)


def test_flashmla_gets_slots_beyond_the_cache_as_minus_one(golden):
    plugin = flashmla.sparse_decode(flash_mla_with_kvcache())
    inputs = dict(golden("sparse_decode", "tiny", plugin.conventions).inputs)
    skipped, beyond = inputs["indices"].copy(), inputs["indices"].copy()
    skipped[..., 3], beyond[..., 3] = -1, 64 * len(inputs["kv_pages"]) + 5
    results = [plugin(**inputs | {"indices": indices}, scale=0.2, R_kv=128) for indices in (skipped, beyond)]
    assert all(results[0][name].tobytes() == results[1][name].tobytes() for name in ("out", "lse"))


# DeepGEMM


def score(q, keys, weights, relu_last=False):
    """q: [H, D]  keys: [n, D]  weights: [H] -> [n]"""
    dots = q.astype(np.float64) @ keys.T
    return np.maximum(weights @ dots, 0) if relu_last else weights.astype(np.float64) @ np.maximum(dots, 0)


def fp8_mqa_logits(inclusive=False, cleans=True, relu_last=False):
    def stand_in(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits=True, max_seqlen_k=0):
        k, k_scale = kv
        (T, H, D), S = q.shape, len(k)
        assert q.dtype == k.dtype == E4M3 and weights.dtype == k_scale.dtype == np.float32
        assert H in (32, 64) and D in (32, 64, 128) and k.shape == (S, D) and weights.shape == (T, H)
        assert cu_seq_len_k_start.shape == cu_seq_len_k_end.shape == (T,) and cu_seq_len_k_end.dtype == np.int32
        assert k_scale.shape == (S,) and clean_logits and max_seqlen_k == 0
        logits = np.full((T, S), -np.inf if cleans else 0.0)
        for t in range(T):
            first, last = cu_seq_len_k_start[t], cu_seq_len_k_end[t] + inclusive
            keys = k[first:last].astype(np.float64) * k_scale[first:last, None]
            logits[t, first:last] = score(q[t], keys, weights[t], relu_last)
        return logits.astype(np.float32)

    return stand_in


def fp8_fp4_mqa_logits(absolute=False, inclusive=False):
    """Always compressed: row t holds positions start[t] ... in its first columns, and anything behind them."""

    def stand_in(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, max_seqlen_k, schedule_meta=None):
        (q, q_scale), (k, k_scale) = q, kv
        assert q_scale is None and 0 < max_seqlen_k <= len(k)
        whole = fp8_mqa_logits(inclusive)(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end)
        packed = np.full((len(q), max_seqlen_k), np.nan, np.float32)
        for t, (first, last) in enumerate(zip(cu_seq_len_k_start, cu_seq_len_k_end)):
            assert last - first <= max_seqlen_k
            if absolute:
                packed[t] = whole[t, :max_seqlen_k]
            else:
                packed[t, : last - first] = whole[t, first:last]
        return packed

    return stand_in


def fp8_paged_mqa_logits(rows_of_132=False):
    def stand_in(q, kv_cache, weights, context_lens, block_table, max_context_len, clean_logits):
        B, next_n, H, D = q.shape
        assert q.dtype == E4M3 and kv_cache.dtype == np.uint8 and weights.dtype == np.float32
        assert H in (32, 64) and next_n in (1, 2) and kv_cache.shape[1:] == (64, 1, D + 4)
        assert context_lens.shape == (B, next_n) and context_lens.dtype == block_table.dtype == np.int32
        assert weights.shape == (B * next_n, H) and block_table.shape[0] == B and not clean_logits
        logits = np.full((B * next_n, max_context_len), np.nan)  # what is not written is anything
        for b in range(B):
            for i in range(next_n):
                length = context_lens[b, i]
                keys = np.empty((length, D))
                for s in range(length):
                    page = kv_cache[block_table[b, s // 64]].reshape(-1)
                    if rows_of_132:
                        key, scale = np.split(page.reshape(64, D + 4)[s % 64], [D])
                    else:
                        key = page[s % 64 * D : (s % 64 + 1) * D]
                        scale = page[64 * D + s % 64 * 4 : 64 * D + s % 64 * 4 + 4]
                    keys[s] = NUMBER_OF_BYTE[key] * scale.copy().view(np.float32)
                logits[b * next_n + i, :length] = score(q[b, i], keys, weights[b * next_n + i])
        with np.errstate(over="ignore"):
            return logits.astype(np.float32)

    return stand_in


def deepgemm_is_right(golden, op, stand_in, case, build=None):
    plugin = (build or getattr(deepgemm, op))(stand_in)
    answer = golden(op, case, plugin.conventions)
    return right(answer, answer.ask(plugin), ("logits",))


@pytest.mark.parametrize("case", small("indexer_logits", without=("narrow_beyond_128k",)))
def test_deepgemm_indexer_logits(golden, case):
    assert deepgemm_is_right(golden, "indexer_logits", fp8_mqa_logits(), case)


@pytest.mark.parametrize("case", small("indexer_logits", without=("narrow_beyond_128k",)))
def test_deepgemm_indexer_logits_compressed(golden, case):
    build = deepgemm.indexer_logits_compressed
    assert deepgemm_is_right(golden, "indexer_logits", fp8_fp4_mqa_logits(), case, build)


def test_deepgemm_indexer_logits_compressed_notices_absolute_columns(golden):
    build = deepgemm.indexer_logits_compressed
    assert not deepgemm_is_right(golden, "indexer_logits", fp8_fp4_mqa_logits(absolute=True), "packed", build)


@pytest.mark.parametrize("case", small("indexer_logits_paged"))
def test_deepgemm_indexer_logits_paged(golden, case):
    assert deepgemm_is_right(golden, "indexer_logits_paged", fp8_paged_mqa_logits(), case)


@pytest.mark.parametrize("case, wrong", [
    ("packed", {"inclusive": True}), ("causal", {"cleans": False}), ("causal", {"relu_last": True}),
])  # fmt: skip
def test_deepgemm_indexer_logits_notices(golden, case, wrong):
    assert not deepgemm_is_right(golden, "indexer_logits", fp8_mqa_logits(**wrong), case)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_deepgemm_indexer_logits_paged_notices_rows_of_132_bytes(golden):
    assert not deepgemm_is_right(golden, "indexer_logits_paged", fp8_paged_mqa_logits(rows_of_132=True), "ragged")


def test_deepgemm_indexer_logits_paged_notices_another_token_s_length(golden):
    def exchanged(context_lens, **inputs):
        return fp8_paged_mqa_logits()(context_lens=np.ascontiguousarray(context_lens[:, ::-1]), **inputs)

    assert not deepgemm_is_right(golden, "indexer_logits_paged", exchanged, "s_q_2")


def test_deepgemm_says_what_it_cannot_do():
    plugin = deepgemm.indexer_logits(fp8_mqa_logits())
    one = np.zeros(1, np.int32)
    for heads, width, said in ((65, 128, "65"), (64, 96, "96")):
        q, k = np.zeros((1, heads, width), E4M3), np.zeros((1, width), E4M3)
        with pytest.raises(NotImplementedError, match=said):
            weights = np.ones((1, heads), np.float32)
            plugin(q=q, k=k, k_scale=np.ones(1, np.float32), weights=weights, start=one, end=one)


# FlashInfer and SGLang: top-k


def largest(scores, k) -> np.ndarray:
    """The columns of the k largest numbers (all of them if there are fewer), lower ones first, in no helpful order."""
    best = sorted(range(len(scores)), key=lambda j: (-scores[j], j))[:k]
    return np.random.default_rng(len(scores)).permutation(best).astype(np.int32)


def rows_of(chosen, k, unused=-1) -> np.ndarray:
    rows = [np.concatenate([c, np.full(k - len(c), unused)]) for c in chosen]
    return np.array(rows, np.int32).reshape(len(chosen), k)


def ragged_transform(unused=-1, adds=True, smallest=False):
    def stand_in(input, offsets, lengths, k, deterministic=False, tie_break=0):
        assert input.dtype == np.float32 and offsets.dtype == lengths.dtype == np.int32
        assert offsets.shape == lengths.shape == (len(input),) and deterministic and tie_break == 1
        picked = [largest(-row[:n] if smallest else row[:n], k) + (o if adds else 0)
                  for row, n, o in zip(input, lengths, offsets)]  # fmt: skip
        return rows_of(picked, k, unused)

    return stand_in


def page_table_transform(input, src_page_table, lengths, k, row_to_batch=None, deterministic=False, tie_break=0):
    assert src_page_table.shape == input.shape and src_page_table.dtype == np.int32 and row_to_batch is None
    return rows_of([table[largest(row[:n], k)] for row, n, table in zip(input, lengths, src_page_table)], k)


def plain_top_k(input, k, sorted=False, deterministic=False, tie_break=0):
    columns = np.array([largest(row, k) for row in input], np.int64).reshape(len(input), k)
    return np.take_along_axis(input, columns, 1), columns


def selects_rightly(plugin, answer: Golden) -> bool | None:
    results = implemented(plugin, answer)
    if results is None:
        return None
    given, indices = answer.inputs, results["indices"]
    assert indices.dtype == np.int32 and indices.shape == (len(given["logits"]), answer.parameters["topk"])
    return right_selection(indices, given["logits"], np.zeros_like(given["logits"]), given["start"], given["end"])


SCORES = small("top_k", flagged_not="nan")  # how a NaN ranks, neither peer says


@pytest.mark.parametrize("case", SCORES)
@pytest.mark.parametrize("plugin", [
    flashinfer.top_k(ragged_transform()), flashinfer.top_k_page_table(page_table_transform),
    flashinfer.top_k_plain(plain_top_k),
], ids=["ragged", "page_table", "plain"])  # fmt: skip
def test_flashinfer_top_k(golden, case, plugin):
    assert selects_rightly(plugin, golden("top_k", case, plugin.conventions))


@pytest.mark.parametrize("case, wrong", [
    ("packed", {"adds": False}), ("fewer_than_k", {"unused": 0}), ("typical", {"smallest": True}),
    ("no_candidate", {"unused": 0}),
])  # fmt: skip
def test_flashinfer_top_k_notices(golden, case, wrong):
    assert not selects_rightly(flashinfer.top_k(ragged_transform(**wrong)), golden("top_k", case, {}))


def fast_topk(relative=True, how="indices"):
    """sgl_kernel's three functions: they select the same, and differ in what they make of a column."""

    def stand_in(score, lengths, topk, row_starts=None, topk_indices_offset=None, page_table_size_1=None,
                 cu_seqlens_q=None):  # fmt: skip
        assert topk == 2048 and score.dtype == np.float32 and lengths.dtype == row_starts.dtype == np.int32
        chosen = []
        for t, (first, n) in enumerate(zip(row_starts, lengths)):
            columns = largest(score[t, first : first + n], topk) + (0 if relative else first)
            if how == "ragged":
                columns = columns + topk_indices_offset[t]
            if how == "page_table":
                request = int(np.searchsorted(cu_seqlens_q, t, side="right")) - 1
                columns = page_table_size_1[request][columns]
            chosen.append(columns)
        return rows_of(chosen, topk)

    return stand_in


@pytest.fixture(scope="module")
def packed_rows(reference, tmp_path_factory):
    """A top_k question of SGLang's size: packed rows longer and shorter than k = 2048."""
    tensors = {
        "logits": {"dtype": "float32", "shape": [4, 6000], "fill": {"normal": {"std": 3}}},
        "start": {"dtype": "int32", "shape": [4], "fill": {"values": [0, 100, 2500, 5000]}},
        "end": {"dtype": "int32", "shape": [4], "fill": {"values": [2048, 6000, 6000, 5000]}},
    }
    entry = {"name": "packed_2048", "seed": 3, "parameters": {"topk": 2048}, "tensors": tensors}
    return Golden(reference, tmp_path_factory.mktemp("packed"), entry, "top_k", {})


SGLANG = [(sglang.top_k, "indices"), (sglang.top_k_page_table, "page_table"), (sglang.top_k_ragged, "ragged")]


@pytest.mark.parametrize("build, how", SGLANG)
def test_sglang_top_k(golden, packed_rows, build, how):
    assert selects_rightly(build(fast_topk(how=how)), packed_rows)
    judged = {case: selects_rightly(build(fast_topk(how=how)), golden("top_k", case, {})) for case in SCORES}
    assert {case for case, verdict in judged.items() if verdict} == {c for c in SCORES if c.startswith("crowded")}
    assert all(verdict is not False for verdict in judged.values())


@pytest.mark.parametrize("build, how", [SGLANG[0], SGLANG[2]])
def test_sglang_top_k_notices_absolute_indices(packed_rows, build, how):
    assert not selects_rightly(build(fast_topk(relative=False, how=how)), packed_rows)


# vLLM and SGLang: the caches


def quantised(block, floor_of_amax=0.0, floor_of_scale=0.0, power_of_two=False):
    """One block with one scale, operation by operation. float32 [n] -> e4m3 bytes, scale"""
    amax = max(float(np.abs(block).max()), floor_of_amax)
    scale = max(np.float32(amax) / np.float32(448), np.float32(floor_of_scale))
    if power_of_two:
        scale = np.float32(2.0 ** math.ceil(math.log2(scale)))
    return np.clip(block / scale, -448, 448).astype(E4M3).view(np.uint8), scale


def bytes_of(scale) -> np.ndarray:
    return np.frombuffer(np.float32(scale).tobytes(), np.uint8)


def indexer_k_quant_and_cache(rows_of_132=False, linear=False):
    def stand_in(k, kv_cache, slot_mapping, quant_block_size, scale_fmt):
        assert k.dtype == BF16 and kv_cache.dtype == np.uint8 and slot_mapping.dtype == np.int64
        assert k.shape[1] == quant_block_size == 128 and kv_cache.shape[1:] == (64, 132) and scale_fmt == "ue8m0"
        flat = kv_cache.reshape(-1)
        assert np.shares_memory(flat, kv_cache)
        for key, slot in zip(k.astype(np.float32), slot_mapping):
            if slot < 0:
                continue
            values, scale = quantised(key, floor_of_amax=1e-4, power_of_two=not linear)
            page, offset = divmod(int(slot), 64)
            at, scale_at = page * 8448 + offset * 128, page * 8448 + 8192 + offset * 4
            if rows_of_132:
                at = page * 8448 + offset * 132
                scale_at = at + 128
            flat[at : at + 128], flat[scale_at : scale_at + 4] = values, bytes_of(scale)

    return stand_in


def concat_and_cache_mla(rope_before_scales=False, power_of_two=False):
    def stand_in(kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, scale):
        assert kv_c.dtype == k_pe.dtype == BF16 and kv_c.shape[1:] == (512,) and k_pe.shape[1:] == (64,)
        assert kv_cache.shape[1:] == (64, 656) and slot_mapping.dtype == np.int64 and kv_cache_dtype == "fp8_ds_mla"
        for latent, rope, slot in zip(kv_c.astype(np.float32), k_pe, slot_mapping):
            blocks = [quantised(b, floor_of_scale=2.0**-126, power_of_two=power_of_two) for b in np.split(latent, 4)]
            parts = [np.concatenate([values for values, _ in blocks]),
                     np.concatenate([bytes_of(scale) for _, scale in blocks]),
                     np.frombuffer(rope.tobytes(), np.uint8)]  # fmt: skip
            if rope_before_scales:
                parts[1], parts[2] = parts[2], parts[1]
            kv_cache[slot // 64, slot % 64] = np.concatenate(parts)

    return stand_in


ACT_QUANT = small("act_quant", without=("subnormal",))


def vllm_act_quant_is_right(golden, case, **wrong):
    plugin = vllm.act_quant(indexer_k_quant_and_cache(**wrong))
    answer = golden("act_quant", case, plugin.conventions)
    results = answer.ask(plugin)
    wanted = {name: answer.load("deployed", name) for name in ("q", "scale")}
    return all(results[n].tobytes() == wanted[n].tobytes() and results[n].shape == wanted[n].shape for n in wanted)


@pytest.mark.parametrize("case", ACT_QUANT)
def test_vllm_act_quant(golden, case):
    assert vllm_act_quant_is_right(golden, case)


@pytest.mark.parametrize("wrong", [{"rows_of_132": True}, {"linear": True}])
def test_vllm_act_quant_notices(golden, wrong):
    assert not vllm_act_quant_is_right(golden, "deepseek_ue8m0", **wrong)


@pytest.fixture(scope="module")
def vllm_keys(reference, tmp_path_factory):
    """A pack_key_pages question whose keys and scales vLLM's writer makes itself."""
    x = np.random.default_rng(5).uniform(-6, 6, (70, 128)).astype(np.float32)
    x[:, 3] = 7  # the largest value is 448 scales: it stays the largest when it is e4m3
    values, scale = fill.quantize(x * 2.0 ** (np.arange(70, dtype=np.float32) % 5)[:, None], "deepseek", "ue8m0")
    tensors = {"k": {"dtype": "float8_e4m3", "shape": [70, 128], "fill": {"constant": 0}},
               "k_scale": {"dtype": "float32", "shape": [70], "fill": {"constant": 0}}}  # fmt: skip
    entry = {"name": "own", "seed": 1, "parameters": {}, "tensors": tensors}
    arrays = {"k": values, "k_scale": scale}
    return Golden(reference, tmp_path_factory.mktemp("keys"), entry, "pack_key_pages", {}, arrays)


def test_vllm_pack_key_pages(golden, vllm_keys):
    plugin = vllm.pack_key_pages(indexer_k_quant_and_cache())
    assert same_bytes(vllm_keys, vllm_keys.ask(plugin))
    for case in small("pack_key_pages"):  # keys that no writer of bf16 numbers would make
        assert implemented(plugin, golden("pack_key_pages", case, {})) is None


def test_vllm_pack_key_pages_notices_rows_of_132_bytes(vllm_keys):
    assert not same_bytes(vllm_keys, vllm_keys.ask(vllm.pack_key_pages(indexer_k_quant_and_cache(rows_of_132=True))))


def vllm_pack_kv_pages_is_right(golden, case, **wrong):
    plugin = vllm.pack_kv_pages(concat_and_cache_mla(**wrong))
    answer = golden("pack_kv_pages", case, plugin.conventions)
    return same_bytes(answer, answer.ask(plugin))


@pytest.mark.parametrize("case", small("pack_kv_pages", without=("tiny",)))
def test_vllm_pack_kv_pages(golden, request, case):
    if case == "zero_token":
        floors = "vLLM's latent writer floors the scale at 2^-126; the switch `vllm` floors the largest value there"
        request.applymarker(pytest.mark.xfail(reason=floors, strict=False))
    assert vllm_pack_kv_pages_is_right(golden, case)


@pytest.mark.parametrize("wrong", [{"rope_before_scales": True}, {"power_of_two": True}])
def test_vllm_pack_kv_pages_notices(golden, wrong):
    assert not vllm_pack_kv_pages_is_right(golden, "v3_2", **wrong)


def test_vllm_says_what_it_cannot_do(golden):
    assert implemented(vllm.pack_kv_pages(concat_and_cache_mla()), golden("pack_kv_pages", "tiny", {})) is None
    assert implemented(vllm.act_quant(indexer_k_quant_and_cache()), golden("act_quant", "subnormal", {})) is None


def test_vllm_global_slots():
    def converted(req_id, block_table, token_indices, BLOCK_SIZE, NUM_TOPK_TOKENS):
        assert BLOCK_SIZE == 64 and token_indices.shape[1] == NUM_TOPK_TOKENS and NUM_TOPK_TOKENS % 128 == 0
        out = np.full_like(token_indices, -1)
        for (t, j), s in np.ndenumerate(token_indices):
            if 0 <= s < 64 * block_table.shape[1]:
                out[t, j] = block_table[req_id[t], s // 64] * 64 + s % 64
        return out

    indices = np.full((2, 128), -1, np.int32)
    indices[0, :3], indices[1, :2] = [0, 63, 64], [70, 5]
    table = np.array([[7, 2], [1, 0]], np.int32)
    slots = vllm.global_slots(converted)(np.array([0, 1], np.int32), table, indices)
    assert slots[0, :4].tolist() == [448, 511, 128, -1] and slots[1, :3].tolist() == [6, 69, -1]
    with pytest.raises(NotImplementedError, match="100"):
        vllm.global_slots(converted)(np.zeros(2, np.int32), table, indices[:, :100])


def set_k_and_s(rows_of_132=False):
    def stand_in(pool, buf, loc, index_k, index_k_scale):
        assert buf.dtype == np.uint8 and buf.shape[1] == 64 * 132 and loc.dtype == np.int64 and pool.page_size == 64
        assert index_k.dtype == E4M3 and index_k.shape[1] == 128 and index_k_scale.shape == (len(loc), 1)
        for token, slot in enumerate(loc):
            page, offset = buf[slot // 64], int(slot % 64)
            at = (offset * 132, offset * 132 + 128) if rows_of_132 else (offset * 128, 8192 + offset * 4)
            page[at[0] : at[0] + 128] = index_k[token].view(np.uint8)
            page[at[1] : at[1] + 4] = bytes_of(index_k_scale[token, 0])

    return stand_in


@pytest.mark.parametrize("rows_of_132", [False, True])
def test_sglang_pack_key_pages(golden, rows_of_132):
    plugin = sglang.pack_key_pages(set_k_and_s(rows_of_132))
    answer = golden("pack_key_pages", "v3_2", {})
    assert same_bytes(answer, answer.ask(plugin)) is not rows_of_132
    assert implemented(plugin, golden("pack_key_pages", "64_wide", {})) is None


# transformers


def deepseek_v32_indexer(interleaved=False, transposed=False, masks=True, with_scores=True):
    def linear(x, weight):
        return x @ (weight if transposed and weight.shape[0] == weight.shape[1] else weight.T)

    def rotated(x, cos, sin):  # [..., d]
        half = x.shape[-1] // 2
        if interleaved:
            c, s = np.repeat(cos[..., :half], 2, -1), np.repeat(sin[..., :half], 2, -1)
            turned = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
            return x * c + turned * s
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    def stand_in(config, state, hidden_states, q_resid, position_embeddings, attention_mask):
        c = SimpleNamespace(**config)
        B, T, D = hidden_states.shape
        assert state["wq_b.weight"].shape == (c.index_n_heads * c.index_head_dim, c.q_lora_rank)
        assert state["wk.weight"].shape == (c.index_head_dim, D)
        assert state["weights_proj.weight"].shape == (c.index_n_heads, D)
        assert attention_mask.dtype == np.bool_ and attention_mask.shape == (B, T, T) and B == 1
        cos, sin = (np.asarray(x, np.float64) for x in position_embeddings)
        assert cos.shape == (B, T, c.qk_rope_head_dim)
        x, q_resid = hidden_states.astype(np.float64), q_resid.astype(np.float64)
        q = linear(q_resid, state["wq_b.weight"]).reshape(B, T, c.index_n_heads, c.index_head_dim)
        k = linear(x, state["wk.weight"])
        k = (k - k.mean(-1, keepdims=True)) / np.sqrt(k.var(-1, keepdims=True) + 1e-6)
        k = k * state["k_norm.weight"] + state["k_norm.bias"]
        d = c.qk_rope_head_dim
        q = np.concatenate([rotated(q[..., :d], cos[:, :, None], sin[:, :, None]), q[..., d:]], -1)
        k = np.concatenate([rotated(k[..., :d], cos, sin), k[..., d:]], -1)
        dots = np.maximum(np.einsum("bthd,bsd->bths", q, k) * c.index_head_dim**-0.5, 0)
        weights = linear(x, state["weights_proj.weight"]) * c.index_n_heads**-0.5
        scores = np.einsum("bth,bths->bts", weights, dots).astype(np.float32)
        scores = np.where(attention_mask, scores, -np.inf).astype(np.float32) if masks else scores
        order = np.argsort(-scores, axis=-1, kind="stable")[..., : min(c.index_topk, T)]
        indices = order.astype(np.int32)
        return (indices, np.take_along_axis(scores, order, -1)) if with_scores else indices

    return stand_in


PREFILL = [c.entry["name"] for c in cases.all_cases()
           if c.op == "dsa_attention" and c.size == "small" and "decode" not in c.flags]  # fmt: skip


def transformers_selects_rightly(golden, case, **wrong) -> bool:
    plugin = transformers.dsa_attention(deepseek_v32_indexer(**wrong))
    answer = golden("dsa_attention", case, plugin.conventions)
    indices = answer.ask(plugin)["topk_indices"]
    logits = answer.unrounded("indexer_logits")
    T = len(logits)
    start = answer.inputs.get("start", np.zeros(T, np.int32))
    products = sum(answer.inputs["W_dq"].shape)  # the longest chain of float32 sums
    bound = np.full_like(logits, products * 2.0**-24 * np.abs(logits[np.isfinite(logits)]).max())
    return right_selection(indices, logits, bound, start, np.arange(1, T + 1))


@pytest.mark.parametrize("case", PREFILL)
def test_transformers_topk_indices(golden, case):
    assert transformers_selects_rightly(golden, case)
    assert transformers_selects_rightly(golden, case, with_scores=False)


@pytest.mark.parametrize("wrong", [{"interleaved": True}, {"masks": False}])
def test_transformers_topk_indices_notices(golden, wrong):
    assert not transformers_selects_rightly(golden, "prefill_transformers", **wrong)


def test_transformers_says_what_it_cannot_do(golden):
    plugin = transformers.dsa_attention(deepseek_v32_indexer())
    assert implemented(plugin, golden("dsa_attention", "decode", plugin.conventions)) is None
    with pytest.raises(TypeError, match="misspelt"):
        golden("dsa_attention", "short", plugin.conventions).ask(lambda **inputs: plugin(misspelt=1, **inputs))


# The real peers, which are not here


PEERS = [(module, name) for module in (deepgemm, flashinfer, flashmla, sglang, transformers, vllm)
         for name in vars(module) if name.startswith("plugin_")]  # fmt: skip


@pytest.mark.parametrize("module, name", PEERS, ids=[f"{m.__name__.split('.')[-1]}.{n}" for m, n in PEERS])
def test_a_missing_peer_is_refused_in_one_sentence(module, name, monkeypatch):
    op = name.removeprefix("plugin_")
    plugin = getattr(module, name)
    assert plugin.conventions == module.conventions[op] and callable(getattr(module, f"peer_{op}"))
    for missing in ("torch", "flash_mla", "sgl_kernel", "deep_gemm", "flashinfer", "vllm", "sglang", "transformers"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(Refusal) as refusal:
        plugin()
    assert "\n" not in str(refusal.value) and "install" in str(refusal.value)


@pytest.mark.parametrize("gpu, parameter, passed", [((9, 0), True, True), ((10, 0), True, False), ((9, 0), False, False)])
def test_flashmla_asks_for_its_hopper_kernels_where_they_are_legacy(monkeypatch, gpu, parameter, passed):
    def of_today(q, use_legacy=False):
        return use_legacy

    def of_before(q):
        return False

    monkeypatch.setattr(_torch, "compute_capability", lambda: gpu)
    assert flashmla._for_this_gpu(of_today if parameter else of_before)(q=None) is passed


def test_arrays_cross_to_tensors_and_back():
    torch = pytest.importorskip("torch")
    for dtype in (np.float32, np.int32, np.int64, np.uint8, np.bool_, BF16, E4M3):
        x = np.arange(24).reshape(2, 3, 4).astype(dtype)
        tensor = _torch.to_torch(x, torch.device("cpu"))
        assert tensor.shape == x.shape and _torch.from_torch(tensor).dtype == x.dtype
        assert _torch.from_torch(tensor).tobytes() == x.tobytes()
