"""How does a loss change when an input does? The gradient of each formula, by the chain rule. docs/14-gradients.md.

`d_x` is the gradient of the loss with respect to x, of x's shape. Where y = f(x) and d_y is given, d_x is d_y times the
derivative of f. Stores to bf16 are those of a deployed kernel: activations and their gradients.
"""

from __future__ import annotations

import numpy as np

from .experts import sigmoid


class Gradients:
    """Norms, rotations, linear maps, softmax attention, experts, and the loss at the end."""

    # Vectors

    def rms_norm_backward(self, x, weight, dy):
        """y = n weight with n = x / r, r = sqrt(mean(x^2) + eps). x, dy [T, D] -> dx [T, D], dweight [D]

        dr/dx = x / (D r), so that dn = dx / r - x (x . dx) / (D r^3): the part along n is lost.
        """
        real = self.tier.real
        inverse = real(1) / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=real) + real(self.eps))
        n, g = x * inverse, dy * weight
        dx = (g - n * np.mean(g * n, axis=-1, keepdims=True, dtype=real)) * inverse
        return dx, self.over_tokens(dy * n)

    def layer_norm_backward(self, x, weight, bias, dy):
        """As of RMSNorm, and the mean's share taken off too. x, dy [T, D] -> dx, dweight, dbias [D]"""
        real = self.tier.real
        centred = x - np.mean(x, axis=-1, keepdims=True, dtype=real)
        inverse = real(1) / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True, dtype=real) + real(self.eps))
        n, g = centred * inverse, dy * weight
        dx = (self.without_mean(g) - n * np.mean(g * n, axis=-1, keepdims=True, dtype=real)) * inverse
        return dx, self.over_tokens(dy * n), self.over_tokens(dy)

    def without_mean(self, g):
        """Subtracting the mean forwards subtracts it backwards: I - 11^T/D is symmetric."""
        return g - np.mean(g, axis=-1, keepdims=True, dtype=self.tier.real)

    def over_tokens(self, per_token):
        """A parameter that all tokens share gathers from all of them. [T, ...] -> [...]"""
        return np.sum(per_token, axis=0, dtype=self.tier.real)

    def rope_backward(self, dy, positions, layout: str):
        """A rotation is orthogonal: its gradient is turned back, which is turning by -position."""
        return self.tier.bf16(self.rope(dy, -positions, layout))

    def hadamard_backward(self, dy):
        """The transform is symmetric and its own inverse."""
        return self.hadamard(dy)

    def act_quant_backward(self, dy):
        """Straight through: rounding is flat almost everywhere, and its own derivative would stop all learning."""
        return dy

    def linear_backward(self, x, w, dy):
        """y = x w. x [T, K], w [K, N], dy [T, N] -> dx [T, K], dw [K, N]; neither is rounded here"""
        return dy @ w.T, x.T @ dy

    # Attention

    def attention_delta(self, out, dout):
        """sum_s p_s dp_s = out . dout: what moving all probabilities together would change. [H, d_v] -> [H, 1]"""
        return np.sum(out * dout, axis=-1, keepdims=True, dtype=self.tier.real)

    def softmax_attention_backward(self, q, k, v, out, lse, dout, scale: float):
        """One query. q [H, d], k [n, d], v [n, d_v], out, dout [H, d_v], lse [H] -> dq [H, d], dk [n, d], dv [n, d_v]

        p = softmax(s): dp_i/ds_j = p_i (delta_ij - p_j), hence ds = p (dp - sum p dp), and that sum is out . dout.
        """
        scale = self.tier.real(scale)
        p = np.exp((q @ k.T) * scale - lse[:, None])
        ds = self.tier.bf16(p * (dout @ v.T - self.attention_delta(out, dout)) * scale)
        return ds @ k, ds.T @ q, self.tier.bf16(p).T @ dout

    def dense_mqa_backward(self, q, kv, out, lse, dout, ranges, scale: float) -> dict:
        """All heads share the latent, whose first d_v columns are the value too. -> dq [T, H, d], dkv [S, d]"""
        d_v = out.shape[2]
        dq, dkv = np.zeros_like(q), np.zeros_like(kv)
        for t, seen in enumerate(ranges):
            if len(seen):
                dq[t], dk, dv = self.softmax_attention_backward(q[t], kv[seen], kv[seen, :d_v], out[t], lse[t], dout[t], scale)
                dkv[seen] += dk
                dkv[seen, :d_v] += dv
        return {"dq": dq, "dkv": dkv}

    def dense_mha_backward(self, q, k, v, out, lse, dout, ranges, scale: float) -> dict:
        """Each head has its own keys and values. -> dq [T, H, d], dk [S, H, d], dv [S, H, d_v]"""
        dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        for t, seen in enumerate(ranges):
            for h in range(q.shape[1]) if len(seen) else ():
                one = slice(h, h + 1)
                dq[t, one], dk_head, dv_head = self.softmax_attention_backward(
                    q[t, one], k[seen, h], v[seen, h], out[t, one], lse[t, one], dout[t, one], scale)  # fmt: skip
                dk[seen, h] += dk_head
                dv[seen, h] += dv_head
        return {"dq": dq, "dk": dk, "dv": dv}

    # Experts

    def feed_forward_backward(self, x, W_gate, W_up, W_down, dy) -> dict:
        """y = (silu(x W_gate) * x W_up) W_down, silu(a) = a s(a), silu'(a) = s(a) (1 + a (1 - s(a))).

        x, dy [n, D], dy stored as bf16 -> dx [n, D] not rounded yet, dW_gate, dW_up [D, F], dW_down [F, D]
        """
        bf16, one = self.tier.bf16, self.tier.real(1)
        gate, up = bf16(x @ W_gate), bf16(x @ W_up)
        s = sigmoid(gate)
        hidden = bf16(gate * s * up)
        d_hidden, dW_down = self.linear_backward(hidden, W_down, dy)
        d_hidden = bf16(d_hidden)
        d_gate = bf16(d_hidden * up * s * (one + gate * (one - s)))
        d_up = bf16(d_hidden * gate * s)
        dx_gate, dW_gate = self.linear_backward(x, W_gate, d_gate)
        dx_up, dW_up = self.linear_backward(x, W_up, d_up)
        return {"dx": dx_gate + dx_up, "W_gate": dW_gate, "W_up": dW_up, "W_down": dW_down}

    def expert_weights_backward(self, scores, experts, d_weights):
        """w_i = r s_i / sum_j s_j over the chosen: ds_i = r (dw_i - sum_j dw_j s_j / sum s) / sum s. -> d_scores [T, E]

        The bias took part in the choice only, which has no gradient: neither has the bias.
        """
        real = self.tier.real
        chosen = np.take_along_axis(scores, experts, axis=1)
        d_chosen = d_weights * real(self.parameters.get("route_scale", 2.5))
        if self.parameters.get("normalise", True):
            total = chosen.sum(axis=1, keepdims=True) + real(self.conventions["router_eps"])
            d_chosen = (d_chosen - self.normalisation_share(d_chosen, chosen / total)) / total
        d_scores = np.zeros_like(scores)
        np.put_along_axis(d_scores, experts, d_chosen, axis=1)
        return d_scores

    def normalisation_share(self, d_weights, weights):
        """Raising one score lowers the other experts' weights. weights sum to one -> [T, 1]"""
        return np.sum(d_weights * weights, axis=1, keepdims=True)

    def gate_backward(self, x, W_g, scores, d_scores):
        """scores = sigmoid(x W_g), sigmoid' = s (1 - s). -> dx [T, D] not rounded, dW_g [D, E]"""
        return self.linear_backward(x, W_g, d_scores * scores * (self.tier.real(1) - scores))

    def mixture_backward(self, x, weights: dict, scores, experts, expert_weights, dy, pass_) -> dict:
        """y = sum_e w_e FFN_e(x) + FFN_shared(x). x, dy [T, D] -> dx [T, D] not rounded, and a gradient for each weight

        weights: W_g [D, E], W_gate, W_up [E, D, F], W_down [E, F, D], shared_W_gate ... pass_(name, numbers): shows a stage
        """
        bf16 = self.tier.bf16
        d = {name: np.zeros_like(w) for name, w in weights.items()}
        d_weights = np.zeros_like(expert_weights)
        shared = self.feed_forward_backward(x, *(weights["shared_" + n] for n in ("W_gate", "W_up", "W_down")), dy)
        dx = shared["dx"]
        for name in ("W_gate", "W_up", "W_down"):
            d["shared_" + name] = shared[name]
        for e in np.unique(experts):
            t, slot = np.nonzero(experts == e)
            own = [weights[n][e] for n in ("W_gate", "W_up", "W_down")]
            d_weights[t, slot] = np.sum(dy[t] * self.expert_output(x[t], *own), axis=1)
            part = self.feed_forward_backward(x[t], *own, bf16(dy[t] * expert_weights[t, slot][:, None]))
            dx[t] += bf16(part["dx"])
            for name in ("W_gate", "W_up", "W_down"):
                d[name][e] = part[name]
        d_weights = pass_("d_expert_weights", d_weights)
        d_scores = pass_("d_gate_scores", self.expert_weights_backward(scores, experts, d_weights))
        dx_gate, d["W_g"] = self.gate_backward(x, weights["W_g"], scores, d_scores)
        return {"dx": dx + dx_gate, **d}

    def expert_output(self, x, W_gate, W_up, W_down):
        """What one expert says. x [n, D] -> [n, D]"""
        gate = self.tier.bf16(x @ W_gate)
        return self.tier.bf16(self.tier.bf16(gate * sigmoid(gate) * self.tier.bf16(x @ W_up)) @ W_down)

    # The loss at the end

    def cross_entropy(self, logits, targets):
        """Mean of -log softmax(logits)[target] over the targets >= 0, and its gradient. -> loss [1], dlogits [T, V]"""
        real = self.tier.real
        counts = np.flatnonzero(targets >= 0)
        n = real(max(1, len(counts)))
        loss, d = real(0), np.zeros_like(logits)
        for t in counts:
            shifted = logits[t] - logits[t].max()
            loss -= (shifted[targets[t]] - np.log(np.exp(shifted).sum())) / n
            d[t] = self.softmax(logits[t]) / n
            d[t, targets[t]] -= real(1) / n
        return np.array([loss], real), d
