"""On what is each op timed? V3.2's sizes, with the bytes it must move and the FLOPs it must do.

Inputs are random, never zeros; two sets of each take turns. FLOPs of the indexer and of sparse attention are counted as
the peers count them (shared figures: 2 H_I D_I a pair; 2 H k (576 + 512) a query).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

H, D, R_Q, R_KV, D_ROPE, H_I, D_I, K = 128, 7168, 1536, 512, 64, 64, 128, 2048
FP8 = torch.float8_e4m3fn
# Of V3.2's softmax, m^2 of YaRN in it (spec section 2). Peers are given it too: how wide logits are decides how often a
# kernel must rescale its sums.
SCALE = 192**-0.5 * (0.1 * math.log(40) + 1) ** 2


@dataclass
class Question:
    """One timing of one op. make() draws a set of inputs."""

    op: str
    shape: str
    make: Callable[[], dict[str, torch.Tensor]]
    moved: float  # bytes
    flops: float = 0.0
    ceiling: str = "copy"  # "copy", "bf16" or "fp8"
    parameters: dict | None = None
    from_level: int = 1  # lower ones would take minutes


def bf16(*shape, std: float = 1.0):
    """bf16 normal numbers"""
    return (torch.randn(*shape, device="cuda") * std).to(torch.bfloat16)


def f32(*shape, std: float = 1.0):
    """float32 normal numbers"""
    return torch.randn(*shape, device="cuda") * std


def e4m3(*shape):
    """e4m3 numbers that use the format's range"""
    return (torch.randn(*shape, device="cuda") * 64).clamp(-448, 448).to(FP8)


def i32(values):
    """int32 on the device"""
    return torch.as_tensor(values, dtype=torch.int32, device="cuda")


def selection(T: int, S: int, k: int = K) -> torch.Tensor:
    """k different positions a query that it may see, ascending, in random places; -1 behind them where there are fewer. A top-k has no
    position twice, and neither may this: what stands twice need not be read twice. -> int32 [T, k]"""
    rows = []
    for first in range(0, T, 256):
        ends = torch.arange(S - T + first + 1, S - T + min(first + 256, T) + 1, device="cuda")[:, None]
        draw = torch.rand(ends.shape[0], S, device="cuda")
        draw.masked_fill_(torch.arange(S, device="cuda")[None] >= ends, -1)
        best = draw.topk(min(k, S), dim=1)
        at = best.indices.masked_fill(best.values < 0, S).sort(dim=1).values
        rows.append(torch.nn.functional.pad(at.masked_fill(at == S, -1), (0, k - at.shape[1]), value=-1).to(torch.int32))
    return torch.cat(rows)


def suffix(T: int, S: int) -> dict:
    """start and end of T causal queries at the end of S tokens"""
    return {"start": torch.zeros(T, dtype=torch.int32, device="cuda"), "end": i32(range(S - T + 1, S + 1))}


def pairs(T: int, S: int) -> int:
    """(query, position) pairs of a causal suffix"""
    return T * (S - T) + T * (T + 1) // 2


def indexer_inputs(T: int, S: int) -> dict:
    """q, k, k_scale, weights, start, end"""
    return {"q": e4m3(T, H_I, D_I), "k": e4m3(S, D_I), "k_scale": f32(S).abs() * 1e-2, "weights": f32(T, H_I, std=1e-2)} | suffix(T, S)


def rows_of_scores(rows: int, S: int) -> dict:
    """Whole rows for top_k"""
    return {"logits": f32(rows, S), "start": torch.zeros(rows, dtype=torch.int32, device="cuda"), "end": i32([S] * rows)}


def kv_pages(tokens: int):
    """FP8 cache pages with scales near 2^-6"""
    pages = torch.empty(tokens // 64, 64, 656, dtype=torch.uint8, device="cuda")
    pages[..., :512] = e4m3(tokens, 512).view(torch.uint8).view(-1, 64, 512)
    pages[..., 512:528] = torch.full((tokens, 4), 2.0**-6, device="cuda").view(torch.uint8).view(-1, 64, 16)
    pages[..., 528:] = bf16(tokens, 64).view(torch.uint8).view(-1, 64, 128)
    return pages


def key_pages(tokens: int):
    """Indexer key pages with positive scales"""
    pages = torch.empty(tokens // 64, 64 * 132, dtype=torch.uint8, device="cuda")
    pages[:, : 64 * 128] = e4m3(tokens, 128).view(torch.uint8).view(-1, 64 * 128)
    pages[:, 64 * 128 :] = (f32(tokens).abs() * 1e-2).view(torch.uint8).view(-1, 256)
    return pages


def mla_inputs(T: int) -> dict:
    """x and MLA's weights at V3.2's sizes"""
    return {"x": bf16(T, D), "positions": i32(range(T)), "W_dq": bf16(D, R_Q, std=D**-0.5), "q_norm": f32(R_Q).abs(),
            "W_uq": bf16(R_Q, H, 192, std=R_Q**-0.5), "W_dkv": bf16(D, R_KV + D_ROPE, std=D**-0.5), "kv_norm": f32(R_KV).abs()}  # fmt: skip


def indexer_weights(T: int) -> dict:
    """x, c_q and the indexer's weights at V3.2's sizes"""
    return {"x": bf16(T, D), "c_q": bf16(T, R_Q), "positions": i32(range(T)), "W_qI": bf16(R_Q, H_I, D_I, std=R_Q**-0.5),
            "W_kI": bf16(D, D_I, std=D**-0.5), "k_norm": f32(D_I).abs(), "k_bias": f32(D_I), "W_w": bf16(D, H_I, std=D**-0.5)}  # fmt: skip


def attention_inputs(T: int, S: int, heads: int = H) -> dict:
    """q [T, heads, 576], kv [S, 576] and a selection"""
    return {"q": bf16(T, heads, 576), "kv": bf16(S, 576), "indices": selection(T, S, K)}


def paged(B: int, S: int) -> dict:
    """Queries of B requests of S tokens, pages out of order"""
    order = torch.randperm(B * S // 64, device="cuda").to(torch.int32).view(B, S // 64)
    return {"q": e4m3(B, 1, H_I, D_I), "k_pages": key_pages(B * S), "block_table": order,
            "context_lens": i32([S] * B), "weights": f32(B, H_I, std=1e-2)}  # fmt: skip


def decode(B: int, s_q: int, S: int, heads: int = H) -> dict:
    """q and pages of B requests, each with its own slots"""
    slots = torch.stack([torch.randperm(S, device="cuda")[: K * s_q].view(s_q, K) + b * S for b in range(B)])
    return {"q": bf16(B, s_q, heads, 576), "kv_pages": kv_pages(B * S), "indices": slots.to(torch.int32)}


def backward_inputs(T: int, S: int) -> dict:
    """What sparse attention's backward pass reads; out and lse need not be the forward's to be timed"""
    return attention_inputs(T, S) | {"out": bf16(T, H, 512), "lse": f32(T, H) + 8, "dout": bf16(T, H, 512)}


def experts(T: int, E: int, F: int) -> dict:
    """A gate and E experts in bf16"""
    return {"x": bf16(T, D), "W_g": f32(D, E, std=D**-0.5), "bias": f32(E, std=1e-2),
            "W_gate": bf16(E, D, F, std=D**-0.5), "W_up": bf16(E, D, F, std=D**-0.5), "W_down": bf16(E, F, D, std=F**-0.5)}  # fmt: skip


def fp8_experts(T: int, E: int, F: int) -> dict:
    """The same in FP8, a scale for 128 x 128"""
    inputs = experts(T, E, 1)
    for name, (K, N) in {"W_gate": (D, F), "W_up": (D, F), "W_down": (F, D)}.items():
        inputs |= {name: e4m3(E, K, N), name + "_scale": (f32(E, K // 128, N // 128).abs() + 0.5) * (K**-0.5 / 64)}
    return inputs


def _elementwise() -> list[Question]:
    T = 4096
    return [
        Question("rms_norm", "T 4096, D 7168", lambda: {"x": bf16(T, D), "weight": f32(D)}, 4 * T * D),
        Question("layer_norm", "T 131072, D 128", lambda: {"x": bf16(131072, 128), "weight": f32(128), "bias": f32(128)}, 4 * 131072 * 128),
        Question("rope", "T 4096, N 128, d_rope 64", lambda: {"x": bf16(T, H, 64), "positions": i32(range(T))}, 4 * T * H * 64),
        Question("hadamard", "T 4096, N 64, D_I 128", lambda: {"x": bf16(T, 64, 128)}, 4 * T * 64 * 128),
        Question("act_quant", "T 4096, N 7168", lambda: {"x": bf16(T, D)}, T * D * (3 + 4 / 128)),
        Question("pack_kv_pages", "S 131072", lambda: {"kv": bf16(131072, 576)}, 131072 * (1152 + 656)),
        Question("pack_key_pages", "S 131072", lambda: {"k": e4m3(131072, 128), "k_scale": f32(131072)}, 131072 * 264),
    ]


def _indexer() -> list[Question]:
    T = 4096
    found = [
        Question("mla_project", "T 4096", lambda: mla_inputs(T), 0, 2.0 * T * (D * R_Q + R_Q * H * 192 + D * 576), "bf16"),
        Question("indexer_project", "T 4096", lambda: indexer_weights(T), 0, 2.0 * T * (R_Q * H_I * D_I + D * D_I + D * H_I), "bf16"),
    ]
    for T, S, least in ((2048, 8192, 1), (2048, 32768, 1), (4096, 32768, 3), (2048, 131072, 3), (4096, 131072, 3)):
        flops = 2.0 * H_I * D_I * pairs(T, S)
        found.append(Question("indexer_logits", f"{T} x {S}", lambda T=T, S=S: indexer_inputs(T, S), 4.0 * T * S, flops, "fp8", from_level=least))
        found.append(Question("indexer_top_k", f"{T} x {S}, k 2048", lambda T=T, S=S: indexer_inputs(T, S), 4.0 * T * K, flops, "fp8", {"topk": K},
                              from_level=least))  # fmt: skip
    found.append(Question("indexer_logits_paged", "B 64, S 32768", lambda: paged(64, 32768), 64 * 32768 * (132 + 4), 2.0 * H_I * D_I * 64 * 32768, "copy"))
    for rows, S in ((1, 8192), (1, 131072), (64, 32768), (64, 131072), (128, 131072), (2048, 8192), (2048, 32768), (2048, 131072), (4096, 131072)):
        found.append(Question("top_k", f"{rows} x {S}, k 2048", lambda rows=rows, S=S: rows_of_scores(rows, S), 4.0 * rows * (S + K),
                              parameters={"topk": K}))  # fmt: skip
    return found


def _few_heads() -> list[Question]:
    """Sparse attention of 8 to 32 heads, a shard of tensor parallelism. Bytes of the selected tokens are the bound: a gather of
    them from the L2 cache may be faster than a copy in memory."""
    found = []
    for heads in (8, 16, 32):
        for T, S in ((512, 8192), (4096, 8192), (512, 131072), (4096, 131072)):
            found.append(Question("sparse_prefill", f"T {T}, S {S}, H {heads}, k 2048", lambda T=T, S=S, h=heads: attention_inputs(T, S, h),
                                  1152.0 * T * K, 2.0 * T * heads * K * (576 + 512), "copy", {"scale": SCALE}, 4))  # fmt: skip
        for B in (1, 64, 128):
            found.append(Question("sparse_decode", f"B {B}, s_q 1, H {heads}, k 2048", lambda B=B, h=heads: decode(B, 1, 8192, h),
                                  656.0 * B * K, 2.0 * B * heads * K * (576 + 512), "copy", {"R_kv": R_KV, "scale": SCALE}, 5))  # fmt: skip
    return found


def _attention() -> list[Question]:
    a_query = 2.0 * H * K * (576 + 512)
    shapes = ((512, 8192, 1), (512, 131072, 1), (64, 131072, 3), (8, 131072, 3), (4096, 8192, 3), (4096, 32768, 3), (4096, 131072, 3))
    found = [Question("sparse_prefill", f"T {T}, S {S}, H 128, k 2048", lambda T=T, S=S: attention_inputs(T, S), 0, T * a_query, "bf16",
                      {"scale": SCALE}, least) for T, S, least in shapes]  # fmt: skip
    batches = ((1, 1, 1), (2, 2, 1), (64, 1, 1), (64, 2, 3), (128, 1, 3), (128, 2, 3))
    found += [Question("sparse_decode", f"B {B}, s_q {s_q}, H 128, k 2048", lambda B=B, s_q=s_q: decode(B, s_q, 8192), 0, B * s_q * a_query,
                       "bf16", {"R_kv": R_KV, "scale": SCALE}, least) for B, s_q, least in batches]  # fmt: skip
    for T, S, least in ((128, 8192, 1), (4096, 8192, 3), (4096, 131072, 3), (1, 131072, 3)):
        found.append(Question("dense_attention", f"MQA, T {T}, S {S}, H 128", lambda T=T, S=S: {"q": bf16(T, H, 576), "kv": bf16(S, 576)}, 0,
                              2.0 * H * pairs(T, S) * (576 + 512), "bf16", {"mode": "mqa", "causal": True, "d_v": 512}, least))  # fmt: skip
    T, S = 4096, 8192
    found.append(Question("dense_attention", f"MHA, T {T}, S {S}, H 128", lambda: {"q": bf16(4096, H, 192), "k": bf16(8192, H, 192), "v": bf16(8192, H, 128)}, 0,
                          2.0 * H * pairs(T, S) * (192 + 128), "bf16", {"mode": "mha", "causal": True}, 4))  # fmt: skip
    T, S = 128, 8192
    return found + _few_heads() + [
        Question("attention_target", "T 128, S 8192, H 128", lambda: {"q": bf16(T, H, 576, std=0.3), "kv": bf16(S, 576, std=0.3)}, 0,
                 2.0 * H * pairs(T, S) * 576, "bf16"),
        Question("sparse_attention_backward", "T 128, S 8192, H 128, k 2048", lambda: backward_inputs(T, S), 0,
                 2.0 * T * H * K * (3 * 576 + 2 * 512), "bf16"),
        Question("indexer_kl_loss", "T 128, S 8192", lambda: {"q": f32(T, H_I, D_I, std=0.1), "k": f32(S, D_I), "weights": f32(T, H_I, std=0.1),
                 "p": torch.rand(T, S, device="cuda").tril(S - T).softmax(dim=1)}, 0, 3 * 2.0 * H_I * D_I * pairs(T, S), "bf16"),
    ]  # fmt: skip


def _experts() -> list[Question]:
    T, E, F = 2048, 32, 2048
    gate = {"groups": 8, "kept_groups": 4, "active": 8, "route_scale": 2.5, "normalise": True}
    return [
        Question("moe_gate", "T 4096, E 256", lambda: {k: v for k, v in experts(4096, 256, 1).items() if k in ("x", "W_g", "bias")},
                 2.0 * 4096 * D + 4 * D * 256, 2.0 * 4096 * D * 256, "bf16", gate),
        Question("moe", f"T {T}, E {E}, F {F}, bf16", lambda: experts(T, E, F), 0, 6.0 * T * 8 * D * F, "bf16", gate),
        Question("moe", f"T {T}, E {E}, F {F}, FP8", lambda: fp8_experts(T, E, F), 0, 6.0 * T * 8 * D * F, "fp8", gate, 2),
    ]  # fmt: skip


def words(T: int, V: int) -> dict:
    """logits of T tokens over V words, and the words that followed"""
    return {"logits": f32(T, V), "targets": i32(torch.randint(V, (T,)))}


def dense_backward_inputs(T: int, S: int, own: bool) -> dict:
    """What dense attention's backward pass reads, on each head's own keys and values or on the latent"""
    d, d_v = (192, 128) if own else (576, 512)
    keys = {"k": bf16(S, H, d), "v": bf16(S, H, d_v)} if own else {"kv": bf16(S, d)}
    return {"q": bf16(T, H, d), **keys, "out": bf16(T, H, d_v), "lse": f32(T, H) + 8, "dout": bf16(T, H, d_v)}


def learning_experts(T: int, E: int, F: int) -> dict:
    """A gate, E experts and a shared one in bf16, and what came back"""
    return experts(T, E, F) | {"shared_W_gate": bf16(D, F, std=D**-0.5), "shared_W_up": bf16(D, F, std=D**-0.5),
                               "shared_W_down": bf16(F, D, std=F**-0.5), "dy": bf16(T, D)}  # fmt: skip


def training_inputs(T: int, L: int, n: dict) -> dict:
    """A model of L layers with the sizes n, tokens and targets"""

    def matrix(rows: int, *shape):
        return bf16(L, *shape, std=rows**-0.5)

    def norm(*shape):
        return 1 + f32(*shape, std=0.1)

    D, R_q, R_kv, H_of, E, F, F_s = (n[a] for a in ("D", "R_q", "R_kv", "H", "E", "F", "F_s"))
    words = [torch.randint(n["V"], (T,), device="cuda", dtype=torch.int32) for _ in range(2)]
    return {
        "tokens": words[0], "targets": words[1], "embedding": bf16(n["V"], D), "attention_norm": norm(L, D), "W_dq": matrix(D, D, R_q),
        "q_norm": norm(L, R_q), "W_uq": matrix(R_q, R_q, H_of, 192), "W_dkv": matrix(D, D, R_kv + 64), "kv_norm": norm(L, R_kv),
        "W_uk": matrix(R_kv, R_kv, H_of, 128), "W_uv": matrix(R_kv, R_kv, H_of, 128), "W_o": matrix(H_of * 128, H_of, 128, D),
        "W_qI": matrix(R_q, R_q, n["H_I"], D_I), "W_kI": matrix(D, D, D_I), "k_norm": norm(L, D_I), "k_bias": f32(L, D_I, std=0.1),
        "W_w": matrix(D, D, n["H_I"]), "ffn_norm": norm(L, D), "W_g": f32(L, D, E, std=D**-0.5), "bias": f32(L, E, std=0.1),
        "W_gate": matrix(D, E, D, F), "W_up": matrix(D, E, D, F), "W_down": matrix(F, E, F, D), "shared_W_gate": matrix(D, D, F_s),
        "shared_W_up": matrix(D, D, F_s), "shared_W_down": matrix(F_s, F_s, D), "final_norm": norm(D), "head": bf16(D, n["V"], std=D**-0.5),
    }  # fmt: skip


def training_flops(T: int, L: int, active: int, n: dict) -> float:
    """The sparse stage's products over causal pairs: three each of the main model's, two of the indexer's projections (nothing goes back to
    its inputs), and of its dots one forwards and two back. What a call computes twice counts once."""
    D, R_q, R_kv, H_of, H_I_of, F = (n[a] for a in ("D", "R_q", "R_kv", "H", "H_I", "F"))
    a_token = D * R_q + R_q * H_of * 192 + D * (R_kv + 64) + R_kv * H_of * 256 + H_of * 128 * D + 3 * D * (active * F + n["F_s"])
    indexer = R_q * H_I_of * D_I + D * D_I + D * H_I_of
    a_pair = 2 * H_of * (192 + 128) + 2 * H_of * (3 * 192 + 2 * 128) + 6 * H_I_of * D_I
    return L * (6.0 * T * a_token + 4.0 * T * indexer + pairs(T, T) * a_pair) + 6.0 * T * D * n["V"]


def _training() -> list[Question]:
    """Gradients. Bytes are those of dx and of the weight's sum, each reading its inputs once."""
    T, V, E, F = 4096, 129280, 32, 2048
    keys, queries, S = 131072, 512, 4096
    gate = {"groups": 8, "kept_groups": 4, "active": 8, "route_scale": 2.5, "normalise": True}
    a_visit = 18.0 * D * F  # nine products; the shared expert needs no result
    model = {"V": 8192, "D": 2048, "R_q": 768, "H": 16, "R_kv": 512, "H_I": 32, "E": 16, "F": 512, "F_s": 512}
    return [
        Question("rms_norm_backward", "T 4096, D 7168", lambda: {"x": bf16(T, D), "weight": f32(D), "dy": bf16(T, D)}, 10 * T * D),
        Question("layer_norm_backward", "T 131072, D 128",
                 lambda: {"x": bf16(keys, 128), "weight": f32(128), "bias": f32(128), "dy": bf16(keys, 128)}, 10 * keys * 128),
        Question("cross_entropy", "T 4096, V 129280", lambda: words(T, V), 8 * T * V),
        Question("dense_mqa_backward", "T 512, S 4096, H 128", lambda: dense_backward_inputs(queries, S, False), 0,
                 2.0 * H * pairs(queries, S) * (3 * 576 + 2 * 512), "bf16", {"causal": True}),
        Question("dense_mha_backward", "T 512, S 4096, H 128", lambda: dense_backward_inputs(queries, S, True), 0,
                 2.0 * H * pairs(queries, S) * (3 * 192 + 2 * 128), "bf16", {"causal": True}),
        Question("moe_backward", f"T 2048, E {E}, F {F}, bf16", lambda: learning_experts(2048, E, F), 0,
                 2048 * (8 * a_visit + 16.0 * D * F), "bf16", gate),
        Question("training_step", "sparse, T 2048, L 2, D 2048, H 16, E 16, V 8192, k 512", lambda: training_inputs(2048, 2, model), 0,
                 training_flops(2048, 2, 4, model), "bf16", {"stage": "sparse", "topk": 512, "groups": 4, "kept_groups": 2, "active": 4}),
    ]  # fmt: skip


@functools.cache
def questions() -> list[Question]:
    """All timings, in the order of the contract's families. Nothing is drawn before make()."""
    return _elementwise() + _indexer() + _attention() + _experts() + _training()
