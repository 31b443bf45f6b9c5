"""Which experts does a token visit, and what do they do? Spec section 6."""

from __future__ import annotations

import numpy as np

from .. import require


def sigmoid(x):
    """1 / (1 + exp(-x)), with exp of negative numbers only so that nothing overflows."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)


class Experts:
    """The router, the feed-forward nets, and their weighted sum."""

    layer = 0  # of a whole model: whose bias, where each layer has its own

    def biased(self, scores):
        """What the choice looks at. [T, E]"""
        if not self.conventions["gate_bias"]:
            return scores
        bias = self.inputs.number("bias", self.tier)
        return scores + (bias if bias.ndim == 1 else bias[self.layer])

    def group_scores(self, biased):
        """A group is as good as its two best experts together; without a bias, as its best. [T, G, n] -> [T, G]"""
        best = -np.sort(-biased.astype(np.float64), axis=-1)
        return best[..., : 2 if self.conventions["gate_bias"] else 1].sum(axis=-1)

    def score_that_weighs(self, scores, biased):
        """The weights are made from unbiased scores."""
        return scores

    def moe_gate(self, x):
        """x [T, D] -> scores [T, E], experts int32 [T, E_a] best first"""
        scores = sigmoid(x @ self.inputs.number("W_g", self.tier))
        return scores, self.chosen_experts(scores)

    def chosen_experts(self, scores):
        """The best experts of the best groups, by biased scores. scores [T, E] -> int32 [T, E_a] best first"""
        T, E = scores.shape
        groups, kept = self.parameters.get("groups", 8), self.parameters.get("kept_groups", 4)
        active = self.parameters.get("active", 8)
        require(E % groups == 0, f"{E} experts do not divide into {groups} groups")
        biased = self.biased(scores)
        group_scores = self.group_scores(biased.reshape(T, groups, E // groups))
        order = np.argsort(-group_scores, axis=1, kind="stable")[:, :kept]
        allowed = np.zeros((T, groups), bool)
        np.put_along_axis(allowed, order, True, axis=1)
        masked = np.where(np.repeat(allowed, E // groups, axis=1), biased, -np.inf)
        return np.argsort(-masked, axis=1, kind="stable")[:, :active].astype(np.int32)

    def expert_weights(self, scores, experts):
        """Each chosen expert's score over their sum, times the route scale. -> [T, E_a]"""
        real = self.tier.real
        chosen = np.take_along_axis(self.score_that_weighs(scores, self.biased(scores)), experts, axis=1)
        if self.parameters.get("normalise", True):
            chosen = chosen / (chosen.sum(axis=1, keepdims=True) + real(self.conventions["router_eps"]))
        return chosen * real(self.parameters.get("route_scale", 2.5))

    def feed_forward(self, x, gate: str, up: str, down: str, expert: int | None = None):
        """W_down(silu(W_gate x) * W_up x). x [T, D] -> [T, D]"""

        def weight(name):
            return self.inputs.number(name, self.tier) if expert is None else self.inputs.number_of(name, expert, self.tier)

        g = self.linear(x, gate, weight(gate))
        hidden = self.tier.bf16(g * sigmoid(g) * self.linear(x, up, weight(up)))
        return self.linear(hidden, down, weight(down))

    def moe(self, x, experts, weights):
        """sum_e weight_e FFN_e(x) + FFN_shared(x). x [T, D] -> [T, D], stored as bf16"""
        y = np.zeros_like(x)
        for e in np.unique(experts):
            t, slot = np.nonzero(experts == e)
            y[t] += weights[t, slot][:, None] * self.feed_forward(x[t], "W_gate", "W_up", "W_down", int(e))
        if self.inputs.has("shared_W_gate"):
            y = y + self.feed_forward(x, "shared_W_gate", "shared_W_up", "shared_W_down")
        return self.tier.bf16(y)
