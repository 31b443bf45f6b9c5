"""torch.ops.dsa: shapes without a kernel, one graph, gradients. Skipped where there is no PyTorch.

On the simulator; on a GPU with TOUCHSTONE_TORCH_LIBRARY=build/libdsa_optimized.so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

from touchstone import contract  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "optimized" / "python"))

from dsa_optimized import BadArgument, torch_ops  # noqa: E402

LIBRARY = Path(
    os.environ.get("TOUCHSTONE_TORCH_LIBRARY") or os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so"
)
SCALE = 0.2
# Two bf16 roundings beside each other, of numbers that cancel: eight units in the last place of the largest.
CLOSE = 8 * 2.0**-8


@pytest.fixture(scope="module", autouse=True)
def library():
    assert LIBRARY.is_file(), f"{LIBRARY} is not built: run `cmake --build build --target dsa_simulated`"
    loaded = torch_ops.load(LIBRARY)
    before = torch.get_default_device()
    torch.set_default_device("cuda" if loaded.wants_device_memory else "cpu")
    yield loaded
    torch.set_default_device(before)


def normal(*shape, seed: int = 0):
    """The same numbers on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu").to(torch.get_default_device())


def bf16(*shape, seed: int = 0):
    return normal(*shape, seed=seed).to(torch.bfloat16)


def test_every_op_of_the_contract_is_there():
    assert all(hasattr(torch.ops.dsa, op) for op in contract.OPS)


def test_opcheck():
    """Schema, fake tensors, autograd registration and AOT dispatch, as PyTorch checks them."""
    torch.library.opcheck(torch.ops.dsa.rms_norm.default, (bf16(5, 64), torch.ones(64)), {"eps": 1e-6})
    torch.library.opcheck(torch.ops.dsa.act_quant.default, (bf16(2, 256),), {})


def test_one_graph():
    indices = torch.tensor([[0, 1, 2, -1], [1, 2, 5, 7], [3, 4, 8, 9]], dtype=torch.int32)

    def layer(x, weight, q, kv):
        return torch.ops.dsa.rms_norm(x, weight), torch.ops.dsa.sparse_prefill(q, kv, indices, scale=SCALE, d_v=16)[0]

    tensors = bf16(5, 64), torch.ones(64), bf16(3, 2, 32), bf16(10, 32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for got, expected in zip(compiled(*tensors), layer(*tensors)):
        assert torch.equal(got, expected)
    x = bf16(9, 64)
    assert compiled(x, *tensors[1:])[0].shape == x.shape


def test_shapes_and_dtypes_need_no_kernel():
    with torch._subclasses.FakeTensorMode():
        q, scale = torch.ops.dsa.act_quant(torch.empty(4, 256, dtype=torch.bfloat16))
        assert (q.dtype, tuple(scale.shape)) == (torch.float8_e4m3fn, (4, 2))
        plain, _ = torch.ops.dsa.act_quant(torch.empty(4, 256, dtype=torch.bfloat16), conventions="transformers")
        assert plain.dtype == torch.bfloat16
        assert tuple(torch.ops.dsa.pack_kv_pages(torch.empty(130, 576, dtype=torch.bfloat16)).shape) == (3, 64, 656)


def close(got, expected) -> bool:
    return not ((got.float() - expected.float()).abs().max() > CLOSE * expected.float().abs().max())


def gradients(function, *tensors):
    """Those of the sum of squares."""
    learning = [t.detach().clone().requires_grad_() for t in tensors]
    function(*learning).float().square().sum().backward()
    return [t.grad for t in learning]


def attention(q, k, v, seen):
    """q [T,H,d], k [S,H,d], v [S,H,d_v], seen [T,S] -> [T,H,d_v], in float32"""
    scores = torch.einsum("thd,shd->ths", q.float(), k.float()) * SCALE
    return torch.einsum("ths,shd->thd", scores.masked_fill(~seen[:, None, :], -torch.inf).softmax(-1), v.float())


def test_sparse_attention_learns():
    q, kv = bf16(3, 2, 32), bf16(10, 32, seed=1)
    indices = torch.tensor([[0, 1, 2, -1], [1, 2, 5, 7], [3, 4, 8, 9]], dtype=torch.int32)
    seen = torch.zeros(3, 10, dtype=torch.bool)
    for t, row in enumerate(indices.tolist()):
        seen[t, [s for s in row if s >= 0]] = True
    got = gradients(lambda q, kv: torch.ops.dsa.sparse_prefill(q, kv, indices, scale=SCALE, d_v=16)[0], q, kv)
    expected = gradients(lambda q, kv: attention(q, kv[:, None].expand(-1, 2, -1), kv[:, None, :16].expand(-1, 2, -1), seen), q, kv)
    assert all(close(g, e) for g, e in zip(got, expected))


def test_dense_attention_learns_in_both_modes():
    seen = torch.ones(4, 10, dtype=torch.bool).tril(6)
    q, kv = bf16(4, 2, 32), bf16(10, 32, seed=1)
    got = gradients(lambda q, kv: torch.ops.dsa.dense_attention(q, kv, scale=SCALE, mode="mqa", d_v=16)[0], q, kv)
    expected = gradients(lambda q, kv: attention(q, kv[:, None].expand(-1, 2, -1), kv[:, None, :16].expand(-1, 2, -1), seen), q, kv)
    assert all(close(g, e) for g, e in zip(got, expected))
    k, v = bf16(10, 2, 32, seed=2), bf16(10, 2, 16, seed=3)
    got = gradients(lambda q, k, v: torch.ops.dsa.dense_attention(q, k=k, v=v, scale=SCALE, mode="mha")[0], q, k, v)
    assert all(close(g, e) for g, e in zip(got, gradients(lambda q, k, v: attention(q, k, v, seen), q, k, v)))


def test_norms_and_losses_learn():
    x, weight = bf16(5, 64), torch.rand(64) + 0.5
    got = gradients(lambda x, w: torch.ops.dsa.rms_norm(x, w), x, weight)
    assert all(close(g, e) for g, e in zip(got, gradients(lambda x, w: torch.nn.functional.rms_norm(x.float(), (64,), w, 1e-6), x, weight)))
    got = gradients(lambda x, w, b: torch.ops.dsa.layer_norm(x, w, b), x, weight, weight - 1)
    expected = gradients(lambda x, w, b: torch.nn.functional.layer_norm(x.float(), (64,), w, b, 1e-6), x, weight, weight - 1)
    assert all(close(g, e) for g, e in zip(got, expected))
    logits, targets = normal(6, 40), torch.tensor([3, -1, 5, 39, 0, 7], dtype=torch.int32)
    got = gradients(lambda x: torch.ops.dsa.cross_entropy(x, targets)[0], logits)
    expected = gradients(lambda x: torch.nn.functional.cross_entropy(x, targets.long(), ignore_index=-1), logits)
    assert close(got[0], expected[0])


def test_experts_learn():
    """Against autograd of the same formula in float32, with the choice that the kernel made."""
    T, D, E, F = 5, 32, 4, 16
    shapes = {"x": (T, D), "W_gate": (E, D, F), "W_up": (E, D, F), "W_down": (E, F, D), "shared_W_gate": (D, F), "shared_W_up": (D, F),
              "shared_W_down": (F, D)}  # fmt: skip
    tensors = {name: bf16(*shape, seed=i) / (1 if name == "x" else 4) for i, (name, shape) in enumerate(shapes.items())}
    W_g, bias = normal(D, E, seed=9) / 6, torch.zeros(E)
    gate = {"groups": 2, "kept_groups": 2, "active": 2, "route_scale": 2.5, "normalise": True}
    experts, _ = torch.ops.dsa.moe_gate(tensors["x"], W_g, bias, **gate)

    def net(x, gate, up, down):
        return (torch.nn.functional.silu(x @ gate) * (x @ up)) @ down

    def formula(W_g, *weights):
        w = {name: t.float() for name, t in zip(tensors, weights)}
        chosen = torch.sigmoid(w["x"] @ W_g).gather(1, experts.long())
        share = chosen / chosen.sum(1, keepdim=True) * 2.5
        rows = [sum(share[t, i] * net(w["x"][t], w["W_gate"][e], w["W_up"][e], w["W_down"][e]) for i, e in enumerate(experts[t])) for t in range(T)]
        return torch.stack(rows) + net(w["x"], w["shared_W_gate"], w["shared_W_up"], w["shared_W_down"])

    def kernel(W_g, x, W_gate, W_up, W_down, *shared):
        names = ("shared_W_gate", "shared_W_up", "shared_W_down")
        return torch.ops.dsa.moe(x, W_g, W_gate, W_up, W_down, bias=bias, **dict(zip(names, shared)), **gate)

    got, expected = (gradients(f, W_g, *tensors.values()) for f in (kernel, formula))
    assert all(close(g, e) for g, e in zip(got, expected))


def test_what_has_no_gradient_says_so():
    q, kv = bf16(3, 2, 32).requires_grad_(), bf16(10, 32)
    indices = torch.zeros(3, 4, dtype=torch.int32)
    out, lse, _ = torch.ops.dsa.sparse_prefill(q, kv, indices, scale=SCALE, d_v=16)
    with pytest.raises(BadArgument, match="sparse_prefill has no gradient through lse, only through out"):
        lse.sum().backward()
    out, _, _ = torch.ops.dsa.sparse_prefill(q, kv, indices, torch.zeros(2), scale=SCALE, d_v=16)
    with pytest.raises(BadArgument, match="sparse_prefill with a sink has no gradient"):
        out.sum().backward()


def test_bad_calls_are_one_sentence():
    with pytest.raises(BadArgument, match="x must be packed, row after row"):
        torch.ops.dsa.rms_norm(bf16(64, 5).T, torch.ones(64))
    with pytest.raises(BadArgument, match="rms_norm: x must be bfloat16; it is float32"):
        torch.ops.dsa.rms_norm(torch.ones(5, 64), torch.ones(64))
    # Numbers in a sentence of the binding's own: where it has a libstdc++ of its own beside PyTorch's, that was a crash.
    with pytest.raises(BadArgument, match="x has 5 axes; a tensor of dsa.h has at most 4"):
        torch.ops.dsa.rms_norm(bf16(1, 1, 1, 5, 64), torch.ones(64))
