"""The small trained model end to end: does the library go on with the reference's tokens?

    python -m optimized.bench.trained_model LIBRARY

Both passages of golden/trained, on which the reference's tiers agree (docs/15-trained-weights.md). Prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from touchstone import make, text

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from dsa_optimized import Model  # noqa: E402


def reference_tokens(reading: text.Reading, tokens: np.ndarray) -> list[int]:
    """What dsa-reference generates in the deployed tier."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        np.save(out / "tokens.npy", tokens[None])
        command = [make.reference_program(), "model", "--config", reading.config, "--weights", reading.weights, "--tokens", out / "tokens.npy",
                   "--out", out / "out", "--tier", "deployed", "--decode", text.DECODED]  # fmt: skip
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        return np.load(out / "out" / "decode_tokens.npy").reshape(-1).tolist()


def main() -> int:
    """0 if every token is the reference's."""
    passages = []
    for reading in (text.ALICE, text.PARADISE):
        model = Model(sys.argv[1], str(reading.config), str(reading.weights.parent), reading.length + text.DECODED)
        tokens, _ = model.generate(reading.tokens(), text.DECODED)
        expected = reference_tokens(reading, reading.tokens())
        passages.append({"passage": reading.name, "tokens": len(expected), "same": tokens.tolist() == expected, "text": bytes(tokens.tolist()).decode("latin-1")})
    print(json.dumps(passages))
    return 0 if all(p["same"] for p in passages) else 1


if __name__ == "__main__":
    sys.exit(main())
