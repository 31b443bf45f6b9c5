"""How does a query attend to its selected tokens only? Softmax attention over sets, and the FP8 cache's bytes.

Spec sections 5 and 10.
"""

from __future__ import annotations

import math

import numpy as np

from .selection import PAGE
from .vectors import block_for


class Attention:
    """Dense and sparse attention in MQA and MHA mode. scores are [H, n], values [n, d_v]."""

    def selected(self, indices, S: int):
        """The set S_t: valid positions in their order, each once. -1 and positions outside [0, S) are skipped."""
        valid = indices[(indices >= 0) & (indices < S)]
        _, first = np.unique(valid, return_index=True)
        return valid[np.sort(first)]

    def attend(self, scores, values, scale: float, sink=None):
        """Softmax attention of every head over n > 0 positions. -> out [H, d_v], lse [H], max_logit [H]

        The probabilities are rounded to bf16 before the product. A sink joins the denominator only; lse leaves it out.
        """
        logits = scores * self.tier.real(scale)
        maximum = np.max(logits, axis=1, keepdims=True)
        p = np.exp(logits - maximum)  # [H, n]
        total = np.sum(p, axis=1, keepdims=True)
        denominator = total if sink is None else total + np.exp(sink[:, None] - maximum)
        out = self.tier.bf16((self.tier.bf16(p) @ values) / denominator)
        return out, (maximum + np.log(total))[:, 0], maximum[:, 0]

    def by_convention(self, lse):
        """lse in the base, and with the sign on empty rows, that the conventions say."""
        if self.conventions["lse"] == "base2":
            lse = lse * self.tier.real(1 / math.log(2))
        empty = np.inf if self.conventions["empty_row_lse"] == "+inf" else -np.inf
        return np.where(np.isinf(lse), empty, lse).astype(self.tier.real)

    def attention_over(self, q, rows_of, sets, scale: float, d_v: int, sink=None) -> dict:
        """Attention of query t over sets[t], whose rows rows_of brings. q [T, H, d] -> out, lse, max_logit"""
        T, H, _ = q.shape
        out = np.zeros((T, H, d_v), self.tier.real)
        lse = np.full((T, H), -np.inf, self.tier.real)
        max_logit = lse.copy()
        for t in range(T):
            if len(sets[t]):
                rows = rows_of(sets[t])  # [n, d]
                scores = self.query_row(q, t) @ rows.T
                out[t], lse[t], max_logit[t] = self.attend(scores, rows[:, :d_v], scale, sink)
        return {"out": out, "lse": lse, "max_logit": max_logit}

    def sparse_attention(self, q, kv, indices, scale: float, d_v: int, sink=None) -> dict:
        """kv [S, d], indices [T, k]"""
        sets = [self.selected(row, kv.shape[0]) for row in indices]
        return self.attention_over(q, lambda positions: kv[positions], sets, scale, d_v, sink)

    def sparse_decode(self, q, kv_pages, indices, scale: float, R_kv: int, sink=None) -> dict:
        """q [B, s_q, H, d], kv_pages uint8 [pages, 64, bytes], indices [B, s_q, k] of global slots"""
        B, s_q, H, d = q.shape
        tokens = kv_pages.reshape(-1, kv_pages.shape[-1])
        sets = [self.selected(row, len(tokens)) for row in indices.reshape(B * s_q, -1)]

        def rows_of(slots):
            return self.read_kv_tokens(tokens[self.token_of(slots, tokens.shape[1])], R_kv)

        result = self.attention_over(q.reshape(B * s_q, H, d), rows_of, sets, scale, R_kv, sink)
        return {"out": result["out"].reshape(B, s_q, H, R_kv), "lse": result["lse"].reshape(B, s_q, H)}

    def dense_ranges(self, T: int, S: int, causal: bool, start) -> list:
        """What query t, standing at S - T + t, sees."""
        return [np.arange(start[t], S - T + t + 1 if causal else S) for t in range(T)]

    def dense_mqa(self, q, kv, ranges, scale: float, d_v: int, sink=None) -> dict:
        """All heads on the shared latent. q [T, H, d], kv [S, d]"""
        return self.attention_over(q, lambda positions: kv[positions], ranges, scale, d_v, sink)

    def dense_mha(self, q, k, v, ranges, scale: float, sink=None) -> dict:
        """Each head with its own keys and values. q [T, H, d], k [S, H, d], v [S, H, d_v]"""
        T, H, _ = q.shape
        out = np.zeros((T, H, v.shape[2]), self.tier.real)
        lse = np.full((T, H), -np.inf, self.tier.real)
        for t in range(T):
            for h in range(H) if len(ranges[t]) else ():
                scores = q[t, h : h + 1] @ k[ranges[t], h].T
                own_sink = None if sink is None else sink[h : h + 1]
                out[t, h : h + 1], lse[t, h : h + 1], _ = self.attend(scores, v[ranges[t], h], scale, own_sink)
        return {"out": out, "lse": lse}

    # The FP8 cache

    def token_of(self, slots, bytes_each: int):
        """The token in a global slot, page x 64 + offset: its byte offset is slot x bytes_each, in 64 bits."""
        return slots

    def kv_scale(self, scale):
        """A block's scale as it is read."""
        return scale

    def read_kv_tokens(self, tokens, R_kv: int):
        """uint8 [n, bytes]: R_kv e4m3, a float32 scale a block, d_rope bf16 -> numbers [n, R_kv + d_rope]"""
        n, block = len(tokens), block_for(R_kv)
        rope_at = R_kv + 4 * (R_kv // block)
        values = self.from_e4m3(tokens[:, :R_kv])
        scale = self.kv_scale(self.from_float32_bytes(tokens[:, R_kv:rope_at]))
        rope = np.ascontiguousarray(tokens[:, rope_at:]).view("<u2")
        latent = self.tier.bf16(self.dequantize(values, scale.reshape(n, R_kv // block)))
        return np.concatenate([latent, self.from_bf16(rope)], axis=1)

    def pack_kv_pages(self, kv, R_kv: int):
        """Numbers [S, R_kv + d_rope] -> uint8 [ceil(S / 64), 64, bytes], 0 past the last token"""
        S = kv.shape[0]
        values, scale = self.quantize(kv[:, :R_kv], self.conventions["kv_quantizer"], block_for(R_kv))
        parts = [self.to_e4m3(values), scale.astype("<f4").view(np.uint8), self.to_bf16(kv[:, R_kv:]).astype("<u2")]
        tokens = np.concatenate([part.view(np.uint8).reshape(S, -1) for part in parts], axis=1)
        pages = np.zeros((-(-S // PAGE) * PAGE, tokens.shape[1]), np.uint8)
        pages[:S] = tokens
        return pages.reshape(-1, PAGE, tokens.shape[1])

    def pack_key_pages(self, k, k_scale):
        """Keys [S, D_I] and scales [S] -> uint8 [ceil(S / 64), 64 (D_I + 4)], 0 past the last key"""
        S, D_I = k.shape
        keys = np.zeros((-(-S // PAGE) * PAGE, D_I), np.uint8)
        scales = np.zeros(len(keys), np.float32)
        keys[:S], scales[:S] = self.to_e4m3(k), k_scale
        return np.stack([self.write_key_page(keys[i : i + PAGE], scales[i : i + PAGE]) for i in range(0, len(keys), PAGE)])
