"""PEFT folders of random adapters for the tiny models, and models that know an instruction."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import LoraConfig, init_lora
from tests.tiny.byte_language_model import TEMPLATE

INSTRUCTION = "Write the prompt again, in the words of a film: " * 2
CONFIGS = {  # of different ranks, scales and layers
    "wan": LoraConfig(r=2, lora_alpha=4.0, target_modules=("q_proj", "v_proj")),
    "cogvideox": LoraConfig(r=3, lora_alpha=1.0, target_modules=("k_proj", "down_proj")),
    "hunyuan": LoraConfig(r=8, lora_alpha=12.0, target_modules=("all-linear",)),
}
NAMES = ["wan", "__base__", "hunyuan", "cogvideox", "hunyuan", "wan", "__base__"]
WORDS = ["rain", "a girl", "two dogs run", "x", "rain", "7 cats", "sea"]


def instructed(lm: LanguageModel) -> LanguageModel:
    """The model with an instruction before the user's words, which prompts share."""
    tokenizer = lm.tokenizer.__class__(
        tokenizer_object=lm.tokenizer.backend_tokenizer, eos_token="<|end|>", pad_token="<pad>"
    )
    tokenizer.chat_template = INSTRUCTION + TEMPLATE
    return dataclasses.replace(lm, tokenizer=tokenizer)


def random_lora(lm: LanguageModel, config: LoraConfig, seed: int) -> dict:
    """The tree of an adapter that changes what the model says."""
    key = jax.random.key(seed)
    lora = init_lora(lm.params, config, key)
    return jax.tree.map(lambda x: 0.3 * jax.random.normal(key, x.shape), lora)


def write_adapters(lm: LanguageModel, folder: Path) -> dict[str, tuple[dict, LoraConfig]]:
    """Write one PEFT folder for each of CONFIGS."""
    adapters = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        lora = random_lora(lm, config, seed)
        lm.with_lora(lora, config).save_pretrained(folder / name, merge_adapter=False)
        adapters[name] = jax.tree.map(jnp.asarray, lora), config
    return adapters


def load_adapters(lm: LanguageModel, folder: Path) -> LanguageModel:
    """The model with all adapters that `write_adapters` wrote."""
    for name in CONFIGS:
        lm = lm.load_adapter(folder / name, name)
    return lm
