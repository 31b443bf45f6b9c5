"""The contract's gradients: each op reads what its backward kernel is given, and shows what that must write."""

from __future__ import annotations

import numpy as np


class GradientOps:
    """op_NAME, as in ops.py."""

    def op_rms_norm_backward(self):
        """x, dy [T, D], weight [D] -> dx, dweight"""
        dx, dweight = self.rms_norm_backward(self._x("x"), self._x("weight"), self._x("dy"))
        self.show("dx", dx, "bfloat16")
        self.show("dweight", dweight, "float32")

    def op_layer_norm_backward(self):
        """x, dy [T, D], weight, bias [D] -> dx, dweight, dbias"""
        dx, dweight, dbias = self.layer_norm_backward(self._x("x"), self._x("weight"), self._x("bias"), self._x("dy"))
        self.show("dx", dx, "bfloat16")
        self.show("dweight", dweight, "float32")
        self.show("dbias", dbias, "float32")

    def op_cross_entropy(self):
        """logits [T, V], targets [T], -1 where a token does not count -> loss, dlogits"""
        loss, dlogits = self.cross_entropy(self._x("logits"), self.inputs.integers("targets"))
        self.show("loss", loss, "float32")
        self.show("dlogits", dlogits, "float32")

    def _ranges(self, T: int, S: int) -> list:
        start = self.inputs.integers("start") if self.inputs.has("start") else np.zeros(T, int)
        return self.dense_ranges(T, S, self.parameters.get("causal", True), start)

    def op_dense_mqa_backward(self):
        """q [T, H, d], kv [S, d], out, dout [T, H, d_v], lse [T, H] -> dq, dkv"""
        q, kv, *given = (self._x(name) for name in ("q", "kv", "out", "lse", "dout"))
        result = self.dense_mqa_backward(q, kv, *given, self._ranges(len(q), len(kv)), self._scale())
        self.show("dq", result["dq"], "bfloat16")
        self.show("dkv", result["dkv"], "float32")

    def op_dense_mha_backward(self):
        """q [T, H, d], k [S, H, d], v [S, H, d_v], out, dout [T, H, d_v], lse [T, H] -> dq, dk, dv"""
        q, k, *given = (self._x(name) for name in ("q", "k", "v", "out", "lse", "dout"))
        result = self.dense_mha_backward(q, k, *given, self._ranges(len(q), len(k)), self._scale())
        for name in ("dq", "dk", "dv"):
            self.show(name, result[name], "bfloat16")

    def op_moe_backward(self):
        """x, dy [T, D], all weights -> dx and a gradient for each weight; the choices and the weights' gradients are stages"""
        from .training_step import MIXTURE

        x, dy, weights = self._x("x"), self._x("dy"), {name: self._x(name) for name in MIXTURE}
        scores, experts = self.moe_gate(x)
        scores = self.pass_("gate_scores", scores, "float32")
        experts = self.pass_("expert_ids", experts, "int32")
        expert_weights = self.pass_("expert_weights", self.expert_weights(scores, experts), "float32")
        d = self.mixture_backward(x, weights, scores, experts, expert_weights, dy, lambda n, g: self.pass_(n, g, "float32"))
        self.show("dx", d["dx"], "bfloat16")
        for name in MIXTURE:
            self.show("d" + name, d[name], "float32")
