"""In what do right implementations differ? Every switch, its values, and the presets. docs/09-conventions.md."""

from __future__ import annotations

from . import require

QUANTIZERS = ("deepseek", "flashmla", "vllm", "no_floor", "none")
# switch -> its values; float stands for any number
SWITCHES = {
    "indexer_rope": ("half_split", "interleaved"),
    "hadamard": (True, False),
    "quantizer": QUANTIZERS,
    "scale_format": ("ue8m0", "float32"),
    "weights_proj": ("bf16", "float32"),
    "indexer_scores": ("float32", "bf16"),
    "fp8_sums": ("float32", "hopper"),
    "kv_latent_fp8": (False, True),
    "kv_quantizer": QUANTIZERS,
    "gate_bias": (True, False),
    "router_eps": float,
    "lse": ("natural", "base2"),
    "empty_row_lse": ("-inf", "+inf"),
    "sparse_kl_target": ("softmax_on_set", "renormalised"),
    "kl_reduction": ("sum", "mean"),
    "kl_coefficient": float,
    "yarn_mscale_in_indexer": (False, True),
    "mla_rope_output": ("interleaved", "half_split"),
    "nan_scores": ("error", "-inf"),
}
DEEPSEEK_EXP = {name: 0.0 if values is float else values[0] for name, values in SWITCHES.items()}
DEEPSEEK_EXP |= {"kv_quantizer": "flashmla", "kl_coefficient": 1.0}
PRESETS = {
    "deepseek-v3.2-exp": DEEPSEEK_EXP,
    "deepseek-v3.2": DEEPSEEK_EXP | {"weights_proj": "float32", "indexer_scores": "bf16", "kv_latent_fp8": True,
                                     "kv_quantizer": "deepseek"},
    "transformers": DEEPSEEK_EXP | {"hadamard": False, "quantizer": "none", "weights_proj": "float32",
                                    "router_eps": 1e-20, "mla_rope_output": "half_split"},
    "vllm": DEEPSEEK_EXP | {"quantizer": "vllm", "kv_latent_fp8": True},
    "sglang": DEEPSEEK_EXP | {"quantizer": "no_floor", "kv_latent_fp8": True},
    "flashmla": DEEPSEEK_EXP | {"kv_latent_fp8": True, "empty_row_lse": "+inf"},
}  # fmt: skip


def expanded(conventions) -> dict:
    """All switches of a preset's name, or of {"preset": NAME, switch: value, ...}. Unknown ones are refused."""
    if isinstance(conventions, str):
        conventions = {"preset": conventions}
    require(isinstance(conventions, dict), f"conventions must be a preset's name or an object of switches; got {conventions!r}")
    preset = conventions.get("preset", "deepseek-v3.2-exp")
    require(preset in PRESETS, f'there is no preset of conventions named "{preset}"; there are {", ".join(PRESETS)}')
    switches = {name: value for name, value in conventions.items() if name != "preset"}
    for name, value in switches.items():
        require(name in SWITCHES, f'there is no convention named "{name}"; there are {", ".join(SWITCHES)}')
        values = SWITCHES[name]
        if values is float:
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
            require(good, f"the convention {name} must be a number; got {value!r}")
        else:
            good = any(value == v and type(value) is type(v) for v in values)
            words = ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
            require(good, f"the convention {name} must be one of {words}; got {value!r}")
    return PRESETS[preset] | switches
