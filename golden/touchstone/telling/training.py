"""What the indexer should learn, how it learns, and how the main model learns through it. Spec sections 5 and 7."""

from __future__ import annotations

import numpy as np


class Training:
    """The KL target and loss with its gradients, and the backward pass of sparse attention."""

    def softmax(self, logits):
        """Along the last axis."""
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)

    def head_probabilities(self, scores, scale: float):
        """The sum over heads of each head's softmax. scores [H, n] -> [n]"""
        return self.softmax(scores * self.tier.real(scale)).sum(axis=0)

    def normalised_target(self, p):
        """L1: what the heads say together, scaled to sum to one."""
        return p / p.sum()

    def attention_target(self, q, kv, indices, scale: float):
        """p_t over all causal positions, [T, S], or over the set in the order of indices, [T, k]."""
        T, S = q.shape[0], kv.shape[0]
        p = np.zeros((T, S if indices is None else indices.shape[1]), self.tier.real)
        for t in range(T):
            seen = S - T + t + 1
            if indices is None:
                p[t, :seen] = self.normalised_target(self.head_probabilities(q[t] @ kv[:seen].T, scale))
                continue
            positions = self.selected(indices[t], S)
            if len(positions) == 0:
                continue
            if self.conventions["sparse_kl_target"] == "softmax_on_set":
                on_set = self.head_probabilities(q[t] @ kv[positions].T, scale)
            else:
                on_set = self.head_probabilities(q[t] @ kv[:seen].T, scale)[positions]
            p[t, self.slots_of(indices[t], positions)] = self.normalised_target(on_set)
        return p

    def slots_of(self, indices, positions):
        """The slot in which each selected position stands first. [k], [n] -> [n]"""
        return np.array([np.flatnonzero(indices == s)[0] for s in positions], dtype=int)

    def target_gradient(self, prediction, target):
        """dL/dI = softmax(I) - p"""
        return prediction - target

    def indexer_kl_loss(self, q, k, weights, target, indices) -> dict:
        """L = sum_t KL(p_t || softmax(I_t)) and its gradients.

        q [T, H_I, D_I], k [S, D_I], weights [T, H_I], target [T, S] or [T, k] -> loss [1], dq, dk, dweights
        """
        real = self.tier.real
        T, S = q.shape[0], k.shape[0]
        if indices is None:
            sets = [np.arange(S - T + t + 1) for t in range(T)]
            targets = [target[t, : len(sets[t])] for t in range(T)]
        else:
            sets = [self.selected(indices[t], S) for t in range(T)]
            targets = [target[t, self.slots_of(indices[t], sets[t])] for t in range(T)]
        factor = self.conventions["kl_coefficient"]
        if self.conventions["kl_reduction"] == "mean":
            factor /= max(1, sum(len(s) > 0 for s in sets))
        loss, dq, dk, dweights = real(0), np.zeros_like(q), np.zeros_like(k), np.zeros_like(weights)
        for t in range(T):
            if len(sets[t]) == 0:
                continue
            keys, p = k[sets[t]], targets[t]
            dots = q[t] @ keys.T  # [H_I, n]
            scores = self.head_sum(dots, weights[t])
            maximum = scores.max()
            log_prediction = scores - (maximum + np.log(np.exp(scores - maximum).sum()))
            some = p > 0
            loss += real(factor) * np.sum(p[some] * (np.log(p[some]) - log_prediction[some]))
            d_scores = real(factor) * self.target_gradient(self.softmax(scores), p)  # [n]
            dweights[t] = self.relu(dots) @ d_scores
            d_dots = np.where(dots > 0, weights[t][:, None] * d_scores, real(0))  # [H_I, n]
            dq[t] = d_dots @ keys
            np.add.at(dk, sets[t], d_dots.T @ q[t])
        return {"loss": np.array([loss], real), "dq": dq, "dk": dk, "dweights": dweights}

    def sparse_attention_backward(self, q, kv, indices, out, lse, dout, scale: float) -> dict:
        """dq [T, H, d] and dkv [S, d] from dout, with delta = sum(out * dout). Spec section 5."""
        real = self.tier.real
        d_v = out.shape[2]
        dq, dkv = np.zeros_like(q), np.zeros_like(kv)
        for t in range(q.shape[0]):
            positions = self.selected(indices[t], kv.shape[0])
            if len(positions) == 0:
                continue
            rows = kv[positions]  # [n, d]
            p = np.exp((q[t] @ rows.T) * real(scale) - lse[t][:, None])  # [H, n]
            delta = np.sum(out[t] * dout[t], axis=1, keepdims=True)  # [H, 1]
            d_scores = self.tier.bf16(p * (dout[t] @ rows[:, :d_v].T - delta) * real(scale))
            dq[t] = d_scores @ rows
            d_rows = d_scores.T @ q[t]
            d_rows[:, :d_v] += self.tier.bf16(p).T @ dout[t]
            np.add.at(dkv, positions, d_rows)
        return {"dq": self.tier.bf16(dq), "dkv": dkv}
