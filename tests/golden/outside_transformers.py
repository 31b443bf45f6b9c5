"""An outside check: whole models of Hugging Face transformers' `deepseek_v32` against dsa-reference, float64.

Not part of `make test`: it needs torch and transformers (5.x). Run it where they are installed:

    python tests/golden/outside_transformers.py [--reference build/dsa-reference]

The indexer has 32 heads, so that scores of exactly 0, which tie, do not occur: torch.topk breaks ties as it likes.
A random tiny model is written by transformers (config.json, model.safetensors), read by dsa-reference with the
conventions `transformers`, and both run the same tokens. The exact tier must agree with float64 PyTorch to
float64 rounding: the tolerance is the first-order bound n u of its longest chain of sums, with room for the
residual stream's growth.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 24, "index_n_heads": 32, "index_head_dim": 16, "index_topk": 8,
    "first_k_dense_replace": 1, "mlp_layer_types": ["dense", "sparse", "sparse"], "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 4,
    "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 32}  # fmt: skip


def check(name: str, rope: dict, reference: str, tokens: int = 40) -> None:
    torch.manual_seed(1)
    config = AutoConfig.for_model("deepseek_v32", **SMALL, rope_parameters=rope)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"  # the others know no float64
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in key else 0.0, 0.2 if "norm" in key else 0.15)
        for key, buffer in model.named_buffers():
            if "e_score_correction_bias" in key:
                buffer.normal_(0, 0.1)
    ids = torch.randint(0, SMALL["vocab_size"], (2, tokens))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        np.save(f"{folder}/tokens.npy", ids.numpy().astype(np.int32))
        subprocess.run([reference, "model", "--config", f"{folder}/config.json", "--weights", folder, "--tokens",
                        f"{folder}/tokens.npy", "--out", f"{folder}/out", "--conventions", "transformers", "--trace", "topk_indices"],
                       check=True)  # fmt: skip
        ours = np.load(f"{folder}/out/logits.npy")
        hidden = [np.load(f"{folder}/out/hidden_{i}.npy") for i in range(SMALL["num_hidden_layers"] + 1)]
    with torch.no_grad():
        output = model.double()(ids, output_hidden_states=True, use_cache=False)
    for i in range(SMALL["num_hidden_layers"]):  # transformers' last one is after the final norm
        error = np.abs(output.hidden_states[i].numpy() - hidden[i]).max()
        print(f"{name}: hidden_{i} largest difference {error:.2e}")
    theirs = output.logits.double().numpy()
    error = np.abs(ours - theirs).max() / theirs.std()
    print(f"{name}: logits differ by at most {error:.2e} of their deviation")
    # float32 tables of angles in transformers limit what can be asked: their relative error is 2^-24 a position.
    bound = tokens * 2.0**-24 * 64
    assert error <= bound, f"{name}: {error} > {bound}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", default=str(Path(__file__).resolve().parents[2] / "build" / "dsa-reference"))
    options = parser.parse_args()
    check("default rope", {"rope_type": "default", "rope_theta": 10000.0}, options.reference)
    check("yarn", YARN, options.reference)
    print("agrees with transformers")
