"""The families of decoder checkpoints, by their `model_type`.

To add one, write a module with `read`, `write` and `FAMILY`, and list it here.
"""

from pav_jax.models.decoder.families import (
    gemma3,
    llama,
    mistral,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
)

FAMILIES = {
    module.FAMILY.model_type: module.FAMILY
    for module in (llama, qwen2, qwen3, mistral, gemma3, smollm3, phi3, qwen3_moe)
}
