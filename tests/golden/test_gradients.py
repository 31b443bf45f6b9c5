"""Is each gradient the slope of its loss? Differences in float64 say so, of both tellings.

The loss is sum(y * dy) of the forward op, as NumPy tells it in the exact tier. Its central differences are compared with
the backward op, as NumPy tells it and as C++ does.
"""

import json
import subprocess

import numpy as np
import pytest
from touchstone.telling import Inputs, Telling

H = 1e-4
CONVENTIONS = {"preset": "deepseek-v3.2-exp"}


class Question:
    """Float64 tensors, and ops on them in the exact tier."""

    def __init__(self, parameters, conventions=None, **tensors):
        self.parameters, self.conventions = parameters, CONVENTIONS | (conventions or {})
        self.tensors = {n: np.asarray(t, np.int32 if np.asarray(t).dtype.kind == "i" else np.float64) for n, t in tensors.items()}

    def described(self):
        return {n: {"dtype": t.dtype.name, "shape": list(t.shape)} for n, t in self.tensors.items()}

    def numpy(self, op, **changed):
        inputs = Inputs(self.described() | {n: {"dtype": t.dtype.name, "shape": list(t.shape)} for n, t in changed.items()},
                        arrays=self.tensors | changed)  # fmt: skip
        record = Telling(self.conventions, self.parameters, inputs, "exact").run(op)
        return {name: shown.array for name, shown in record.items()}

    def cpp(self, op, program, folder):
        (folder / "in").mkdir()
        for name, tensor in self.tensors.items():
            np.save(folder / "in" / f"{name}.npy", tensor)
        case = {"version": 1, "op": op, "tier": "exact", "conventions": self.conventions, "parameters": self.parameters, "tensors": self.described()}
        (folder / "in" / "case.json").write_text(json.dumps(case))
        run = subprocess.run([program, "op", op, folder / "in", folder / "out"], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return {path.stem: np.load(path) for path in (folder / "out").glob("*.npy")}


def check_slopes(question, gradients, loss, names, places=4):
    """gradients: {"C++": {name: array}, ...}. loss(tensors changed) -> a number, and the size of what it adds up.

    A difference over h is off by h^2 f'''/6, of which halving h takes away three quarters: what it changes bounds what
    remains. Beside that a sum of size F is rounded: 2^-52 F / h, and 2^6 times that for its some thousand terms.
    """
    random = np.random.default_rng(5)
    for name, gradient_name in names.items():
        x = question.tensors[name]
        for i in random.choice(x.size, min(places, x.size), replace=False):
            def at(step, name=name, x=x, i=i):
                moved = x.copy()
                moved.reshape(-1)[i] += step
                return loss({name: moved})

            wide = (at(H)[0] - at(-H)[0]) / (2 * H)
            half, size = (at(H / 2)[0] - at(-H / 2)[0]) / H, at(0)[1]
            allowed = abs(wide - half) + 2.0**-52 * 2**6 * size / H
            for telling, of in gradients.items():
                got = of[gradient_name].reshape(-1)[i]
                assert abs(got - half) <= allowed, f"{telling}'s {gradient_name}[{i}] is {got:.12g}, the slope {half:.12g} +- {allowed:.2g}"


def normal(seed):
    random = np.random.default_rng(seed)
    return lambda *shape, std=1.0: random.normal(0, std, shape)


def weighted(forward, output, dy):
    """sum(y * dy) of a forward op, and its size."""

    def loss(question, changed):
        y = question.numpy(forward, **changed)[output]
        return np.sum(y * dy), np.sum(np.abs(y * dy))

    return loss


def both(question, op, reference, folder):
    told = {"C++": question.cpp(op, reference, folder), "NumPy": question.numpy(op)}
    for name, gradient in told["C++"].items():
        scale = max(1e-3, np.abs(gradient).max())
        assert np.abs(gradient - told["NumPy"][name]).max() <= 2.0**-53 * 2**12 * scale, name  # sums of some thousand terms
    return told


@pytest.mark.parametrize("op", ["rms_norm", "layer_norm"])
def test_norms(op, reference, tmp_path):
    n = normal(1)
    tensors = {"x": n(4, 24), "weight": 1 + n(24, std=0.2), "dy": n(4, 24)}
    if op == "layer_norm":
        tensors["bias"] = n(24)
    q = Question({"eps": 1e-2}, **tensors)
    loss = weighted(op, "y", tensors["dy"])
    names = {name: "d" + name for name in tensors if name != "dy"}
    check_slopes(q, both(q, op + "_backward", reference, tmp_path), lambda c: loss(q, c), names)


def test_cross_entropy(reference, tmp_path):
    q = Question({}, logits=normal(2)(5, 9, std=2), targets=np.array([3, -1, 0, 8, 5]))
    def loss(changed):
        value = q.numpy("cross_entropy", **changed)["loss"][0]
        return value, abs(value) + 1
    check_slopes(q, both(q, "cross_entropy", reference, tmp_path), loss, {"logits": "dlogits"}, 20)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode", ["mqa", "mha"])
def test_dense_attention(mode, causal, reference, tmp_path):
    n = normal(3)
    T, S, heads, d, d_v = 4, 7, 2, 6, 5
    tensors = {"q": n(T, heads, d), "start": np.array([0, 0, 3, 6 if causal else 0])}
    tensors |= {"kv": n(S, d)} if mode == "mqa" else {"k": n(S, heads, d), "v": n(S, heads, d_v)}
    q = Question({"scale": 0.7, "mode": mode, "causal": causal, "d_v": d_v}, **tensors)
    forward, dout = q.numpy("dense_attention"), n(T, heads, d_v)
    loss = weighted("dense_attention", "out", dout)
    back = Question({"scale": 0.7, "causal": causal}, **tensors, out=forward["out"], lse=forward["lse"], dout=dout)
    names = {name: "d" + name for name in ("q", "kv", "k", "v") if name in tensors}
    check_slopes(q, both(back, f"dense_{mode}_backward", reference, tmp_path), lambda c: loss(q, c), names, 8)


@pytest.mark.parametrize("indices", [[[0, 3, 5], [1, 1, 4], [-1, 6, 9]]])
def test_sparse_attention(indices, reference, tmp_path):
    n = normal(4)
    T, S, heads, d, d_v = 3, 7, 2, 6, 5
    tensors = {"q": n(T, heads, d), "kv": n(S, d), "indices": np.array(indices)}
    q = Question({"scale": 0.7, "d_v": d_v}, **tensors)
    forward, dout = q.numpy("sparse_prefill"), n(T, heads, d_v)
    loss = weighted("sparse_prefill", "out", dout)
    back = Question({"scale": 0.7}, **tensors, out=forward["out"], lse=forward["lse"], dout=dout)
    check_slopes(q, both(back, "sparse_attention_backward", reference, tmp_path), lambda c: loss(q, c), {"q": "dq", "kv": "dkv"}, 10)


@pytest.mark.parametrize("sparse", [False, True])
def test_indexer_kl_loss(sparse, reference, tmp_path):
    n = normal(5)
    T, S, H_I, D_I = 3, 8, 2, 4
    p = np.tril(np.abs(n(T, S)) + 0.1, S - T)
    tensors = {"q": n(T, H_I, D_I), "k": n(S, D_I), "weights": n(T, H_I), "p": p / p.sum(axis=1, keepdims=True)}
    if sparse:
        tensors |= {"indices": np.array([[0, 2, 5], [1, 3, 6], [4, 5, 7]]), "p": np.array([[0.2, 0.3, 0.5]] * T)}
    q = Question({}, {"kl_reduction": "mean", "kl_coefficient": 0.5}, **tensors)
    def loss(changed):
        return q.numpy("indexer_kl_loss", **changed)["loss"][0], 10.0
    check_slopes(q, both(q, "indexer_kl_loss", reference, tmp_path), loss, {"q": "dq", "k": "dk", "weights": "dweights"}, 8)


@pytest.mark.parametrize("normalise", [True, False])
def test_mixture_of_experts(normalise, reference, tmp_path):
    n = normal(6)
    T, D, E, F = 4, 6, 4, 5
    tensors = {"x": n(T, D), "W_g": n(D, E), "bias": n(E, std=0.1), "W_gate": n(E, D, F), "W_up": n(E, D, F), "W_down": n(E, F, D),
               "shared_W_gate": n(D, F), "shared_W_up": n(D, F), "shared_W_down": n(F, D), "dy": n(T, D)}  # fmt: skip
    q = Question({"groups": 2, "kept_groups": 1, "active": 2, "normalise": normalise}, **tensors)
    loss = weighted("moe", "y", tensors["dy"])
    names = {name: "d" + name for name in tensors if name not in ("bias", "dy")}
    check_slopes(q, both(q, "moe_backward", reference, tmp_path), lambda c: loss(q, c), names, 6)


@pytest.mark.parametrize("vector", ["rope interleaved", "rope half_split", "hadamard"])
def test_rotations(vector):
    n = normal(7)
    q = Question({}, x=n(3, 2, 8), positions=np.array([0, 5, 4100]))
    op, _, layout = vector.partition(" ")
    q.parameters = {"layout": layout} if layout else {}
    dy = n(3, 2, 8)
    telling = Telling(q.conventions, q.parameters, Inputs({}), "exact")
    dx = telling.rope_backward(dy, q.tensors["positions"], layout) if layout else telling.hadamard_backward(dy)
    loss = weighted(op, "y", dy)
    check_slopes(q, {"NumPy": {"dx": dx}}, lambda c: loss(q, c), {"x": "dx"}, 20)


def small_model(seed, stage, conventions, **parameters):
    n = normal(seed)
    T, L, V, D, R_q, heads, d_nope, d_rope, R_kv, d_v, H_I, D_I, E, F = 7, 2, 9, 8, 6, 2, 4, 4, 6, 5, 2, 8, 4, 5
    shapes = {
        "embedding": (V, D), "attention_norm": (L, D), "W_dq": (L, D, R_q), "q_norm": (L, R_q), "W_uq": (L, R_q, heads, d_nope + d_rope),
        "W_dkv": (L, D, R_kv + d_rope), "kv_norm": (L, R_kv), "W_uk": (L, R_kv, heads, d_nope), "W_uv": (L, R_kv, heads, d_v),
        "W_o": (L, heads, d_v, D), "W_qI": (L, R_q, H_I, D_I), "W_kI": (L, D, D_I), "k_norm": (L, D_I), "k_bias": (L, D_I), "W_w": (L, D, H_I),
        "ffn_norm": (L, D), "W_g": (L, D, E), "bias": (L, E), "W_gate": (L, E, D, F), "W_up": (L, E, D, F), "W_down": (L, E, F, D),
        "shared_W_gate": (L, D, F), "shared_W_up": (L, D, F), "shared_W_down": (L, F, D), "final_norm": (D,), "head": (D, V),
    }  # fmt: skip
    tensors = {name: n(*shape, std=0.4) + ("norm" in name) for name, shape in shapes.items()}
    tensors |= {"tokens": np.array([1, 4, 4, 8, 0, 2, 1]), "targets": np.array([4, 4, 8, -1, 2, 1, 3])}
    return Question({"stage": stage, "topk": 3, "groups": 2, "kept_groups": 1, "active": 2, **parameters}, conventions, **tensors)


INDEXER = ("W_qI", "W_kI", "k_norm", "k_bias", "W_w")


@pytest.mark.parametrize("stage, conventions", [
    ("dense", {}), ("warmup", {}), ("warmup", {"kl_reduction": "mean", "kl_coefficient": 0.3, "hadamard": False}), ("sparse", {}),
    ("sparse", {"sparse_kl_target": "renormalised", "indexer_rope": "interleaved"})])  # fmt: skip
def test_a_step_of_training(stage, conventions, reference, tmp_path):
    """The main model follows the language loss, the indexer its own; what does not learn has a gradient of zero."""
    q = small_model(8, stage, conventions)
    told = both(q, "training_step", reference, tmp_path)
    learning = {name: "d" + name for name in q.tensors if name not in ("tokens", "targets", "bias")}
    for indexers, learns in ((False, stage != "warmup"), (True, stage != "dense")):
        names = {a: b for a, b in learning.items() if (a in INDEXER) == indexers}
        if not learns:
            assert all((of[b] == 0).all() for of in told.values() for b in names.values())
            continue

        def loss(changed, indexers=indexers):
            record = q.numpy("training_step", **changed)
            value = record["kl_loss"].sum() if indexers else record["language_loss"][0]
            return value, abs(value) + 10

        check_slopes(q, told, loss, names, 2)


def test_a_wrong_gradient_is_seen(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(Telling, "attention_delta", lambda self, out, dout: 0)
    with pytest.raises(AssertionError, match="dq|dkv"):
        test_dense_attention("mqa", True, reference, tmp_path)
