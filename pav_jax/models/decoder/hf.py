"""Decoder checkpoints: config.json fields and tensor names of transformers, both ways.

The tables are in `families/`, one module each. Loading, export, sharding, LoRA adapters and GGUF
files all read the table of `weights`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.errors import BadInput
from pav_jax.models.decoder.config import DecoderConfig
from pav_jax.models.decoder.families import FAMILIES
from pav_jax.models.decoder.families.family import OPTIONAL, SIZES
from pav_jax.models.decoder.model import Decoder
from pav_jax.models.weights import Weight
from pav_jax.typed_fields import check_object

STEM = "model"  # file names start with it: model.safetensors, model-00001-of-00004.safetensors
WRAPPER = "gemma3"  # a vision-language model, whose decoder is in text_config
# beginnings of the decoder's tensors in a vision-language model -> without it: of transformers 5
# in memory, and of published files
PREFIXES = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
DECODER_PREFIX = "model."
# the same in transformers' AutoModelForCausalLM of a WRAPPER
PREFIX_IN_WRAPPER = "model.language_model."
LM_HEAD = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"
DECODER_TENSORS = ("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head.")
IGNORED_TENSORS = ("rotary_emb.inv_freq",)  # computed from config.json


def config_from_hf(fields: Mapping[str, Any], source: str = "config.json") -> DecoderConfig:
    """Read a config.json of transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`).

    Args:
      fields: the parsed file.
      source: the file's name in errors.

    Raises:
      BadInput: the architecture is not supported, a size is missing, or an option is not supported.
    """
    kind = fields.get("model_type", "llama")
    if kind == WRAPPER:
        text = check_object(fields.get("text_config") or {}, source, "text_config")
        ids = {name: fields[name] for name in fields if name.endswith("_token_id")}
        fields = {**ids, **text}
        kind = "gemma3_text"
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise BadInput(
            f"{source}: model_type is {str(kind)[:60]!r}; supported are {', '.join(FAMILIES)} and"
            f" {WRAPPER}. Serve another model behind an OpenAI-compatible endpoint and name that"
            " (kind=chat)",
            source=source,
            field="model_type",
        )
    return FAMILIES[kind].read(fields, source)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields of config.json under transformers 4's names, which version 5 also reads."""
    family = FAMILIES[config.model_type]
    fields = {name: getattr(config, name) for name in (*SIZES, *OPTIONAL)}
    if isinstance(config.eos_token_id, tuple):
        fields["eos_token_id"] = list(config.eos_token_id)
    return {
        "architectures": [family.architecture],
        "model_type": config.model_type,
        "torch_dtype": "float32",  # checkpoints.folder.save overwrites it with the actual dtype
        **fields,
        **family.write(config),
    }


def fit_config(
    config: DecoderConfig, tensors: Mapping[str, np.ndarray], source: str
) -> DecoderConfig:
    """Return the configuration for these tensors, of the checkpoint `source`.

    As in transformers 5, an output matrix that differs from the embeddings is used even if
    config.json says that the two are one.

    Raises:
      BadInput: a tensor of the decoder is not part of the model that config.json describes, such as
        a bias; without it the model would compute something else.
    """
    if config.tie_word_embeddings and LM_HEAD in tensors:
        is_tied = np.array_equal(tensors[LM_HEAD], tensors.get(EMBEDDINGS, ()))
        config = dataclasses.replace(config, tie_word_embeddings=is_tied)
    names = {name for row in weights(config) for name in row.hf_names()}
    for name in tensors:
        if (
            name.startswith(DECODER_TENSORS)
            and name not in names
            and name != LM_HEAD
            and not name.endswith(IGNORED_TENSORS)
        ):
            raise BadInput(
                f"{source}: tensor {name!r} is not part of a {config.model_type} model with this"
                " config.json; use the config.json that belongs to the weights",
                source=source,
                field=name,
            )
    return config


def weights(config: DecoderConfig) -> list[Weight]:
    """Return the weight table: each weight's tensor name, our path, transform and logical axes."""
    return FAMILIES[config.model_type].weights(config)


def param_shapes(config: DecoderConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(Decoder(config).init, jax.random.key(0), ids)["params"]
