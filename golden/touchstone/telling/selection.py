"""Which tokens are worth attending to: scores, and the k best of them. Spec sections 3, 4 and 10."""

from __future__ import annotations

import numpy as np

from .. import Refusal, require

PAGE = 64  # tokens a page


class Selection:
    """The lightning indexer's scores, from rows or from pages, and top-k."""

    def relu(self, x):
        """max(x, 0)"""
        return np.maximum(x, self.tier.real(0))

    def head_weights(self, weights):
        """The weights of one query's heads, as they are. [H_I]"""
        return weights

    def head_sum(self, dots, weights):
        """sum_j w_j ReLU(dot_j). dots [H_I, n], weights [H_I] -> [n]"""
        return self.head_weights(weights) @ self.relu(dots)

    def scaled_by_key(self, scores, k_scale):
        """Each key's scale multiplies its score. [n], [n] -> [n]"""
        return scores * k_scale

    def key_scale(self, k_scale):
        """A key's scale as it is read."""
        return k_scale

    def query_row(self, q, t: int):
        """The heads of query t. q [T, H, d] -> [H, d]"""
        return q[t]

    def range_of(self, start, end, S: int):
        """Query t's candidates are start_t ... end_t - 1."""
        return start, end

    def indexer_logits(self, q, k, k_scale, weights, start, end):
        """I(t, s) = k_scale(s) sum_j w(t, j) ReLU(q(t, j) . k(s)), -inf outside [start_t, end_t).

        q [T, H_I, D_I], k [S, D_I], k_scale [S], weights [T, H_I], start, end [T] -> [T, S]
        """
        T, S = q.shape[0], k.shape[0]
        start, end = self.range_of(start, end, S)
        k_scale = self.key_scale(k_scale)
        logits = np.full((T, S), -np.inf, self.tier.real)
        for t in range(T):
            seen = slice(start[t], end[t])
            scores = self.head_sum(self.query_row(q, t) @ k[seen].T, weights[t])
            logits[t, seen] = self.scaled_by_key(scores, k_scale[seen])
        if self.conventions["indexer_scores"] == "bf16":
            logits = self.tier.bf16(logits)
        return logits

    def read_key_page(self, page, D_I: int):
        """64 keys of D_I e4m3, and behind all of them their 64 float32 scales. -> keys [64, D_I], scales [64]"""
        keys, scales = page[: PAGE * D_I], page[PAGE * D_I :]
        return self.from_e4m3(keys.reshape(PAGE, D_I)), self.from_float32_bytes(scales)

    def write_key_page(self, keys, scales):
        """The bytes of one page. keys uint8 [64, D_I], scales float32 [64] -> uint8 [64 (D_I + 4)]"""
        return np.concatenate([keys.reshape(-1), scales.astype("<f4").view(np.uint8)])

    def indexer_logits_paged(self, q, k_pages, block_table, context_lens, weights):
        """As indexer_logits, with keys from pages. Query i of s_q stands at context_len - s_q + i.

        q [B, s_q, H_I, D_I], weights [B s_q, H_I] -> [B s_q, 64 P]
        """
        B, s_q, H_I, D_I = q.shape
        S = block_table.shape[1] * PAGE
        logits = np.full((B * s_q, S), -np.inf, self.tier.real)
        for b in range(B):
            length = int(context_lens[b])
            k = np.zeros((length, D_I), self.tier.real)
            k_scale = np.zeros(length, self.tier.real)
            for first in range(0, length, PAGE):
                number = block_table[b, first // PAGE]
                require(0 <= number < len(k_pages), f"block_table[{b}, {first // PAGE}] must name a page from 0 to "
                        f"{len(k_pages) - 1}; it is {number}")  # fmt: skip
                count = min(PAGE, length - first)
                keys, scales = self.read_key_page(k_pages[number], D_I)
                k[first : first + count], k_scale[first : first + count] = keys[:count], scales[:count]
            end = np.maximum(0, length - s_q + 1 + np.arange(s_q))
            rows = slice(b * s_q, (b + 1) * s_q)
            logits[rows, :length] = self.indexer_logits(q[b], k, k_scale, weights[rows], np.zeros(s_q, int), end)
        return logits

    def ranked(self, scores):
        """Columns from best to worst: higher score first, equal scores by the lower position. [n] -> [n]"""
        return np.lexsort((np.arange(len(scores)), -scores))

    def nan_as(self, scores, t: int, first: int):
        """NaN scores are refused with their place, or rank as -inf by the switch."""
        wrong = np.isnan(scores)
        if wrong.any() and self.conventions["nan_scores"] == "error":
            raise Refusal(f"logits[{t}, {first + int(np.argmax(wrong))}] is NaN: a score must be a number")
        return np.where(wrong, -np.inf, scores)

    def chosen(self, scores, k: int):
        """The min(k, n) best columns of one row of candidates. [n] -> [min(k, n)]"""
        return self.ranked(scores)[:k]

    def slots(self, positions, k: int):
        """Positions ascending, then -1 in unused slots. -> int32 [k]"""
        row = np.full(k, -1, np.int32)
        row[: len(positions)] = np.sort(positions)
        return row

    def top_k(self, logits, start, end, k: int):
        """The k best candidates of each row. logits [T, S] -> int32 [T, k]"""
        start, end = self.range_of(start, end, logits.shape[1])
        rows = []
        for t in range(logits.shape[0]):
            scores = self.nan_as(logits[t, start[t] : end[t]].astype(np.float64), t, start[t])
            rows.append(self.slots(self.chosen(scores, k) + start[t], k))
        return np.stack(rows) if rows else np.zeros((0, k), np.int32)
