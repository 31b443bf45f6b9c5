"""How does a server generate? Many requests at once, their contexts in pages of one pool, a page dealt out when a token needs it.

Each layer is one plan of serving_block_step over its own pools. All layers share the block table: a page's number is its place
in every pool. A prompt is read in pieces of `piece` tokens; its first piece is filled up in front with tokens before position
0, which have no slot and which nobody sees.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from touchstone import require
from touchstone.telling.model import Checkpoint, LayerWeights

from .library import Library
from .model import Ends, parameters_of, weights_of
from .serving import PAGE, Plan, page_shapes


class PagedModel:
    """A checkpoint that serves up to `requests` prompts at once, on a library.

        model = PagedModel("build/libdsa_simulated.so", "folder/config.json", "folder", requests=2, pages=16)
        tokens, logits = model.generate([prompt, other_prompt], 64)

    library, config, weights: as Model's. requests: B, places in the batch. pages: of 64 tokens, of all requests together.
    piece: s_q, tokens of a prompt that are read in one step. conventions: a preset's name or an object of switches. The caches
    are FP8, so that the reference to compare with is one whose conventions have kv_latent_fp8, as deepseek-v3.2's do.
    """

    def __init__(self, library: str, config: str, weights: str, requests: int, pages: int, piece: int = 16, conventions="deepseek-v3.2"):
        self.config = json.loads(Path(config).read_text(encoding="utf-8"))
        for name, value in (("requests", requests), ("pages", pages), ("piece", piece)):
            require(value > 0, f"a paged model needs at least 1 of {name}; it is given {value}")
        self.library, self.requests, self.piece = Library(library), requests, piece
        checkpoint = Checkpoint(Path(weights))
        self.ends = Ends(self.library, checkpoint, self.config)
        self.longest = min(self.config["max_position_embeddings"], PAGE * pages)
        # Handed out from the end: no request's pages lie in order, or side by side.
        self.free = list(range(pages))
        put, empty = self.library.put, self.library.empty
        self.lens = np.zeros(requests, np.int32)
        self.table = np.full((requests, -(-self.longest // PAGE)), -1, np.int32)
        self.device_lens, self.device_table = put(self.lens), put(self.table)
        of_pool = page_shapes(pages, self.config["kv_lora_rank"], self.config["qk_rope_head_dim"], self.config["index_head_dim"])
        self.rows = {s_q: (empty((requests * s_q, self.config["hidden_size"]), "bfloat16"), empty((requests * s_q,), "int32")) for s_q in (1, piece)}
        self.plans: dict[int, list[Plan]] = {1: [], piece: []}
        parameters = parameters_of(self.config)
        for i in range(self.config["num_hidden_layers"]):
            layer = {name: put(array, dtype) for name, (array, dtype) in weights_of(LayerWeights(checkpoint, self.config, i)).items()}
            kv_pages, k_pages = (put(np.zeros(shape, np.uint8)) for shape in of_pool)
            for s_q, (hidden, positions) in self.rows.items():  # y lies in hidden's place: the next layer reads it there
                self.plans[s_q].append(self.library.plan_serving_block_step(
                    hidden, positions, layer, kv_pages, k_pages, self.device_table, self.device_lens, y=hidden, conventions=conventions, **parameters))  # fmt: skip
        every = [plan for plans in self.plans.values() for plan in plans]
        room = empty((max(plan.workspace_bytes for plan in every),), "uint8")
        for plan in every:
            plan.bind(room)  # they run one after the other

    def _deal(self, b: int, length: int) -> None:
        """The pages that request b needs for so many tokens."""
        require(length <= self.longest, f"a request may have {self.longest} tokens here, the lesser of max_position_embeddings and "
                f"the pages' {PAGE} each; request {b} needs {length}")  # fmt: skip
        for i in range(-(-length // PAGE)):
            if self.table[b, i] < 0:
                require(len(self.free) > 0, f"no page is free for token {i * PAGE} of request {b}: make the model with more pages")
                self.table[b, i] = self.free.pop()

    def leave(self, b: int) -> None:
        """Request b is over: its pages are free again."""
        self.free += [int(page) for page in self.table[b] if page >= 0]
        self.table[b], self.lens[b] = -1, 0

    def step(self, tokens: list[np.ndarray]) -> np.ndarray:
        """tokens[b]: the next tokens of request b, none for one that waits or has no entry. All requests of a step have 1 each, or
        `piece`, of which a new request may have fewer -> logits of each request's last token, float32 [B, V]; where a request
        waits they mean nothing"""
        most = max(len(one) for one in tokens)
        s_q = 1 if most == 1 else self.piece
        lens = np.zeros(self.requests, np.int32)
        ids, positions = np.zeros((2, self.requests, s_q), np.int32)
        for b, one in enumerate(tokens):
            if len(one) == 0:
                continue  # a length of 0: it is not there in this step
            require(len(one) == s_q or self.lens[b] == 0 and len(one) < s_q, f"request {b} may have {s_q} more tokens in this step; it has {len(one)}")
            self._deal(b, int(self.lens[b]) + len(one))
            self.lens[b] += len(one)
            lens[b] = self.lens[b]
            ids[b, s_q - len(one) :] = one
            positions[b] = np.maximum(np.arange(lens[b] - s_q, lens[b]), 0)
        hidden, where = self.rows[s_q]
        hidden.write(self.ends.rows(ids.reshape(-1)).view(np.uint8).reshape(-1))
        where.write(positions.reshape(-1))
        self.device_lens.write(lens)
        self.device_table.write(self.table)
        for plan in self.plans[s_q]:
            plan.run()
        return self.ends.logits(hidden, s_q)

    def read(self, prompts: list) -> np.ndarray:
        """Up to B new requests, at the places 0, 1, ...: their prompts, of any lengths -> logits of each one's last token,
        float32 [prompts, V]"""
        require(0 < len(prompts) <= self.requests, f"there are {self.requests} places; {len(prompts)} prompts were given")
        pieces = [pieces_of(self.ends.known(prompt), self.piece) for prompt in prompts]
        logits = np.zeros((len(prompts), len(self.ends.head)), np.float32)
        nothing = np.zeros(0, np.int32)
        for b in range(self.requests):
            require(self.lens[b] == 0, f"request {b} is not over: leave({b}) ends it")
        for i in range(max(len(of_one) for of_one in pieces)):
            last = self.step([of_one[i] if i < len(of_one) else nothing for of_one in pieces])
            for b, of_one in enumerate(pieces):
                if i == len(of_one) - 1:
                    logits[b] = last[b]
        return logits

    def generate(self, prompts: list, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Greedy decoding of all prompts at once: the likeliest next token, of equal ones the lower.

        prompts: up to B arrays of token ids, of any lengths -> tokens int32 [prompts, count], logits float32 [prompts, count, V].
        Their pages are free again in the end.
        """
        tokens = np.zeros((len(prompts), count), np.int32)
        logits = np.zeros((len(prompts), count, len(self.ends.head)), np.float32)
        try:
            for i in range(count):
                logits[:, i] = self.read(prompts) if i == 0 else self.step(list(tokens[:, i - 1 : i]))[: len(prompts)]
                tokens[:, i] = np.argmax(logits[:, i], axis=1)
        finally:
            self.library.synchronise()
            for b in range(self.requests):
                self.leave(b)
        return tokens, logits


def pieces_of(prompt: np.ndarray, piece: int) -> list[np.ndarray]:
    """A prompt in pieces, of which only the first may be short."""
    first = len(prompt) % piece or min(piece, len(prompt))
    return [prompt[:first], *(prompt[i : i + piece] for i in range(first, len(prompt), piece))]
