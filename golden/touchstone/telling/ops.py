"""The contract: each op as a pure function on named tensors. Spec section 11.

Shapes are beside the inputs; outputs are what `show` names.
"""

from __future__ import annotations

import numpy as np

from .. import require


class Ops:
    """op_NAME reads the inputs that the contract names and shows its outputs."""

    def _x(self, name: str):
        """A floating-point input in this tier's numbers."""
        return self.inputs.number(name, self.tier)

    def _maybe(self, name: str):
        return self._x(name) if self.inputs.has(name) else None

    def op_rms_norm(self):
        """x [T, D], weight [D] -> y"""
        self.show("y", self.rms_norm(self._x("x"), self._x("weight")), "bfloat16")

    def op_layer_norm(self):
        """x [T, D], weight, bias [D] -> y"""
        self.show("y", self.layer_norm(self._x("x"), self._x("weight"), self._x("bias")), "bfloat16")

    def op_rope(self):
        """x [T, N, d_rope], positions [T] -> y"""
        layout = self.parameters.get("layout", "interleaved")
        output = self.parameters.get("output_layout", layout)
        self.show("y", self.rope(self._x("x"), self.inputs.integers("positions"), layout, output), "bfloat16")

    def op_hadamard(self):
        """x [T, N, n] -> y"""
        self.show("y", self.hadamard(self._x("x")), "bfloat16")

    def op_act_quant(self):
        """x [T, N] -> q [T, N] e4m3, scale [T, N / block]"""
        quantizer = self.conventions["quantizer"]
        values, scale = self.quantize(self._x("x"), quantizer, self.parameters.get("block", 128))
        self.show("q", values, "bfloat16" if quantizer == "none" else "float8_e4m3", "scale")
        self.pass_scale("scale", scale)

    def op_mla_project(self):
        """x [T, D], weights -> c_q, q_nope, q_rope, c_kv, k_rope"""
        result = self.mla_project(self._x("x"), self.inputs.integers("positions"))
        for name in ("c_q", "q_nope", "q_rope", "c_kv", "k_rope"):
            self.show(name, result[name], "bfloat16")

    def op_indexer_project(self):
        """x [T, D], c_q [T, R_q], weights -> q, k, k_scale, weights"""
        result = self.indexer_project(self._x("x"), self._x("c_q"), self.inputs.integers("positions"),
                                      self.parameters.get("d_rope", 64))  # fmt: skip
        dtype = "bfloat16" if self.conventions["quantizer"] == "none" else "float8_e4m3"
        self.show("unquantised_q", result["unquantised_q"], "bfloat16")
        self.show("unquantised_k", result["unquantised_k"], "bfloat16")
        self.show("q", result["q"], dtype, "q_scale")
        self.pass_scale("q_scale", result["q_scale"])
        self.show("k", result["k"], dtype, "k_scale")
        self.pass_scale("k_scale", result["k_scale"])
        self.show("weights", result["weights"], "float32", "1/q_scale")

    def _contiguous_logits(self):
        return self.indexer_logits(self._x("q"), self._x("k"), self._x("k_scale"), self._x("weights"),
                                   self.inputs.integers("start"), self.inputs.integers("end"))  # fmt: skip

    def op_indexer_logits(self):
        """q [T, H_I, D_I], k [S, D_I], k_scale [S], weights [T, H_I], start, end [T] -> logits [T, S]"""
        self.show("logits", self._contiguous_logits(), "float32")

    def op_indexer_logits_paged(self):
        """q [B, s_q, H_I, D_I], k_pages, block_table [B, P], context_lens [B], weights [B s_q, H_I] -> logits"""
        read = self.inputs
        logits = self.indexer_logits_paged(self._x("q"), read.stored("k_pages"), read.integers("block_table"),
                                           read.integers("context_lens"), self._x("weights"))  # fmt: skip
        self.show("logits", logits, "float32")

    def op_top_k(self):
        """logits [T, S], start, end [T] -> indices [T, k]"""
        start, end = self.inputs.integers("start"), self.inputs.integers("end")
        self.pass_("indices", self.top_k(self._x("logits"), start, end, self.topk), "int32")

    def op_indexer_top_k(self):
        """as indexer_logits -> indices [T, k]; the logits are a stage"""
        logits = self._contiguous_logits()
        self.show("logits", logits, "float32")
        start, end = self.inputs.integers("start"), self.inputs.integers("end")
        self.pass_("indices", self.top_k(logits, start, end, self.topk), "int32")

    def _scale(self) -> float:
        return self.softmax_scale(128, 64)

    def _d_v(self, d: int) -> int:
        d_v = self.parameters.get("d_v", min(512, d))
        require(d_v <= d, f"d_v must be at most the {d} columns of kv; it is {d_v}")
        return d_v

    def _show_attention(self, result: dict, *names: str):
        self.show("out", result["out"], "bfloat16")
        self.show("lse", self.by_convention(result["lse"]), "float32")
        for name in names:
            self.show(name, result[name], "float32")

    def op_sparse_prefill(self):
        """q [T, H, d], kv [S, d], indices [T, k], sink [H] or none -> out, lse, max_logit"""
        q, kv = self._x("q"), self._x("kv")
        self._show_attention(self.sparse_attention(q, kv, self.inputs.integers("indices"), self._scale(),
                                                   self._d_v(q.shape[2]), self._maybe("sink")), "max_logit")  # fmt: skip

    def op_sparse_decode(self):
        """q [B, s_q, H, d], kv_pages, indices [B, s_q, k], sink [H] or none -> out, lse"""
        self._show_attention(self.sparse_decode(self._x("q"), self.inputs.stored("kv_pages"),
                                                self.inputs.integers("indices"), self._scale(),
                                                self.parameters.get("R_kv", 512), self._maybe("sink")))  # fmt: skip

    def op_dense_attention(self):
        """mqa: q [T, H, d], kv [S, d]; mha: k [S, H, d], v [S, H, d_v]; start [T] or none -> out, lse"""
        q = self._x("q")
        mqa = self.parameters.get("mode", "mqa") == "mqa"
        T, S = q.shape[0], self.inputs.shape("kv" if mqa else "k")[0]
        causal = self.parameters.get("causal", True)
        require(S >= T or not causal, f"causal attention needs S >= T = {T}; S is {S}")
        start = self.inputs.integers("start") if self.inputs.has("start") else np.zeros(T, int)
        ranges, sink = self.dense_ranges(T, S, causal, start), self._maybe("sink")
        if mqa:
            result = self.dense_mqa(q, self._x("kv"), ranges, self._scale(), self._d_v(q.shape[2]), sink)
        else:
            result = self.dense_mha(q, self._x("k"), self._x("v"), ranges, self._scale(), sink)
        self._show_attention(result)

    def _in_deployed_numbers(self, names: tuple) -> list:
        """Bytes have one right answer in every tier: that of float32."""
        from .numbers import Deployed

        self.tier = Deployed
        return [self._x(name) for name in names]

    def op_pack_kv_pages(self):
        """kv [S, R_kv + d_rope] -> kv_pages"""
        (kv,) = self._in_deployed_numbers(("kv",))
        self.show("kv_pages", self.pack_kv_pages(kv, self.parameters.get("R_kv", 512)), "uint8")

    def op_pack_key_pages(self):
        """k [S, D_I], k_scale [S] -> k_pages"""
        self.show("k_pages", self.pack_key_pages(*self._in_deployed_numbers(("k", "k_scale"))), "uint8")

    def op_moe_gate(self):
        """x [T, D], W_g [D, E], bias [E] -> experts, expert_weights [T, E_a]; the scores are a stage"""
        scores, experts = self.moe_gate(self._x("x"))
        self.show("scores", scores, "float32")
        experts = self.pass_("experts", experts, "int32")
        self.show("expert_weights", self.expert_weights(scores, experts), "float32")

    def op_moe(self):
        """x [T, D], gate and experts' weights -> y [T, D]"""
        self.show("y", self.moe_layer(self._x("x")), "bfloat16")

    def _target(self, q, kv):
        indices = self.inputs.integers("indices") if self.inputs.has("indices") else None
        return self.attention_target(q, kv, indices, self._scale())

    def op_attention_target(self):
        """q [T, H, d], kv [S, d], indices [T, k] or none -> p"""
        self.show("p", self._target(self._x("q"), self._x("kv")), "float32")

    def op_indexer_kl_loss(self):
        """q [T, H_I, D_I], k [S, D_I], weights [T, H_I], p or q_mla and kv, indices or none -> loss, dq, dk, dweights"""
        target = self._x("p") if self.inputs.has("p") else self._target(self._x("q_mla"), self._x("kv"))
        self.show("p", target, "float32")
        indices = self.inputs.integers("indices") if self.inputs.has("indices") else None
        result = self.indexer_kl_loss(self._x("q"), self._x("k"), self._x("weights"), target, indices)
        for name in ("loss", "dq", "dk", "dweights"):
            self.show(name, result[name], "float32")

    def op_sparse_attention_backward(self):
        """q [T, H, d], kv [S, d], indices [T, k], out, dout [T, H, d_v], lse [T, H] -> dq, dkv"""
        x = {name: self._x(name) for name in ("q", "kv", "out", "lse", "dout")}
        indices = self.inputs.integers("indices")
        result = self.sparse_attention_backward(x["q"], x["kv"], indices, x["out"], x["lse"], x["dout"], self._scale())
        self.show("dq", result["dq"], "bfloat16")
        self.show("dkv", result["dkv"], "float32")

    def _layer_inputs(self, T: int):
        cache = {}
        if self.inputs.has("cache_kv"):
            cache = {name: self._x("cache_" + name) for name in ("kv", "k", "k_scale")}
        start = self.inputs.integers("start") if self.inputs.has("start") else np.zeros(T, int)
        return self.inputs.integers("positions"), start, cache

    def op_dsa_attention(self):
        """x [T, D], positions, cache, all attention weights -> y and every stage"""
        x = self._x("x")
        self.show("y", self.dsa_attention(x, *self._layer_inputs(len(x))), "bfloat16")

    def op_transformer_block(self):
        """hidden [T, D], positions, cache, all weights -> y and every stage"""
        hidden = self._x("hidden")
        self.show("y", self.transformer_block(hidden, *self._layer_inputs(len(hidden))), "bfloat16")
