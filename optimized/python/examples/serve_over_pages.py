"""Two books go on at once, their contexts in the pages of one pool, on a laptop: the tokens are the reference's.

    build/venv/bin/python optimized/python/examples/serve_over_pages.py

Needs what `make golden` and `make test` build: build/dsa-reference, build/libdsa_simulated.so, and the binding. The model is
the small trained one of golden/trained. On a GPU: --library build/libdsa_optimized.so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[3]
TRAINED = REPOSITORY / "golden" / "trained"
BEGINNINGS = {"alice_in_wonderland": 61, "paradise_lost": 37}  # bytes; a byte is a token


def reference_tokens(prompt: np.ndarray, count: int) -> list[int]:
    """What dsa-reference goes on with, its latents rounded through e4m3 as the pages hold them."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/tokens.npy", prompt[None])
        subprocess.run([os.environ.get("TOUCHSTONE_REFERENCE") or REPOSITORY / "build" / "dsa-reference", "model", "--config", TRAINED / "config.json", "--weights", TRAINED / "model.safetensors",
                        "--tokens", f"{folder}/tokens.npy", "--out", f"{folder}/out", "--tier", "deployed", "--conventions", "deepseek-v3.2",
                        "--decode", str(count)], check=True)  # fmt: skip
        return np.load(f"{folder}/out/decode_tokens.npy").reshape(-1).tolist()


def main() -> int:
    """0: every token is the reference's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", default=REPOSITORY / "build" / "libdsa_simulated.so")
    parser.add_argument("--tokens", type=int, default=12)
    options = parser.parse_args()
    os.environ.setdefault("DSA_SIMULATOR_CHECKS", "off")  # races are other tests' matter; this is for being quick
    from dsa_optimized import PagedModel

    prompts = [np.frombuffer((TRAINED / f"{book}.txt").read_bytes()[:length], np.uint8).astype(np.int32) for book, length in BEGINNINGS.items()]
    model = PagedModel(options.library, TRAINED / "config.json", TRAINED, requests=len(prompts), pages=6, piece=64)
    written = [[] for _ in prompts]
    logits = model.read(prompts)
    for _ in range(options.tokens):
        tokens = np.argmax(logits, axis=1).astype(np.int32)
        for b, token in enumerate(tokens):
            written[b].append(int(token))
            held = [int(page) for page in model.table[b] if page >= 0]
            print(f"request {b}: {model.lens[b]} tokens in pages {held}, next {bytes([token])!r}", end="\n" if b == len(prompts) - 1 else "; ", flush=True)
        logits = model.step([tokens[b : b + 1] for b in range(len(prompts))])
    same = True
    for book, prompt, tokens in zip(BEGINNINGS, prompts, written):
        right = tokens == reference_tokens(prompt, options.tokens)
        same = same and right
        print(f"{book}: {'the same' if right else 'NOT THE SAME'} {len(tokens)} tokens as the reference, {bytes(tokens)!r}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
