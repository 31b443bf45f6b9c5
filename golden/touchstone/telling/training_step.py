"""One step of training, forwards and backwards: language loss, the indexer's KL, and the gradient of every weight.

Spec section 7; docs/14-gradients.md. Stages are shown as layer_I.NAME on the way out and layer_I.d_NAME on the way back.
"""

from __future__ import annotations

import numpy as np

from .experts import sigmoid

MIXTURE = ("W_g", "W_gate", "W_up", "W_down", "shared_W_gate", "shared_W_up", "shared_W_down")
LAYER = ("attention_norm", "W_dq", "q_norm", "W_uq", "W_dkv", "kv_norm", "W_uk", "W_uv", "W_o", "W_qI", "W_kI", "k_norm",
         "k_bias", "W_w", "ffn_norm", *MIXTURE)  # fmt: skip


class TrainingStep:
    """MLA in MHA mode, the indexer on detached inputs, a mixture of experts; weights stacked, one for each layer."""

    def op_training_step(self):
        """tokens, targets [T], all weights [L, ...] -> language_loss, kl_loss [L], and d of each weight"""
        self.kind = self.parameters.get("stage", "sparse")
        tokens, targets = self.inputs.integers("tokens"), self.inputs.integers("targets")
        w = {name: self._x(name) for name in (*LAYER, "embedding", "final_norm", "head")}
        layers = [{name: w[name][l] for name in LAYER} for l in range(len(w["W_dq"]))]

        hidden = self.staged("embedding", w["embedding"][tokens])
        kept = []
        for l, weights in enumerate(layers):
            hidden, of_layer = self.layer_forward(f"layer_{l}.", l, hidden, weights)
            kept.append(of_layer)
        last = self.staged("final_norm", self.rms_norm(hidden, w["final_norm"]))
        logits = self.staged("logits", last @ w["head"], "float32")
        loss, d_logits = self.cross_entropy(logits, targets)

        d = {name: np.zeros_like(x) for name, x in w.items()}
        d_hidden = None
        if self.main_learns:
            d_logits = self.staged("d_logits", d_logits, "float32")
            d_last, d["head"] = self.linear_backward(last, w["head"], d_logits)
            d_last = self.staged("d_final_norm", d_last)
            d_hidden, d["final_norm"] = self.rms_norm_backward(hidden, w["final_norm"], d_last)
        for l in reversed(range(len(layers))):
            d_hidden, of_layer = self.layer_backward(f"layer_{l}.", kept[l], layers[l], d_hidden)
            for name, gradient in of_layer.items():
                d[name][l] = gradient.reshape(d[name][l].shape)
        if self.main_learns:
            np.add.at(d["embedding"], tokens, self.staged("d_embedding", d_hidden))
        self.show("language_loss", loss, "float32")
        self.show("kl_loss", np.array([k["kl"] for k in kept], self.tier.real), "float32")
        for name, gradient in d.items():
            self.show("d" + name, gradient, "float32")

    @property
    def main_learns(self) -> bool:
        return self.kind != "warmup"

    @property
    def indexer_learns(self) -> bool:
        return self.kind != "dense"

    def staged(self, name: str, numbers, dtype: str = "bfloat16"):
        """A stage as it is stored and shown."""
        return self.pass_(name, self.tier.bf16(numbers) if dtype == "bfloat16" else numbers, dtype)

    # Forwards

    def layer_forward(self, prefix: str, layer: int, hidden, w: dict):
        """hidden [T, D] -> hidden [T, D], and what the way back needs"""

        def stage(name, numbers, dtype="bfloat16"):
            return self.staged(prefix + name, numbers, dtype)

        k = {"hidden": hidden, "kl": self.tier.real(0)}
        T, positions = len(hidden), np.arange(len(hidden))
        H, d_nope, d_v = w["W_uk"].shape[1], w["W_uk"].shape[2], w["W_uv"].shape[2]
        R_kv = len(w["kv_norm"])
        x = k["x"] = stage("attention_input", self.rms_norm(hidden, w["attention_norm"]))
        k["q_latent"] = stage("q_latent", x @ w["W_dq"])
        c_q = k["c_q"] = stage("c_q", self.rms_norm(k["q_latent"], w["q_norm"]))
        q = self.tier.bf16(c_q @ w["W_uq"].reshape(len(w["q_norm"]), -1)).reshape(T, H, -1)
        q = np.concatenate([q[..., :d_nope], self.rope(q[..., d_nope:], positions, "interleaved")], axis=-1)
        q = k["q"] = stage("q_heads", q.reshape(T, -1)).reshape(T, H, -1)
        k["kv_latent"] = stage("kv_latent", x @ w["W_dkv"])
        c_kv = k["c_kv"] = stage("c_kv", self.rms_norm(k["kv_latent"][:, :R_kv], w["kv_norm"]))
        k_rope = stage("k_rope", self.rope(k["kv_latent"][:, R_kv:], positions, "interleaved"))
        heads = np.concatenate([np.einsum("tr,rhd->thd", c_kv, w["W_uk"]), np.einsum("tr,rhd->thd", c_kv, w["W_uv"])], axis=-1)
        heads = stage("kv_heads", heads.reshape(T, -1)).reshape(T, H, d_nope + d_v)
        k["key"] = np.concatenate([heads[..., :d_nope], np.repeat(k_rope[:, None], H, axis=1)], axis=-1)
        k["value"] = heads[..., d_nope:]

        seen = k["seen"] = np.tril(np.ones((T, T), bool))
        if self.indexer_learns:
            self.indexer_forward(stage, k, w, positions)
        if self.kind == "sparse":
            chosen = self.pass_(prefix + "topk_indices", self.top_k(k["logits"], 0 * positions, positions + 1, self.topk), "int32")
            k["allowed"] = np.zeros((T, T), bool)
            for t in range(T):
                k["allowed"][t, chosen[t][chosen[t] >= 0]] = True
        else:
            k["allowed"] = seen
        k["p"], out = self.masked_attention(q, k["key"], k["value"], k["allowed"])
        k["out"] = stage("attention_out", out.reshape(T, -1)).reshape(T, H, d_v)
        if self.indexer_learns:
            target = self.pass_(prefix + "attention_target", self.step_target(q, k), "float32")
            k["kl"], k["d_logits"] = self.masked_kl(k["logits"], target, k["allowed"])
        attention = stage("attention_y", k["out"].reshape(T, -1) @ w["W_o"].reshape(H * d_v, -1))
        middle = k["middle"] = stage("after_attention", hidden + attention)
        z = k["z"] = stage("ffn_input", self.rms_norm(middle, w["ffn_norm"]))
        self.layer = layer
        y = stage("ffn_y", self.mixture_forward(stage, prefix, z, w, k))
        return stage("after_ffn", middle + y), k

    def masked_attention(self, q, key, value, allowed):
        """MHA over the allowed pairs. q, key [T, H, d], value [T, H, d_v], allowed [T, T] -> p [H, T, T], out [T, H, d_v]"""
        scores = np.einsum("thd,shd->hts", q, key) * self.tier.real(self.softmax_scale(q.shape[2], 0))
        p = self.softmax(np.where(allowed, scores, -np.inf).astype(self.tier.real))
        return p, np.einsum("hts,shd->thd", self.tier.bf16(p), value)

    def step_target(self, q, k: dict):
        """What the indexer should predict: the heads' probabilities, mean over heads. -> [T, T]"""
        if self.conventions["sparse_kl_target"] == "softmax_on_set" or self.kind == "warmup":
            return k["p"].mean(axis=0, dtype=self.tier.real)
        everywhere, _ = self.masked_attention(q, k["key"], k["value"], k["seen"])
        on_set = np.where(k["allowed"], everywhere.mean(axis=0, dtype=self.tier.real), 0)
        return on_set / on_set.sum(axis=1, keepdims=True)

    def indexer_forward(self, stage, k: dict, w: dict, positions) -> None:
        """Unquantised scores of all causal pairs, from detached inputs. Adds iq, ik, iw, logits and what led there."""
        T, (_, H_I, D_I) = len(positions), w["W_qI"].shape
        d_rope = k["kv_latent"].shape[1] - k["c_kv"].shape[1]
        layout = self.conventions["indexer_rope"]

        def turned(v):
            v = np.concatenate([self.rope(v[..., :d_rope], positions, layout), v[..., d_rope:]], axis=-1)
            v = self.hadamard(v) if self.conventions["hadamard"] else v
            if self.parameters.get("simulate_fp8", False):
                v = self.dequantize(*self.quantize(v, self.conventions["quantizer"], D_I))
            return v

        dtype = "float32" if self.parameters.get("simulate_fp8", False) else "bfloat16"
        x, c_q = k["x"], k["c_q"]
        q = self.tier.bf16(c_q @ w["W_qI"].reshape(len(w["q_norm"]), -1)).reshape(T, H_I, D_I)
        k["iq"] = stage("indexer_q", turned(q).reshape(T, -1), dtype).reshape(T, H_I, D_I)
        k["ik_linear"] = self.tier.bf16(x @ w["W_kI"])
        k["ik"] = stage("indexer_k", turned(self.layer_norm(k["ik_linear"], w["k_norm"], w["k_bias"])), dtype)
        weights = x @ w["W_w"]
        weights = self.tier.bf16(weights) if self.conventions["weights_proj"] == "bf16" else weights
        k["i_factor"] = self.tier.real((H_I * D_I) ** -0.5)
        k["iw"] = stage("indexer_weights", weights * k["i_factor"], "float32")
        k["relu"] = self.relu(np.einsum("tjd,sd->tjs", k["iq"], k["ik"]))
        logits = np.einsum("tj,tjs->ts", k["iw"], k["relu"])
        k["logits"] = stage("indexer_logits", np.where(k["seen"], logits, -np.inf).astype(self.tier.real), "float32")

    def masked_kl(self, logits, target, allowed):
        """factor sum_t KL(p_t || softmax(I_t)) over the allowed pairs, and factor (softmax(I_t) - p_t)."""
        real = self.tier.real
        factor = real(self.conventions["kl_coefficient"] / (len(logits) if self.conventions["kl_reduction"] == "mean" else 1))
        masked = np.where(allowed, logits, -np.inf).astype(real)
        maximum = masked.max(axis=1, keepdims=True)
        log_prediction = masked - (maximum + np.log(np.exp(masked - maximum).sum(axis=1, keepdims=True)))
        some = allowed & (target > 0)
        loss = factor * np.sum(target[some] * (np.log(target[some]) - log_prediction[some]), dtype=real)
        return loss, factor * self.target_gradient(self.softmax(masked), target)

    def mixture_forward(self, stage, prefix: str, z, w: dict, k: dict):
        """z [T, D] -> y [T, D], not rounded yet"""
        scores = k["gate_scores"] = stage("gate_scores", sigmoid(z @ w["W_g"]), "float32")
        k["experts"] = self.pass_(prefix + "expert_ids", self.chosen_experts(scores), "int32")
        weights = k["expert_weights"] = stage("expert_weights", self.expert_weights(scores, k["experts"]), "float32")
        y = np.zeros_like(z)
        for e in np.unique(k["experts"]):
            t, slot = np.nonzero(k["experts"] == e)
            y[t] += weights[t, slot][:, None] * self.expert_output(z[t], *(w[n][e] for n in ("W_gate", "W_up", "W_down")))
        return y + self.expert_output(z, *(w["shared_" + n] for n in ("W_gate", "W_up", "W_down")))

    # Backwards

    def layer_backward(self, prefix: str, k: dict, w: dict, d_hidden):
        """d_hidden [T, D]: of the layer's output, None where the main model does not learn -> of its input, d of weights"""

        def stage(name, numbers, dtype="bfloat16"):
            return self.staged(prefix + "d_" + name, numbers, dtype)

        d: dict = {}
        if self.main_learns:
            d_hidden = stage("after_ffn", d_hidden)
            d_middle = self.mixture_and_norm_backward(prefix, stage, k, w, d, d_hidden)
            d_attention = stage("attention_y", d_middle)
            T, H, d_v = k["out"].shape
            d_out, d["W_o"] = self.linear_backward(k["out"].reshape(T, -1), w["W_o"].reshape(H * d_v, -1), d_attention)
            d_out = stage("attention_out", d_out).reshape(T, H, d_v)
            d_q, d_key, d_value = self.masked_attention_backward(k, d_out)
        through_indexer = self.indexer_backward(stage, k, w, d) if self.indexer_learns else (0, 0)
        if not self.main_learns:
            return None, d
        d_x = stage("attention_input", self.projections_backward(stage, k, w, d, d_q, d_key, d_value, through_indexer))
        from_norm, d["attention_norm"] = self.rms_norm_backward(k["hidden"], w["attention_norm"], d_x)
        return d_middle + from_norm, d

    def mixture_and_norm_backward(self, prefix: str, stage, k: dict, w: dict, d: dict, d_hidden):
        """From the layer's output to the stream after attention: the residual's way and the experts' way add up."""

        def shown(name, numbers):
            return self.staged(prefix + name, numbers, "float32")

        d_y = stage("ffn_y", d_hidden)
        mixture = self.mixture_backward(k["z"], {n: w[n] for n in MIXTURE}, k["gate_scores"], k["experts"], k["expert_weights"], d_y, shown)
        d_z = stage("ffn_input", mixture.pop("dx"))
        d |= mixture
        from_norm, d["ffn_norm"] = self.rms_norm_backward(k["middle"], w["ffn_norm"], d_z)
        return stage("after_attention", d_hidden + from_norm)

    def masked_attention_backward(self, k: dict, d_out):
        """ds = p (dp - out . d_out) scale, for all pairs at once. -> d_q, d_key [T, H, d], d_value [T, H, d_v]"""
        delta = self.attention_delta(k["out"], d_out)[..., 0].T  # [H, T]
        d_p = np.einsum("thd,shd->hts", d_out, k["value"])
        ds = self.tier.bf16(k["p"] * (d_p - delta[..., None]) * self.tier.real(self.softmax_scale(k["q"].shape[2], 0)))
        return (np.einsum("hts,shd->thd", ds, k["key"]), np.einsum("hts,thd->shd", ds, k["q"]),
                np.einsum("hts,thd->shd", self.tier.bf16(k["p"]), d_out))  # fmt: skip

    def projections_backward(self, stage, k: dict, w: dict, d: dict, d_q, d_key, d_value, through_indexer):
        """From the heads' queries, keys and values back to the block's normalised input, through both latents."""
        bf16, (T, H, d_nope) = self.tier.bf16, (len(d_q), d_q.shape[1], w["W_uk"].shape[2])
        R_q, R_kv = len(w["q_norm"]), len(w["kv_norm"])
        to_x, to_c_q = through_indexer
        positions = np.arange(T)
        d_q = stage("q_heads", d_q.reshape(T, -1)).reshape(d_q.shape)
        d_q = np.concatenate([d_q[..., :d_nope], self.rope_backward(d_q[..., d_nope:], positions, "interleaved")], axis=-1)
        d_c_q, d["W_uq"] = self.linear_backward(k["c_q"], w["W_uq"].reshape(R_q, -1), d_q.reshape(T, -1))
        d_q_latent, d["q_norm"] = self.rms_norm_backward(k["q_latent"], w["q_norm"], stage("c_q", d_c_q + to_c_q))
        d_q_latent = stage("q_latent", d_q_latent)

        heads = np.concatenate([d_key[..., :d_nope], d_value], axis=-1)
        heads = stage("kv_heads", heads.reshape(T, -1)).reshape(heads.shape)
        d_k_rope = stage("k_rope", self.over_heads(d_key[..., d_nope:]))
        d_c_kv_k, d["W_uk"] = self.linear_backward(k["c_kv"], w["W_uk"].reshape(R_kv, -1), heads[..., :d_nope].reshape(T, -1))
        d_c_kv_v, d["W_uv"] = self.linear_backward(k["c_kv"], w["W_uv"].reshape(R_kv, -1), heads[..., d_nope:].reshape(T, -1))
        d_latent, d["kv_norm"] = self.rms_norm_backward(k["kv_latent"][:, :R_kv], w["kv_norm"], stage("c_kv", d_c_kv_k + d_c_kv_v))
        d_kv_latent = np.concatenate([bf16(d_latent), self.rope_backward(d_k_rope, positions, "interleaved")], axis=-1)
        d_kv_latent = stage("kv_latent", d_kv_latent)
        from_q, d["W_dq"] = self.linear_backward(k["x"], w["W_dq"], d_q_latent)
        from_kv, d["W_dkv"] = self.linear_backward(k["x"], w["W_dkv"], d_kv_latent)
        return from_q + from_kv + to_x

    def over_heads(self, d_k_rope):
        """One rotated key serves all heads, and gathers from all. [T, H, d_rope] -> [T, d_rope]"""
        return d_k_rope.sum(axis=1)

    def indexer_backward(self, stage, k: dict, w: dict, d: dict):
        """dI = factor (softmax(I) - p); dI/dw = ReLU(q . k), dI/dq = w [q . k > 0] k, dI/dk = sum_j w [q . k > 0] q."""
        T, H_I, D_I = k["iq"].shape
        d_rope = k["kv_latent"].shape[1] - k["c_kv"].shape[1]
        positions, layout = np.arange(T), self.conventions["indexer_rope"]
        d_logits = stage("indexer_logits", k["d_logits"], "float32")
        d_weights = stage("indexer_weights", np.einsum("ts,tjs->tj", d_logits, k["relu"]), "float32")
        d_dots = np.where(k["relu"] > 0, d_logits[:, None] * k["iw"][..., None], self.tier.real(0))  # [T, H_I, T]
        simulated = self.parameters.get("simulate_fp8", False)
        dtype = "float32" if simulated else "bfloat16"
        d_q = stage("indexer_q", np.einsum("tjs,sd->tjd", d_dots, k["ik"]).reshape(T, -1), dtype).reshape(T, H_I, D_I)
        d_k = stage("indexer_k", np.einsum("tjs,tjd->sd", d_dots, k["iq"]), dtype)

        def turned_back(g):
            g = self.tier.bf16(self.act_quant_backward(g)) if simulated else g
            g = self.hadamard_backward(g) if self.conventions["hadamard"] else g
            return np.concatenate([self.rope_backward(g[..., :d_rope], positions, layout), g[..., d_rope:]], axis=-1)

        to_c_q, d["W_qI"] = self.linear_backward(k["c_q"], w["W_qI"].reshape(len(w["q_norm"]), -1), turned_back(d_q).reshape(T, -1))
        d_linear, d["k_norm"], d["k_bias"] = self.layer_norm_backward(k["ik_linear"], w["k_norm"], w["k_bias"], turned_back(d_k))
        from_k, d["W_kI"] = self.linear_backward(k["x"], w["W_kI"], self.tier.bf16(d_linear))
        d_weights = d_weights * k["i_factor"]
        d_weights = self.tier.bf16(d_weights) if self.conventions["weights_proj"] == "bf16" else d_weights
        from_w, d["W_w"] = self.linear_backward(k["x"], w["W_w"], d_weights)
        return self.through_the_indexer(from_k + from_w, to_c_q)

    def through_the_indexer(self, to_x, to_c_q):
        """What of the indexer's loss reaches the main model: nothing. Its inputs are detached."""
        return np.zeros_like(to_x), np.zeros_like(to_c_q)
