"""How does one layer run through transformer_block? Its weights lie on the device, and so does its cache.

The block shows its new latents, keys and scales; they are copied behind those of the tokens before, device to device, in
the order of the stream.
"""

from __future__ import annotations

from touchstone import contract, require

from .library import Library

CACHED = {"kv": "cache_kv", "indexer_k": "cache_k", "indexer_k_scale": "cache_k_scale"}  # stage -> input


class Layer:
    """One transformer block with its weights and its cache of `capacity` tokens."""

    def __init__(self, library: Library, weights, parameters: dict, conventions, quantised: str, capacity: int):
        """weights: names -> (array, logical dtype), the contract's. quantised: the dtype of the indexer's keys"""
        self.library, self.tokens = library, 0
        self.about = parameters | {"conventions": conventions}
        known = {t.name for t in contract.OPS["transformer_block"].inputs}
        self.weights = {}
        for name, (array, dtype) in weights.items():
            require(name in known, f"dsa.h has no place for {name}: FP8 weights are for the feed-forward nets only; dequantise the others")
            self.weights[name] = library.put(array, dtype)
        latent, key = weights["W_dkv"][0].shape[1], weights["W_kI"][0].shape[1]
        self.cache = {"kv": library.empty((capacity, latent), "bfloat16"), "indexer_k": library.empty((capacity, key), quantised),
                      "indexer_k_scale": library.empty((capacity,), "float32")}  # fmt: skip

    def _keep(self, stage: str, shown) -> None:
        if stage in self.cache:
            self.cache[stage].rows(self.tokens, shown.shape[0]).copy_from(shown)

    def run(self, hidden, positions, y) -> None:
        """hidden [T, D] of tokens that follow on those in the cache -> y [T, D]"""
        cached = {name: self.cache[stage].rows(0, self.tokens) for stage, name in CACHED.items()} if self.tokens else {}
        self.library.transformer_block(hidden, positions, **self.weights, **cached, **self.about, y=y, stages=self._keep)
        self.tokens += hidden.shape[0]
