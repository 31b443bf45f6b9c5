"""How do token ids become logits? The layers in a row, with weights under Hugging Face's names.

docs/10-model-and-decoding.md. Linear layers are stored [out, in] there and used [in, out] here.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .. import dtypes, require
from .inputs import Inputs

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3", "F64": "float64"}


class Checkpoint:
    """A model's safetensors files: 8 bytes of header length, a JSON header, the tensors' bytes."""

    def __init__(self, folder: Path):
        self.entries: dict[str, tuple] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    self.entries[name] = path, 8 + length + entry["data_offsets"][0], entry
        require(bool(self.entries), f"{folder} has no .safetensors file with weights")

    def stored(self, name: str) -> tuple[np.ndarray, str]:
        """A tensor in its storage dtype, and its logical dtype."""
        require(name in self.entries, f"the checkpoint has no weight named {name}")
        path, offset, entry = self.entries[name]
        dtype = DTYPES[entry["dtype"]]
        array = np.memmap(path, dtypes.storage(dtype), "r", offset, tuple(entry["shape"]))
        return np.asarray(array), dtype


class LayerWeights(Inputs):
    """One layer's weights under the contract's names."""

    def __init__(self, checkpoint: Checkpoint, config: dict, layer: int):
        super().__init__({})
        self.checkpoint, self.c, self.prefix = checkpoint, config, f"model.layers.{layer}."
        H, d_rope = config["num_attention_heads"], config["qk_rope_head_dim"]
        d_nope, d_v = config["qk_nope_head_dim"], config["v_head_dim"]
        self.linear("W_dq", "self_attn.q_a_proj")
        self.plain("q_norm", "self_attn.q_a_layernorm.weight")
        self.linear("W_uq", "self_attn.q_b_proj", (-1, H, d_nope + d_rope))
        self.linear("W_dkv", "self_attn.kv_a_proj_with_mqa")
        self.plain("kv_norm", "self_attn.kv_a_layernorm.weight")
        self.linear("W_o", "self_attn.o_proj", (H, d_v, -1))
        self.linear("W_qI", "self_attn.indexer.wq_b", (-1, config["index_n_heads"], config["index_head_dim"]))
        self.linear("W_kI", "self_attn.indexer.wk")
        self.plain("k_norm", "self_attn.indexer.k_norm.weight")
        self.plain("k_bias", "self_attn.indexer.k_norm.bias")
        self.linear("W_w", "self_attn.indexer.weights_proj")
        self.plain("attention_norm", "input_layernorm.weight")
        self.plain("ffn_norm", "post_attention_layernorm.weight")
        kv_b = self.dequantized("self_attn.kv_b_proj.weight").reshape(H, d_nope + d_v, -1)
        self.put("W_uk", kv_b[:, :d_nope].transpose(2, 0, 1), "float32")  # [R_kv, H, d_nope]
        self.put("W_uv", kv_b[:, d_nope:].transpose(2, 0, 1), "float32")  # [R_kv, H, d_v]
        if layer < config.get("first_k_dense_replace", 0):
            for name in ("gate", "up", "down"):
                self.linear(f"W_{name}", f"mlp.{name}_proj")
            return
        self.linear("W_g", "mlp.gate")
        if f"{self.prefix}mlp.gate.e_score_correction_bias" in checkpoint.entries:
            self.plain("bias", "mlp.gate.e_score_correction_bias")
        else:
            self.put("bias", np.zeros(config["n_routed_experts"], np.float32), "float32")
        for name in ("gate", "up", "down"):
            self.stack(f"W_{name}", [f"mlp.experts.{e}.{name}_proj" for e in range(config["n_routed_experts"])])
            if config.get("n_shared_experts"):
                self.linear(f"shared_W_{name}", f"mlp.shared_experts.{name}_proj")

    def put(self, name: str, array: np.ndarray, dtype: str) -> None:
        self.arrays[name] = array
        self.tensors[name] = {"dtype": dtype, "shape": list(array.shape)}

    def plain(self, name: str, weight: str) -> None:
        self.put(name, *self.checkpoint.stored(self.prefix + weight))

    def linear(self, name: str, module: str, shape: tuple | None = None) -> None:
        """[out, in] -> [in, out], or a finer shape; FP8 with its block scales."""
        array, dtype = self.checkpoint.stored(f"{self.prefix}{module}.weight")
        self.put(name, array.T if shape is None else array.T.reshape(shape), dtype)
        if dtype == "float8_e4m3":
            self.put(name + "_scale", self.checkpoint.stored(f"{self.prefix}{module}.weight_scale_inv")[0].T, "float32")

    def stack(self, name: str, modules: list[str]) -> None:
        """The experts' matrices, [E, in, out]."""
        arrays = [self.checkpoint.stored(f"{self.prefix}{m}.weight") for m in modules]
        self.put(name, np.stack([a.T for a, _ in arrays]), arrays[0][1])
        if arrays[0][1] == "float8_e4m3":
            scales = [self.checkpoint.stored(f"{self.prefix}{m}.weight_scale_inv")[0].T for m in modules]
            self.put(name + "_scale", np.stack(scales), "float32")

    def dequantized(self, weight: str) -> np.ndarray:
        """float32 numbers of a weight of any dtype."""
        array, dtype = self.checkpoint.stored(self.prefix + weight)
        values = dtypes.from_storage(array, dtype)
        if dtype == "float8_e4m3":
            values = self._dequantized(values, self.checkpoint.stored(f"{self.prefix}{weight}_scale_inv")[0])
        return values


def rope_of(config: dict) -> dict:
    """The rope parameters of a config.json; no YaRN unless it says so."""
    rope = {"max_context": config["max_position_embeddings"], "theta": config.get("rope_theta", 10000.0), "factor": 1.0}
    for form in ("rope_scaling", "rope_parameters"):
        yarn = config.get(form) or {}
        rope["theta"] = yarn.get("rope_theta", rope["theta"])
        if yarn.get("rope_type", yarn.get("type", "default")) == "yarn":
            rope |= {"factor": yarn.get("factor", 40.0), "beta_fast": yarn.get("beta_fast", 32.0), "beta_slow": yarn.get("beta_slow", 1.0),
                     "mscale": yarn.get("mscale_all_dim", yarn.get("mscale", 1.0)),
                     "original_context": yarn.get("original_max_position_embeddings", 4096)}  # fmt: skip
    return rope


class Model:
    """The op `model`: parameters.config is config.json's content; the folder of the inputs has the weights."""

    def op_model(self):
        """tokens [T] -> hidden_0 ... hidden_L, logits [T, V], and layer_I.STAGE"""
        config, tokens = self.parameters["config"], self.inputs.integers("tokens")
        self.transformer(tokens, config, Checkpoint(self.inputs.folder))

    def transformer(self, tokens, config: dict, checkpoint: Checkpoint):
        """tokens [T] of one sequence from its start -> logits [T, V]"""
        T = len(tokens)
        require(T <= config["max_position_embeddings"], f"the model's context ends at {config['max_position_embeddings']} tokens; {T} were given")
        self.eps = config.get("rms_norm_eps", 1e-6)
        self.parameters = {
            "rope": rope_of(config), "topk": config["index_topk"], "groups": config.get("n_group", 1),
            "kept_groups": config.get("topk_group", 1), "active": config.get("num_experts_per_tok", 1),
            "route_scale": config.get("routed_scaling_factor", 1.0), "normalise": config.get("norm_topk_prob", True),
        }  # fmt: skip
        table = dtypes.from_storage(*checkpoint.stored("model.embed_tokens.weight"))
        hidden = self.pass_("embedding", self.tier.bf16(table[tokens].astype(self.tier.real)), "bfloat16")
        all_hidden = [hidden]
        positions, start = np.arange(T), np.zeros(T, int)
        for layer in range(config["num_hidden_layers"]):
            self.inputs = LayerWeights(checkpoint, config, layer)
            hidden = self.transformer_block(hidden, positions, start, {}, f"layer_{layer}.")
            all_hidden.append(hidden)
        norm = dtypes.from_storage(*checkpoint.stored("model.norm.weight")).astype(self.tier.real)
        last = self.pass_("final_norm", self.rms_norm(hidden, norm), "bfloat16")
        head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
        for i, numbers in enumerate(all_hidden):
            self.show(f"hidden_{i}", numbers, "bfloat16")
        logits = last @ dtypes.from_storage(*checkpoint.stored(head)).astype(self.tier.real).T
        self.show("logits", logits, "float32")
        return logits

