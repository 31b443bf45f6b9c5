"""How do token ids become the next token, on the device? Embedding, layers, a last norm, the head.

The embedding's rows and the head's product with one token are the host's; everything between is dsa.h's.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from touchstone import dtypes, require
from touchstone.conventions import expanded
from touchstone.telling.model import Checkpoint, LayerWeights, rope_of

from .layer import Layer
from .library import Library

FLOAT32 = ("q_norm", "kv_norm", "k_norm", "k_bias", "attention_norm", "ffn_norm", "bias")  # whatever the checkpoint stores


class Ends:
    """A model's two ends: rows of the embedding, and the last norm with the head."""

    def __init__(self, library: Library, checkpoint: Checkpoint, config: dict):
        self.library, self.eps = library, config.get("rms_norm_eps", 1e-6)
        self.embedding = dtypes.from_storage(*checkpoint.stored("model.embed_tokens.weight"))
        head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
        self.head = dtypes.from_storage(*checkpoint.stored(head)).astype(np.float32)  # [V, D]
        self.norm = library.put(dtypes.from_storage(*checkpoint.stored("model.norm.weight")).astype(np.float32), "float32")

    def known(self, tokens) -> np.ndarray:
        """Token ids as an array; refused where the vocabulary has not all of them."""
        tokens = np.asarray(tokens)
        require(len(tokens) > 0, "a forward pass needs at least one token")
        require(((tokens >= 0) & (tokens < len(self.embedding))).all(), f"token ids must be from 0 to {len(self.embedding) - 1}, the vocabulary's last")
        return tokens

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """tokens [T] -> hidden [T, D], bfloat16's bytes"""
        return dtypes.to_bfloat16(self.embedding[tokens].astype(np.float32))

    def logits(self, hidden, every: int = 1) -> np.ndarray:
        """hidden [T, D] in the library's memory -> float32 [T / every, V], of each `every` rows the last. Row by row: a product of
        many may sum in another order."""
        normed = self.library.numpy(self.library.rms_norm(hidden, self.norm, eps=self.eps)).astype(np.float32)
        return np.stack([self.head @ row for row in normed[every - 1 :: every]])


class Model:
    """A checkpoint on a library.

        model = Model("build/libdsa_optimized.so", "folder/config.json", "folder", capacity=4096)
        tokens, logits = model.generate(prompt, 64)

    library: path of libdsa_optimized.so or libdsa_simulated.so. config: path of a Hugging Face config.json. weights: the
    folder of its safetensors files. capacity: tokens, prompt and answer together.
    """

    def __init__(self, library: str, config: str, weights: str, capacity: int, conventions="deepseek-v3.2-exp"):
        self.config = json.loads(Path(config).read_text(encoding="utf-8"))
        limit = self.config["max_position_embeddings"]
        require(0 < capacity <= limit, f"the capacity must be from 1 to max_position_embeddings = {limit} tokens; it is {capacity}")
        self.library, self.capacity = Library(library), capacity
        checkpoint = Checkpoint(Path(weights))
        parameters = parameters_of(self.config)
        quantised = "bfloat16" if expanded(conventions)["quantizer"] == "none" else "float8_e4m3"
        self.layers = [Layer(self.library, weights_of(LayerWeights(checkpoint, self.config, i)), parameters, conventions, quantised, capacity)
                       for i in range(self.config["num_hidden_layers"])]  # fmt: skip
        self.ends = Ends(self.library, checkpoint, self.config)

    @property
    def tokens(self) -> int:
        """How many tokens the caches hold."""
        return self.layers[0].tokens

    def forget(self) -> None:
        """Empties the caches, for another sequence."""
        for layer in self.layers:
            layer.tokens = 0

    def forward(self, tokens) -> np.ndarray:
        """tokens [T], following on those in the caches -> the logits of the last one, float32 [V]"""
        tokens = self.ends.known(tokens)
        T = len(tokens)
        require(self.tokens + T <= self.capacity, f"the caches have room for {self.capacity} tokens; {self.tokens} are in "
                f"them, {T} more were given: make the model with a larger capacity")  # fmt: skip
        library = self.library
        hidden = library.put(self.ends.rows(tokens), "bfloat16")
        other = library.empty(hidden.shape, "bfloat16")
        positions = library.put(np.arange(self.tokens, self.tokens + T, dtype=np.int32))
        try:
            for layer in self.layers:
                layer.run(hidden, positions, other)
                hidden, other = other, hidden
            return self.ends.logits(hidden.rows(T - 1, 1))[0]
        finally:
            library.synchronise()  # before the arrays are given back

    def generate(self, prompt, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Greedy decoding: the likeliest next token, of equal ones the lower. -> tokens int32 [count], logits [count, V]"""
        tokens, logits = np.zeros(count, np.int32), np.zeros((count, len(self.ends.head)), np.float32)
        following = prompt
        for i in range(count):
            logits[i] = self.forward(following)
            tokens[i] = np.argmax(logits[i])
            following = tokens[i : i + 1]
        return tokens, logits


def parameters_of(config: dict) -> dict:
    """config.json's content as the parameters of transformer_block."""
    return {"rope": rope_of(config), "topk": config["index_topk"], "eps": config.get("rms_norm_eps", 1e-6),
            "groups": config.get("n_group", 1), "kept_groups": config.get("topk_group", 1),
            "active": config.get("num_experts_per_tok", 1), "route_scale": config.get("routed_scaling_factor", 1.0),
            "normalise": config.get("norm_topk_prob", True)}  # fmt: skip


def weights_of(layer: LayerWeights) -> dict[str, tuple]:
    """name -> (array, logical dtype), norms and biases as float32."""
    found = {}
    for name in layer.tensors:
        array, dtype = layer.stored(name), layer.dtype(name)
        if name in FLOAT32:
            array, dtype = dtypes.from_storage(array, dtype).astype(np.float32), "float32"
        found[name] = array, dtype
    return found
