"""A Llama whose operations can be counted by hand, as a config.json, and configuration fields that
fit it."""

import json

SIZES = dict(
    model_type="llama",
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)


# config.json fields of families whose operations differ from the Llama's
FAMILIES = {
    "llama": {},
    "gemma3_text": dict(model_type="gemma3_text", head_dim=8, sliding_window=5),
    "qwen3_moe": dict(
        model_type="qwen3_moe",
        head_dim=8,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
}


def write_config_json(folder, **changes):
    """Writes `folder`/config.json and returns its path."""
    path = folder / "config.json"
    path.write_text(json.dumps(SIZES | changes))
    return path


def set_batch(config, max_length=32, batch_size=4):
    """Sets the batch of SFT and DPO in `config`, without accumulation, and returns it."""
    for options in (config.sft, config.dpo):
        options.batch_size = batch_size
        options.gradient_accumulation_steps = 1
        options.max_length = max_length
    return config
