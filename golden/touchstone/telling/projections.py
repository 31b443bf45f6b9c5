"""From hidden states to what attention and the indexer compare. Spec sections 2 and 3."""

from __future__ import annotations

import numpy as np

from .vectors import block_for


class Projections:
    """MLA's and the indexer's linear maps. Weights are [in, out]: x W multiplies each row of x by W."""

    def linear(self, x, name: str, weight=None):
        """x [..., K] times the weight of that name, seen as [K, N], stored as bf16 -> [..., N]

        Against FP8 weights the activations are quantised too, one scale for 128 numbers of a token.
        """
        w = self.inputs.number(name, self.tier) if weight is None else weight
        if self.inputs.is_fp8(name):
            x = self.dequantize(*self.quantize(x, "deepseek", block_for(x.shape[-1])))
        return self.tier.bf16(x @ w.reshape(x.shape[-1], -1))

    # MLA

    def query_parts(self, q, d_nope: int):
        """nope first, rope last. q [T, H, d_nope + d_rope] -> q_nope, q_rope"""
        return q[..., :d_nope], q[..., d_nope:]

    def latent_parts(self, kv, R_kv: int):
        """The latent first, rope last. kv [T, R_kv + d_rope] -> latent, rope"""
        return kv[..., :R_kv], kv[..., R_kv:]

    def mla_project(self, x, positions) -> dict:
        """c_q, q_nope, q_rope, c_kv, k_rope of hidden states x [T, D], and c_q before its norm."""
        inputs = self.inputs
        q_norm, kv_norm = inputs.number("q_norm", self.tier), inputs.number("kv_norm", self.tier)
        R_kv = kv_norm.shape[0]
        T, H = x.shape[0], inputs.shape("W_uq")[1]
        d_rope = inputs.shape("W_dkv")[1] - R_kv
        d_nope = inputs.shape("W_uq")[2] - d_rope
        raw_c_q = self.linear(x, "W_dq")  # [T, R_q]
        c_q = self.rms_norm(raw_c_q, q_norm)
        q_nope, q_rope = self.query_parts(self.linear(c_q, "W_uq").reshape(T, H, d_nope + d_rope), d_nope)
        latent, k_rope = self.latent_parts(self.linear(x, "W_dkv"), R_kv)
        output = self.conventions["mla_rope_output"]
        return {
            "c_q": c_q,
            "q_nope": q_nope,
            "q_rope": self.rope(q_rope, positions, "interleaved", output),
            "c_kv": self.rms_norm(latent, kv_norm),
            "k_rope": self.rope(k_rope, positions, "interleaved", output),
            "raw_c_q": raw_c_q,
        }

    def absorbed_query(self, q_nope, q_rope):
        """q_c = q_nope W_uk^T per head, then q_rope. -> [T, H, R_kv + d_rope]"""
        W_uk = self.inputs.number("W_uk", self.tier)  # [R_kv, H, d_nope]
        q_c = np.stack([q_nope[:, h] @ W_uk[:, h].T for h in range(q_nope.shape[1])], axis=1)
        return np.concatenate([self.tier.bf16(q_c), q_rope], axis=-1)

    def cached_latent(self, c_kv, k_rope):
        """What the cache keeps: [c_kv, k_rope], the latent through e4m3 where the convention says so."""
        if self.conventions["kv_latent_fp8"]:
            values, scale = self.quantize(c_kv, self.conventions["kv_quantizer"], block_for(c_kv.shape[-1]))
            c_kv = self.tier.bf16(self.dequantize(values, scale))
        return np.concatenate([c_kv, k_rope], axis=-1)

    def output_projection(self, out):
        """Each head's latent mean up by W_uv, heads side by side, times W_o. [T, H, R_kv] -> [T, D]"""
        W_uv = self.inputs.number("W_uv", self.tier)  # [R_kv, H, d_v]
        heads = [self.tier.bf16(out[:, h] @ W_uv[:, h]) for h in range(out.shape[1])]
        D = self.inputs.shape("W_o")[-1]
        W_o = self.inputs.number("W_o", self.tier).reshape(-1, D)
        return self.linear(np.concatenate(heads, axis=-1), "W_o", W_o)

    # The indexer

    def indexer_rope_layout(self) -> str:
        """Which numbers of an indexer vector make a pair."""
        return self.conventions["indexer_rope"]

    def indexer_rope(self, x, positions, d_rope: int):
        """Rope on the FIRST d_rope numbers. x [T, ..., D_I]"""
        turned = self.rope(x[..., :d_rope], positions, self.indexer_rope_layout())
        return np.concatenate([turned, x[..., d_rope:]], axis=-1)

    def indexer_hadamard_query(self, q):
        """Spreads outliers of the query before it is quantised."""
        return self.hadamard(q) if self.conventions["hadamard"] else q

    def indexer_hadamard_key(self, k):
        """The same rotation on the key, so that no product changes."""
        return self.hadamard(k) if self.conventions["hadamard"] else k

    def indexer_factor(self, H_I: int, D_I: int) -> float:
        """H_I^-0.5 D_I^-0.5, and YaRN's factor only where a convention (an error of ports) puts it."""
        factor = (H_I * D_I) ** -0.5
        return factor * self.yarn_mscale() ** 2 if self.conventions["yarn_mscale_in_indexer"] else factor

    def folded_query_scale(self, weights, q_scale):
        """Each query head's scale moves into its weight."""
        return weights * q_scale

    def indexer_quantize(self, x):
        """One scale a vector. x [..., D_I] -> values, scale [...]"""
        values, scale = self.quantize(x, self.conventions["quantizer"], x.shape[-1])
        return values, scale[..., 0]

    def indexer_project(self, x, c_q, positions, d_rope: int) -> dict:
        """x [T, D] normalised, c_q [T, R_q] -> q, k, k_scale, weights, q_scale, and q, k before quantisation."""
        inputs = self.inputs
        H_I, D_I = inputs.shape("W_qI")[1:]
        q = self.linear(c_q, "W_qI").reshape(-1, H_I, D_I)
        norm, bias = inputs.number("k_norm", self.tier), inputs.number("k_bias", self.tier)
        k = self.layer_norm(self.linear(x, "W_kI"), norm, bias)  # [T, D_I]
        q = self.indexer_hadamard_query(self.indexer_rope(q, positions, d_rope))
        k = self.indexer_hadamard_key(self.indexer_rope(k, positions, d_rope))
        weights = x @ inputs.number("W_w", self.tier)  # [T, H_I]
        if self.conventions["weights_proj"] == "bf16":
            weights = self.tier.bf16(weights)
        weights = weights * self.tier.real(self.indexer_factor(H_I, D_I))
        q8, q_scale = self.indexer_quantize(q)
        k8, k_scale = self.indexer_quantize(k)
        return {
            "q": q8,
            "q_scale": q_scale,
            "k": k8,
            "k_scale": k_scale,
            "weights": self.folded_query_scale(weights, q_scale),
            "unquantised_q": q,
            "unquantised_k": k,
        }
