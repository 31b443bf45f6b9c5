"""How do the stages become a layer, and the layers a model? Spec sections 2 to 6."""

from __future__ import annotations

import numpy as np


class Layers:
    """DSA from hidden states to hidden states, one transformer block, and the whole model.

    Every stage goes through `self.pass_`, which shows it and gives back what the next stage works on: the tensor
    itself or, where a record is followed, the recorded one.
    """

    def indexer_c_q(self, mla: dict):
        """The indexer reads the query latent after its norm."""
        return mla["c_q"]

    def positions_chosen(self, logits, start, end, k: int, cached: int):
        """The selection of a layer; `cached` tokens came before this call."""
        return self.top_k(logits, start, end, k)

    def dsa_attention(self, x, positions, start, cache: dict, prefix: str = ""):
        """x [T, D] normalised -> y [T, D]. cache: kv, k, k_scale of the tokens before; grows."""

        def pass_(name, value, dtype="bfloat16", scale=""):
            return self.pass_(prefix + name, value, dtype, scale and scale.replace("indexer", prefix + "indexer"))

        fp8 = "bfloat16" if self.conventions["quantizer"] == "none" else "float8_e4m3"
        mla = self.mla_project(x, positions)
        for name in ("c_q", "q_nope", "q_rope", "c_kv", "k_rope"):
            mla[name] = pass_(name, mla[name])
        indexer = self.indexer_project(x, self.indexer_c_q(mla), positions, mla["k_rope"].shape[1])
        q = pass_("indexer_q", indexer["q"], fp8, "indexer_q_scale")
        self.pass_scale(prefix + "indexer_q_scale", indexer["q_scale"])
        k = pass_("indexer_k", indexer["k"], fp8, "indexer_k_scale")
        k_scale = self.pass_scale(prefix + "indexer_k_scale", indexer["k_scale"])
        weights = pass_("indexer_weights", indexer["weights"], "float32", "1/indexer_q_scale")
        kv = pass_("kv", self.cached_latent(mla["c_kv"], mla["k_rope"]))

        cached = len(cache["kv"]) if cache else 0
        for name, new in (("kv", kv), ("k", k), ("k_scale", k_scale)):
            cache[name] = np.concatenate([cache[name], new]) if cached else new
        end = cached + 1 + np.arange(len(x))
        logits = pass_("indexer_logits",
                       self.indexer_logits(q, cache["k"], cache["k_scale"], weights, start, end), "float32")  # fmt: skip
        indices = pass_("topk_indices", self.positions_chosen(logits, start, end, self.topk, cached), "int32")
        query = pass_("q", self.absorbed_query(mla["q_nope"], mla["q_rope"]))
        d_nope, d_rope = mla["q_nope"].shape[2], mla["q_rope"].shape[2]
        result = self.sparse_attention(query, cache["kv"], indices, self.softmax_scale(d_nope, d_rope), mla["c_kv"].shape[1])
        out = pass_("attention_out", result["out"])
        pass_("attention_lse", self.by_convention(result["lse"]), "float32")
        pass_("attention_max_logit", result["max_logit"], "float32")
        return pass_("attention_y", self.output_projection(out))

    def moe_layer(self, x, prefix: str = ""):
        """The mixture of experts with its choices shown. x [T, D] -> [T, D]"""
        scores, experts = self.moe_gate(x)
        scores = self.pass_(prefix + "gate_scores", scores, "float32")
        experts = self.pass_(prefix + "expert_ids", experts, "int32")
        weights = self.pass_(prefix + "expert_weights", self.expert_weights(scores, experts), "float32")
        return self.moe(x, experts, weights)

    def transformer_block(self, hidden, positions, start, cache: dict, prefix: str = ""):
        """hidden [T, D] -> [T, D]: attention and a feed-forward net, each added to the residual stream."""

        def pass_(name, value):
            return self.pass_(prefix + name, value, "bfloat16")

        norm = self.inputs.number("attention_norm", self.tier)
        x = pass_("attention_input", self.rms_norm(hidden, norm))
        attention = self.dsa_attention(x, positions, start, cache, prefix)
        middle = pass_("after_attention", self.tier.bf16(hidden + attention))
        z = pass_("ffn_input", self.rms_norm(middle, self.inputs.number("ffn_norm", self.tier)))
        dense = not self.inputs.has("W_g")
        y = pass_("ffn_y", self.feed_forward(z, "W_gate", "W_up", "W_down") if dense else self.moe_layer(z, prefix))
        return pass_("after_ffn", self.tier.bf16(middle + y))
