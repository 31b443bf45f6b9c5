"""Cases that nobody has seen: random sizes, fills, conventions and seeds for any op.

The same recipes serve two masters: Hypothesis, which draws and shrinks (tests/golden/test_tellings.py), and
`touchstone check`, which draws from a private seed so that a plug-in cannot have been made for the questions.
"""

from __future__ import annotations

import random
from typing import Callable

from . import contract, require
from .cases import Case
from .conventions import PRESETS, SWITCHES

Whole = Callable[[int, int], int]  # whole(low, high): a number, both ends included


class Recipe:
    """Draws one case of an op. whole: where the random numbers come from."""

    def __init__(self, op: str, whole: Whole):
        self.op, self.whole = op, whole
        self.tensors: dict[str, dict] = {}
        self.parameters: dict = {}
        self.conventions = self.draw_conventions()

    def choice(self, values):
        """One of them."""
        return values[self.whole(0, len(values) - 1)]

    def draw_conventions(self) -> dict:
        """A preset, and perhaps one switch changed."""
        drawn = {"preset": self.choice(list(PRESETS))}
        name = self.choice([None, None, *SWITCHES])
        if name and name != "nan_scores":
            drawn[name] = self.choice([0.0, 0.5, 1.0]) if SWITCHES[name] is float else self.choice(SWITCHES[name])
        # An all-zero block without a floor is NaN, which later stages refuse; real tensors have none.
        return drawn

    def add(self, name: str, dtype: str, shape: list[int], fill: dict) -> None:
        """One tensor of the case."""
        self.tensors[name] = {"dtype": dtype, "shape": shape, "fill": fill}

    def numbers(self, name: str, shape: list[int], std: float = 1.0, dtype: str = "bfloat16", mean: float = 0.0) -> None:
        """Bell-shaped numbers, sometimes with outliers."""
        if mean:
            fill = {"normal": {"std": std, "mean": mean}}
        elif self.whole(0, 4) == 0:
            fill = {"outliers": {"std": std, "factor": self.choice([8, 30]), "one_in": self.choice([5, 60])}}
        else:
            fill = {"normal": {"std": std}}
        self.add(name, dtype, shape, fill)

    def weight(self, name: str, shape: list[int], inputs: int, dtype: str = "bfloat16") -> None:
        """A matrix that keeps the size of what it is multiplied with."""
        self.add(name, dtype, shape, {"normal": {"std": round(inputs**-0.5, 6)}})

    def norm(self, name: str, width: int) -> None:
        """A norm's weight."""
        self.numbers(name, [width], 0.1, "float32", 1.0)

    def rows(self) -> int:
        """A number of query tokens."""
        return self.choice([1, 2, 3, 5, 8])

    def draw(self, seed: int, name: str) -> Case:
        """The case."""
        getattr(self, "draw_" + self.op)()
        return Case(self.op, {"name": name, "note": "drawn at random", "flags": ["random"], "size": "small", "seed": seed,
                              "conventions": self.conventions, "parameters": self.parameters, "tensors": self.tensors})  # fmt: skip

    # Vectors

    def draw_rms_norm(self):
        T, D = self.rows(), self.whole(1, 300)
        self.numbers("x", [T, D], self.choice([0.01, 1.0, 30.0]))
        self.norm("weight", D)

    def draw_layer_norm(self):
        T, D = self.rows(), self.whole(2, 300)
        self.numbers("x", [T, D])
        self.norm("weight", D)
        self.numbers("bias", [D], 0.2, "float32")

    def positions(self, T: int) -> None:
        """Consecutive positions, some of them past 4096."""
        self.add("positions", "int32", [T], {"arange": {"start": self.choice([0, 1, 300, 5000, 131000]), "step": 1}})

    def rope_parameters(self) -> None:
        """V3.2's, or a short context that YaRN stretches, or none."""
        rope = self.choice([None, {"original_context": 64, "max_context": 4096}, {"max_context": 4096}, {"theta": 500000}])
        if rope:
            self.parameters["rope"] = rope

    def draw_rope(self):
        T = self.rows()
        self.numbers("x", [T, self.whole(1, 4), 2 * self.whole(1, 32)])
        self.positions(T)
        self.rope_parameters()
        layouts = ["interleaved", "half_split"]
        self.parameters |= {"layout": self.choice(layouts), "output_layout": self.choice(layouts)}

    def draw_hadamard(self):
        self.numbers("x", [self.rows(), self.whole(1, 4), 2 ** self.whole(0, 7)])

    def draw_act_quant(self):
        block = self.choice([32, 64, 128])
        self.parameters["block"] = block
        self.numbers("x", [self.rows(), block * self.whole(1, 3)], self.choice([1e-7, 1e-3, 1.0, 1000.0]))
        self.conventions |= {"quantizer": self.choice(SWITCHES["quantizer"]), "scale_format": self.choice(["float32", "ue8m0"])}

    # Projections and layers

    def attention_sizes(self) -> dict:
        """Tiny models."""
        return {"D": 32 * self.whole(1, 4), "R_q": 32 * self.whole(1, 3), "H": self.choice([1, 2, 4]), "d_nope": 8 * self.whole(1, 4),
                "d_rope": 8 * self.whole(1, 4), "R_kv": self.choice([32, 64, 128]), "H_I": self.choice([1, 4, 8]),
                "D_I": self.choice([32, 64]), "d_v": 8 * self.whole(1, 4)}  # fmt: skip

    def mla_weights(self, s: dict) -> None:
        self.weight("W_dq", [s["D"], s["R_q"]], s["D"])
        self.norm("q_norm", s["R_q"])
        self.weight("W_uq", [s["R_q"], s["H"], s["d_nope"] + s["d_rope"]], s["R_q"])
        self.weight("W_dkv", [s["D"], s["R_kv"] + s["d_rope"]], s["D"])
        self.norm("kv_norm", s["R_kv"])

    def indexer_weights(self, s: dict) -> None:
        self.weight("W_qI", [s["R_q"], s["H_I"], s["D_I"]], s["R_q"])
        self.weight("W_kI", [s["D"], s["D_I"]], s["D"])
        self.norm("k_norm", s["D_I"])
        self.numbers("k_bias", [s["D_I"]], 0.2, "float32")
        self.weight("W_w", [s["D"], s["H_I"]], s["D"])

    def draw_mla_project(self):
        T, s = self.rows(), self.attention_sizes()
        self.numbers("x", [T, s["D"]])
        self.positions(T)
        self.mla_weights(s)
        self.rope_parameters()

    def draw_indexer_project(self):
        T, s = self.rows(), self.attention_sizes()
        self.numbers("x", [T, s["D"]])
        self.numbers("c_q", [T, s["R_q"]])
        self.positions(T)
        self.indexer_weights(s)
        self.parameters["d_rope"] = min(s["d_rope"], s["D_I"])
        self.rope_parameters()

    def layer(self, T: int, s: dict, caches: bool = True) -> None:
        """Attention weights, positions, and perhaps a cache."""
        self.mla_weights(s)
        self.indexer_weights(s)
        self.weight("W_uk", [s["R_kv"], s["H"], s["d_nope"]], s["R_kv"])
        self.weight("W_uv", [s["R_kv"], s["H"], s["d_v"]], s["R_kv"])
        self.weight("W_o", [s["H"], s["d_v"], s["D"]], s["H"] * s["d_v"])
        self.parameters |= {"topk": self.whole(1, 20), "rope": {"original_context": 64, "max_context": 4096}}
        cached = self.choice([0, 0, 30]) if caches else 0
        self.add("positions", "int32", [T], {"arange": {"start": cached, "step": 1}})
        if cached:
            self.numbers("cache_kv", [cached, s["R_kv"] + s["d_rope"]])
            quantised = self.conventions["preset"] != "transformers" and self.conventions.get("quantizer") != "none"
            if quantised:
                self.add("cache_k", "float8_e4m3", [cached, s["D_I"]], {"normal": {"std": 90}})
                self.add("cache_k_scale", "float32", [cached], {"uniform": {"low": 0.004, "high": 0.02}})
            else:
                self.add("cache_k", "bfloat16", [cached, s["D_I"]], {"normal": {"std": 1}})
                self.add("cache_k_scale", "float32", [cached], {"constant": 1})

    def draw_dsa_attention(self):
        T, s = self.choice([1, 3, 24]), self.attention_sizes()
        s["D_I"] = max(s["D_I"], 32)
        self.numbers("x", [T, s["D"]])
        self.layer(T, s)

    def experts(self, D: int, shares: bool = False) -> None:
        """A router and its experts."""
        groups = self.choice([1, 2, 4])
        E, F = groups * self.choice([2, 4]), 32
        kept = self.whole(1, groups)
        self.parameters |= {"groups": groups, "kept_groups": kept, "active": self.whole(1, min(4, kept * E // groups))}
        self.router(D, E)
        self.weight("W_gate", [E, D, F], D)
        self.weight("W_up", [E, D, F], D)
        self.weight("W_down", [E, F, D], F)
        if shares or self.whole(0, 1):
            self.weight("shared_W_gate", [D, F], D)
            self.weight("shared_W_up", [D, F], D)
            self.weight("shared_W_down", [F, D], F)

    def router(self, D: int, E: int) -> None:
        self.weight("W_g", [D, E], D, "float32")
        if self.conventions.get("gate_bias", True):
            self.numbers("bias", [E], 0.2, "float32")

    def draw_moe(self):
        D = 32 * self.whole(1, 3)
        self.numbers("x", [self.rows(), D])
        self.experts(D)

    def draw_moe_gate(self):
        groups = self.choice([1, 2, 4, 8])
        E, D = groups * self.choice([2, 4, 8]), 32
        kept = self.whole(1, groups)
        self.parameters |= {"groups": groups, "kept_groups": kept, "active": self.whole(1, min(8, kept * E // groups)),
                            "normalise": bool(self.whole(0, 1)), "route_scale": self.choice([1.0, 2.5])}  # fmt: skip
        self.numbers("x", [self.rows(), D])
        self.router(D, E)

    def draw_transformer_block(self):
        T, s = self.choice([1, 3, 24]), self.attention_sizes()
        self.numbers("hidden", [T, s["D"]])
        self.norm("attention_norm", s["D"])
        self.norm("ffn_norm", s["D"])
        self.layer(T, s)
        if self.whole(0, 1):
            self.experts(s["D"])
        else:
            F = 32 * self.whole(1, 3)
            self.weight("W_gate", [s["D"], F], s["D"])
            self.weight("W_up", [s["D"], F], s["D"])
            self.weight("W_down", [F, s["D"]], F)

    # The indexer

    def ranges(self, T: int, S: int) -> None:
        """Causal, packed, or full rows."""
        kind = self.whole(0, 2)
        start, end = [0] * T, [S - T + t + 1 for t in range(T)]
        if kind == 1:
            start = sorted(self.whole(0, S) for _ in range(T))
            end = [self.whole(s, S) for s in start]
        elif kind == 2:
            end = [S] * T
        self.add("start", "int32", [T], {"values": start})
        self.add("end", "int32", [T], {"values": end})

    def scores_inputs(self):
        T = self.rows()
        S, H_I, D_I = T + self.whole(0, 200), self.choice([1, 3, 8, 16, 32, 64]), self.choice([32, 64, 128])
        for name, shape in (("q", [T, H_I, D_I]), ("k", [S, D_I])):
            self.add(name, "float8_e4m3", shape, {"normal": {"std": self.choice([2, 90, 200])}})
        self.add("k_scale", "float32", [S], {"uniform": {"low": 0.004, "high": 0.02}})
        kind = self.choice(["mixed", "negative", "zero"])
        fill = {"levels": {"values": [0, 0.003, -0.002]}} if kind == "zero" else {"normal": {"std": 0.003}}
        self.add("weights", "float32", [T, H_I], fill if kind != "negative" else {"uniform": {"low": -0.01, "high": 0}})
        self.ranges(T, S)

    def draw_indexer_logits(self):
        self.scores_inputs()

    def draw_indexer_top_k(self):
        self.scores_inputs()
        self.parameters["topk"] = self.choice([1, 7, 32, 64])

    def draw_indexer_logits_paged(self):
        B, s_q, H_I, D_I, pages = self.whole(1, 3), self.whole(1, 4), self.choice([1, 8, 64]), self.choice([32, 64, 128]), 6
        P = self.whole(1, 2)
        self.add("q", "float8_e4m3", [B, s_q, H_I, D_I], {"normal": {"std": 90}})
        self.add("k_pages", "uint8", [pages, 64 * (D_I + 4)], {"key_pages": {"D_I": D_I, "std": 2.0, "quantizer": "deepseek",
                                                                             "scale_format": self.choice(["float32", "ue8m0"])}})  # fmt: skip
        self.add("block_table", "int32", [B, P], {"permutation": {"count": pages}})
        self.add("context_lens", "int32", [B], {"values": [self.whole(0, 64 * P) for _ in range(B)]})
        self.add("weights", "float32", [B * s_q, H_I], {"normal": {"std": 0.003}})

    def draw_top_k(self):
        T, S = self.rows(), self.whole(1, 400)
        T = min(T, S)
        fill = self.choice([{"normal": {"std": 1.0}}, {"levels": {"values": [0, 1, -1, 0.5]}}, {"constant": 0},
                            {"uniform": {"low": 1.0, "high": 1.001}}])  # fmt: skip
        self.add("logits", "float32", [T, S], fill)
        self.ranges(T, S)
        self.parameters["topk"] = self.choice([1, 5, 64, 128])

    # Attention

    def selection(self, T: int, S: int, k: int, shape: list | None = None, causal: bool = True) -> None:
        self.add("indices", "int32", shape or [T, k], {"selection": {"context": S, "causal": causal and S >= T,
                                                                     "order": self.choice(["ascending", "drawn"])}})  # fmt: skip

    def attention_inputs(self, name: str = "q"):
        """-> T, S, H, d, d_v"""
        T, H, d = self.rows(), self.choice([1, 2, 4, 16, 32]), 8 * self.whole(2, 10)
        S = T + self.whole(0, 120)
        self.numbers(name, [T, H, d])
        self.numbers("kv", [S, d])
        self.parameters["scale"] = round(d**-0.5, 6)
        return T, S, H, d

    def sink(self, H: int) -> None:
        if self.whole(0, 3) == 0:
            self.numbers("sink", [H], 2.0, "float32")

    def draw_sparse_prefill(self):
        T, S, H, d = self.attention_inputs()
        self.parameters["d_v"] = self.choice([d, d // 2])
        self.selection(T, S, self.choice([1, 12, 40]))
        self.sink(H)

    def draw_sparse_decode(self):
        B, s_q, H, R_kv, d_rope = self.whole(1, 2), self.whole(1, 4), self.choice([1, 4, 16]), self.choice([32, 128, 256]), 16
        pages, k = self.whole(1, 3), self.choice([5, 24])
        scales = max(1, R_kv // 128)
        self.numbers("q", [B, s_q, H, R_kv + d_rope])
        self.add("kv_pages", "uint8", [pages, 64, R_kv + 4 * scales + 2 * d_rope],
                 {"kv_pages": {"R_kv": R_kv, "d_rope": d_rope, "std": 1.0, "quantizer": "flashmla",
                               "scale_format": self.choice(["float32", "ue8m0"])}})  # fmt: skip
        self.selection(B * s_q, 64 * pages, k, [B, s_q, k], causal=False)
        self.parameters |= {"scale": round((R_kv + d_rope) ** -0.5, 6), "R_kv": R_kv}
        self.sink(H)

    def draw_dense_attention(self):
        T, S, H, d = self.attention_inputs()
        self.parameters |= {"mode": self.choice(["mqa", "mha"]), "causal": bool(self.whole(0, 1))}
        if self.parameters["mode"] == "mqa":
            self.parameters["d_v"] = d // 2
        else:
            del self.tensors["kv"]
            self.numbers("k", [S, H, d])
            self.numbers("v", [S, H, 24])
        self.sink(H)

    def draw_pack_kv_pages(self):
        R_kv = self.choice([32, 128, 256])
        self.numbers("kv", [self.whole(1, 130), R_kv + 16])
        self.parameters["R_kv"] = R_kv
        self.conventions |= {"kv_quantizer": self.choice(["deepseek", "flashmla", "vllm"]),
                             "scale_format": self.choice(["float32", "ue8m0"])}  # fmt: skip

    def draw_pack_key_pages(self):
        S, D_I = self.whole(1, 130), self.choice([32, 128])
        self.add("k", "float8_e4m3", [S, D_I], {"normal": {"std": 90}})
        self.add("k_scale", "float32", [S], {"uniform": {"low": 0.004, "high": 0.02}})

    # Training

    def draw_attention_target(self):
        T, S, _, _ = self.attention_inputs()
        if self.whole(0, 1):
            self.selection(T, S, 12)

    def draw_indexer_kl_loss(self):
        T, S, _, _ = self.attention_inputs("q_mla")
        H_I, D_I = self.choice([1, 8]), self.choice([16, 64])
        self.numbers("q", [T, H_I, D_I], 1.0, "float32")
        self.numbers("k", [S, D_I], 1.0, "float32")
        self.numbers("weights", [T, H_I], 0.1, "float32")
        if self.whole(0, 1):
            self.selection(T, S, 12)

    def draw_sparse_attention_backward(self):
        T, S, H, d = self.attention_inputs()
        d_v = d // 2
        for name in ("q", "kv"):  # outliers would give scores far above the lse below, and probabilities above any float
            self.tensors[name]["fill"] = {"normal": {"std": 1.0}}
        self.selection(T, S, 12)
        self.numbers("out", [T, H, d_v], 0.3)
        self.add("lse", "float32", [T, H], {"uniform": {"low": 4, "high": 5}})
        self.numbers("dout", [T, H, d_v])

    # Gradients

    def draw_rms_norm_backward(self):
        T, D = self.rows(), self.whole(1, 200)
        self.numbers("x", [T, D], self.choice([0.01, 1.0, 30.0]))
        self.norm("weight", D)
        self.numbers("dy", [T, D], self.choice([0.001, 1.0]))

    def draw_layer_norm_backward(self):
        T, D = self.rows(), self.whole(2, 200)
        self.numbers("x", [T, D])
        self.norm("weight", D)
        self.numbers("bias", [D], 0.2, "float32")
        self.numbers("dy", [T, D])

    def draw_cross_entropy(self):
        T, V = self.rows(), self.whole(1, 300)
        self.numbers("logits", [T, V], self.choice([1.0, 20.0]), "float32")
        self.add("targets", "int32", [T], {"integers": {"low": -1, "high": V - 1}})

    def gradient_of_attention(self, T: int, S: int, H: int, d_v: int) -> None:
        """What a forward pass would have left: with probabilities that some float can hold."""
        self.numbers("out", [T, H, d_v], 0.3)
        self.add("lse", "float32", [T, H], {"uniform": {"low": 4, "high": 5}})
        self.numbers("dout", [T, H, d_v])
        if self.whole(0, 1):
            self.parameters["causal"] = False
        if self.whole(0, 2) == 0:
            self.add("start", "int32", [T], {"values": sorted(self.whole(0, S) for _ in range(T))})

    def draw_dense_mqa_backward(self):
        T, S, H, d = self.attention_inputs()
        for name in ("q", "kv"):
            self.tensors[name]["fill"] = {"normal": {"std": 1.0}}
        self.gradient_of_attention(T, S, H, d // 2)

    def draw_dense_mha_backward(self):
        T, S, H, d = self.attention_inputs()
        del self.tensors["kv"]
        self.add("q", "bfloat16", [T, H, d], {"normal": {"std": 1.0}})
        self.add("k", "bfloat16", [S, H, d], {"normal": {"std": 1.0}})
        self.numbers("v", [S, H, 24])
        self.gradient_of_attention(T, S, H, 24)

    def draw_moe_backward(self):
        D, T = 32 * self.whole(1, 3), self.rows()
        self.numbers("x", [T, D])
        self.experts(D, shares=True)
        self.numbers("dy", [T, D])

    def draw_training_step(self):
        T, L, V, s = self.choice([2, 9, 20]), self.whole(1, 2), self.whole(5, 40), self.attention_sizes()
        self.add("tokens", "int32", [T], {"integers": {"low": 0, "high": V - 1}})
        self.add("targets", "int32", [T], {"integers": {"low": -1, "high": V - 1}})
        self.numbers("embedding", [V, s["D"]])
        self.layer(T, s, caches=False)
        del self.tensors["positions"]
        self.experts(s["D"], shares=True)
        for name in ("attention_norm", "ffn_norm"):
            self.norm(name, s["D"])
        for name, entry in self.tensors.items():
            if name not in ("tokens", "targets", "embedding"):
                entry["shape"] = [L, *entry["shape"]]
        self.norm("final_norm", s["D"])
        self.weight("head", [s["D"], V], s["D"])
        self.parameters |= {"stage": self.choice(["dense", "warmup", "sparse"]), "topk": self.whole(1, 8), "simulate_fp8": bool(self.whole(0, 1))}


def random_case(op: str, private_seed: str, number: int) -> Case:
    """Case `number` of the op that a private seed draws: the same for the same seed, on any machine."""
    require(op in contract.OPS, f'there is no op named "{op}"; there are {", ".join(contract.OPS)}')
    source = random.Random(f"{private_seed}/{op}/{number}")
    return Recipe(op, source.randint).draw(source.randrange(2**53), f"private_{number}")


def reseeded(case: Case, private_seed: str) -> Case:
    """A public case with numbers that nobody has seen: another seed, all else alike."""
    seed = random.Random(f"{private_seed}/{case.name}").randrange(2**53)
    return Case(case.op, case.entry | {"seed": seed, "name": case.entry["name"] + "@private"})
