"""A rewriter of sizes that can be counted by hand, and the fields of a configuration that go with
it."""

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


def write_sizes(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(SIZES | changes))
    return path


def set_sizes(config, length=32, batch=4):
    for fields in (config.sft, config.dpo):
        fields.batch_size, fields.grad_accumulation, fields.max_length = batch, 1, length
    return config
