"""Does the judge judge rightly? On goldens with one thing changed."""

import numpy as np
import pytest
from touchstone import dtypes, judge
from touchstone.choices import must_and_must_not
from touchstone.verdict import Golden


def outputs_of(golden):
    return {n: golden.stored("deployed", n).copy() for n in golden.names}


def verdict(golden, got, name, **options):
    return judge.judge(golden, got, [name], **options)[0]


@pytest.fixture
def attention(goldens):
    return Golden(goldens / "sparse_prefill/tiny")


def test_the_golden_itself_is_right(attention):
    verdicts = judge.judge(attention, outputs_of(attention), attention.names)
    assert judge.right(verdicts)
    assert all(v.snr > 40 for v in verdicts)


def test_nothing_judged_is_not_right():
    assert not judge.right([])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_passes(attention, poison):
    got = outputs_of(attention)
    got["lse"][1, 2] = poison
    v = verdict(attention, got, "lse")
    assert not v.right and "[1, 2]" in v.sentence


def test_one_step_beyond_the_bound_is_wrong_and_one_within_is_right(attention):
    got = outputs_of(attention)
    bound = attention.stored("deployed_bound", "lse")[3, 1]
    got["lse"][3, 1] += np.float32(0.5 * bound)
    assert verdict(attention, got, "lse").right
    got["lse"][3, 1] += np.float32(4 * bound)
    v = verdict(attention, got, "lse")
    assert not v.right and v.ratio > 3


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (lambda a: a[:-1], "must have the shape"),
        (lambda a: a.astype(np.float32), "must be bfloat16"),
        (lambda a: a.view(np.float16), "must be bfloat16"),
    ],
)
def test_shapes_and_dtypes_are_judged(attention, spoilt, says):
    got = outputs_of(attention)
    got["out"] = spoilt(got["out"])
    assert says in verdict(attention, got, "out").sentence


def test_a_missing_output_is_named(attention):
    assert "out is missing" in verdict(attention, {}, "out").sentence


def test_scores_decide_what_must_be_selected():
    scores = np.array([5.0, 4.0, 4.0, 4.0, 1.0])
    must, must_not = must_and_must_not(scores, np.zeros(5), 2)
    assert must.tolist() == [True, False, False, False, False]  # one of the three 4s is free
    assert must_not.tolist() == [False, False, False, False, True]
    must, must_not = must_and_must_not(scores, np.array([0, 0, 0, 0, 4.0]), 2)
    assert not must_not.any()  # 1 +- 4 may be 5


def test_infinite_scores_rank_with_their_sign():
    must, must_not = must_and_must_not(np.array([-np.inf, 0.0, np.inf, -np.inf]), np.zeros(4), 2)
    assert must.tolist() == [False, True, True, False] and must_not.tolist() == [True, False, False, True]


def brute_force(scores, bounds, k):
    n = len(scores)
    could = [sum(scores[u] + bounds[u] >= scores[s] - bounds[s] for u in range(n) if u != s) for s in range(n)]
    surely = [sum(scores[u] - bounds[u] > scores[s] + bounds[s] for u in range(n) if u != s) for s in range(n)]
    return np.array(could) < k, np.array(surely) >= k


def test_must_and_must_not_by_brute_force():
    random = np.random.default_rng(1)
    for _ in range(200):
        n = int(random.integers(1, 12))
        scores, bounds = random.integers(-3, 4, n) / 2.0, random.integers(0, 3, n) / 4.0
        k = int(random.integers(1, 8))
        for a, b in zip(must_and_must_not(scores, bounds, k), brute_force(scores, bounds, k)):
            assert (a == b).all()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda row: row.__setitem__(0, row[1]), "selected 2 times"),
        (lambda row: row.__setitem__(0, -1), "are needed"),
        (lambda row: row.__setitem__(0, 10**6), "outside"),
        (lambda row: row.__setitem__(0, -2), "outside"),
    ],
)
def test_selections_are_sets_of_valid_positions(goldens, spoil, says):
    golden = Golden(goldens / "top_k/typical")
    got = outputs_of(golden)
    spoil(got["indices"][1])
    v = verdict(golden, got, "indices")
    assert not v.right and says in v.sentence and "row 1" in v.sentence


def test_a_position_that_must_not_be_selected_is_named(goldens):
    golden = Golden(goldens / "top_k/typical")
    got = outputs_of(golden)
    logits = golden.inputs.stored("logits")
    worst = int(np.argmin(logits[0]))
    got["indices"][0, 0] = worst
    assert not verdict(golden, got, "indices").right


def test_another_order_is_right_unless_the_canonical_one_is_claimed(goldens):
    golden = Golden(goldens / "top_k/typical")
    got = outputs_of(golden)
    got["indices"] = got["indices"][:, ::-1].copy()
    assert verdict(golden, got, "indices").right
    assert not verdict(golden, got, "indices", claims=("canonical",)).right


def test_other_ties_are_right_and_noted(goldens):
    golden = Golden(goldens / "top_k/all_equal")
    got = outputs_of(golden)
    got["indices"] = got["indices"] + 100
    v = verdict(golden, got, "indices")
    assert v.right and "ties" in v.notes[0]


def test_minus_one_comes_last(goldens):
    golden = Golden(goldens / "top_k/fewer_than_k")
    got = outputs_of(golden)
    got["indices"] = got["indices"][:, ::-1].copy()
    assert not verdict(golden, got, "indices").right


def test_bytes_are_equal_or_wrong(goldens):
    golden = Golden(goldens / "pack_key_pages/v3_2")
    got = outputs_of(golden)
    got["k_pages"][1, 77] ^= 1
    assert "[1, 77]" in verdict(golden, got, "k_pages").sentence


def test_nan_by_convention_is_required(goldens):
    golden = Golden(goldens / "act_quant/zero_block_no_floor")
    got = outputs_of(golden)
    assert verdict(golden, got, "q").right
    got["q"][got["q"] & 0x7F == 0x7F] = 0
    assert not verdict(golden, got, "q").right


def test_experts_may_stand_in_any_order_with_their_weights(goldens):
    golden = Golden(goldens / "moe_gate/small")
    got = outputs_of(golden)
    turned = {n: a[:, ::-1].copy() for n, a in got.items() if n != "scores"}
    assert judge.right(judge.judge(golden, turned, ["experts", "expert_weights"]))
    turned["expert_weights"] = got["expert_weights"]
    assert not judge.right(judge.judge(golden, turned, ["experts", "expert_weights"]))


def test_a_wrong_expert_is_named(goldens):
    golden = Golden(goldens / "moe_gate/small")
    got = outputs_of(golden)
    got["experts"][2, 0] = next(e for e in range(16) if e not in got["experts"][2])
    assert "row 2" in verdict(golden, got, "experts").sentence


def test_a_quantised_tensor_is_judged_with_its_own_scale(goldens):
    """The same numbers under another scale are other numbers."""
    golden = Golden(goldens / "act_quant/deepseek_float32")
    got = outputs_of(golden)
    got["scale"] = got["scale"] * np.float32(2)
    assert not verdict(golden, got, "scale").right and not verdict(golden, got, "q").right


def test_without_its_scale_a_few_small_numbers_may_lie_steps_apart(goldens):
    """A kernel that is right, under one seed of some thirty: a bf16 store upstream fell to the other side."""
    golden = Golden(goldens / "indexer_project/typical")
    q = dtypes.from_storage(golden.stored("deployed", "q"), "float8_e4m3").astype(np.float64)
    small = np.argwhere((np.abs(q) > 0.02) & (np.abs(q) < 2))

    def judged_after(steps, places):
        got = {n: a for n, a in outputs_of(golden).items() if n != "q_scale"}
        moved = q.copy()
        for place in map(tuple, places):
            moved[place] *= 1 + steps * judge.E4M3_STEP
        got["q"] = dtypes.to_storage(moved.astype(np.float32), "float8_e4m3")
        return verdict(golden, got, "q")

    assert judged_after(0, []).right
    assert judged_after(3, small[:2]).right
    assert not judged_after(3, np.argwhere(np.abs(q) > 0.02)[: q.size // 20]).right  # not a few
    largest = np.unravel_index(np.argmax(np.abs(q)), q.shape)
    assert not judged_after(-2, [largest]).right  # beyond what upstream stores can do


def test_float64_is_held_to_float64(attention):
    got = {n: attention.stored("exact", n).copy() for n in attention.names}
    assert judge.right(judge.judge(attention, got, attention.names, "exact"))
    got["out"] = dtypes.from_bfloat16(dtypes.to_bfloat16(got["out"])).astype(np.float64)
    assert not verdict(attention, got, "out", tier="exact").right
