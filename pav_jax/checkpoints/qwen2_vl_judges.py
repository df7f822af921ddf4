"""Converts VideoReward and HPSv3 as their authors publish them to folders with config.json, weights
and tokenizer.

VideoReward (KwaiVGI/VideoReward) is a folder: model_config.json, and in checkpoint-<step>/ either
model.pth, the state dict of a PEFT model with its LoRA adapter, or adapter_model.safetensors with
non_lora_state_dict.pth, which belong to a base model. HPSv3 (MizzenAI/HPSv3) is one file, the state
dict of a whole model. Both add tokens to the tokenizer of the Qwen2-VL that they were trained from.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.safetensors import read_tensors
from pav_jax.checkpoints.tokenizers import TOKENIZER_FILES, load_tokenizer, save_tokenizer
from pav_jax.checkpoints.torch_files import read_file
from pav_jax.errors import BadInput
from pav_jax.models.qwen2_vl import hf
from pav_jax.models.weights import params_from_hf
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.typed_fields import Positive, check_object, read_value

VIDEOREWARD_CONFIG = "model_config.json"  # of the authors
VIDEOREWARD_SETTINGS = "videoreward.json"  # ours
VIDEOREWARD_TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
HPSV3_TOKENS = ("<|Reward|>",)
HEAD = "rm_head."  # beginning of the tensors of both heads
PEFT_PREFIX = "base_model.model."
LORA = re.compile(r"(.*)\.lora_(A|B)(?:\.\w+)?\.weight")
SMALL_FILES = (*TOKENIZER_FILES, "config.json", "preprocessor_config.json")
UNUSED = ("lm_head.weight", "rotary_emb.inv_freq")  # the reward head replaces the output matrix
DIMENSIONS = ("VQ", "MQ", "TA")

Tensors = Mapping[str, np.ndarray]


def is_videoreward(folder: Path) -> bool:
    """Whether a folder is a VideoReward as its authors publish it."""
    return (folder / VIDEOREWARD_CONFIG).is_file() and not (folder / "config.json").exists()


def is_hpsv3(tensors: Collection[str]) -> bool:
    """Whether these are the names of the tensors of an HPSv3."""
    return any(name.startswith(f"{HEAD}0.") for name in tensors)


def convert_videoreward(
    folder: Path, out: Path, base: str | Path | None, max_shard_size: str
) -> None:
    """Write the folder `out` from the folder of a VideoReward.

    Args:
      base: folder or Hub repository of the Qwen2-VL that it was trained from.

    Raises:
      BadInput: a file is missing, broken or of another model.
    """
    path = folder / VIDEOREWARD_CONFIG
    config = read_json(path)
    sections = {
        name: check_object(config.get(name) or {}, str(path), name)
        for name in ("model_config", "data_config", "peft_lora_config", "inference_config")
    }
    model = sections["model_config"]
    if not model.get("use_special_tokens") or model.get("reward_token") != "special":
        raise BadInput(
            f"{path}: model_config.reward_token is {str(model.get('reward_token'))[:60]!r}; only a"
            " VideoReward with a token for each score is supported",
            source=path,
            field="model_config.reward_token",
        )
    base_folder = _base_folder(base, folder)
    checkpoint = _last_checkpoint(folder)
    tensors = _read_checkpoint(checkpoint, base_folder)
    tensors = _merge_lora(tensors, sections["peft_lora_config"], path, checkpoint)
    _write(tensors, checkpoint, out, base_folder, VIDEOREWARD_TOKENS, max_shard_size)
    write_json(out / VIDEOREWARD_SETTINGS, _settings(sections, str(path)))


def convert_hpsv3(
    tensors: Tensors, source: Path, out: Path, base: str | Path | None, max_shard_size: str
) -> None:
    """Write the folder `out` from the tensors of an HPSv3; arguments as `convert_videoreward`.

    Raises:
      BadInput: a tensor is missing or of another shape.
    """
    renamed = {_plain_name(name): tensor for name, tensor in tensors.items()}
    _write(renamed, source, out, _base_folder(base, source), HPSV3_TOKENS, max_shard_size)


def _settings(sections: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """The content of VIDEOREWARD_SETTINGS, see `rewards.videoreward.Settings`."""
    settings: dict[str, Any] = {"outputs": sections["model_config"].get("output_dim") or 1}
    for field, ours in (("fps", "fps"), ("max_frame_pixels", "max_pixels")):
        if sections["data_config"].get(field) is not None:
            settings[ours] = sections["data_config"][field]
    norms = sections["inference_config"]
    for suffix, ours in (("mean", "means"), ("std", "stds")):
        if norms:
            names = [f"{dimension}_{suffix}" for dimension in DIMENSIONS]
            settings[ours] = [
                read_value(norms.get(name), float, source, f"inference_config.{name}")
                for name in names
            ]
    # VideoAlign calls the text model without positions, which are then counted one by one
    return settings | {"positions": "sequential"}


def _base_folder(base: str | Path | None, source: Path) -> Path:
    if base is None:
        raise BadInput(
            f"{source}: the tokenizer and config.json of the model that this was trained from are"
            " needed; name it with --tokenizer=Qwen/Qwen2-VL-2B-Instruct (VideoReward) or"
            " --tokenizer=Qwen/Qwen2-VL-7B-Instruct (HPSv3)",
            source="--tokenizer",
        )
    return local_folder(base)


def _last_checkpoint(folder: Path) -> Path:
    steps = {
        int(path.name.rpartition("-")[2]): path
        for path in folder.glob("checkpoint-*")
        if path.is_dir() and path.name.rpartition("-")[2].isdigit()
    }
    return steps[max(steps)] if steps else folder


def _read_checkpoint(checkpoint: Path, base_folder: Path) -> dict[str, np.ndarray]:
    """All tensors by their plain names, those of the adapter included."""
    if (checkpoint / "model.pth").is_file():
        tensors = read_file(checkpoint / "model.pth")
        return {_plain_name(name): tensor for name, tensor in tensors.items()}
    adapter = read_file(checkpoint / "adapter_model.safetensors")
    trained = read_file(checkpoint / "non_lora_state_dict.pth")
    base = read_tensors(base_folder, (hf.STEM,))
    tensors = {_plain_name(name): base[name] for name in base}
    for part in (trained, adapter):
        tensors |= {_plain_name(name): tensor for name, tensor in part.items()}
    return tensors


def _plain_name(name: str) -> str:
    """A tensor's name without what PEFT and transformers 5 add."""
    name = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    for prefix, plain in hf.PREFIXES.items():
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name


def _merge_lora(
    tensors: Tensors, config: Mapping[str, Any], path: Path, checkpoint: Path
) -> dict[str, np.ndarray]:
    """Add each adapter to its weight, in float32 (Hu et al. 2021, arXiv 2106.09685)."""
    factors: dict[str, dict[str, np.ndarray]] = {}
    merged = {}
    for name, tensor in tensors.items():
        if match := LORA.fullmatch(name):
            factors.setdefault(match[1], {})[match[2]] = tensor
        else:
            merged[name] = tensor
    if not factors:
        return merged
    alpha = read_value(config.get("lora_alpha"), Positive, str(path), "peft_lora_config.lora_alpha")
    for module, pair in factors.items():
        weight = f"{module}.weight"
        if len(pair) != 2 or weight not in merged:
            raise BadInput(
                f"{checkpoint}: the adapter of {module!r} is incomplete, or its weight is missing;"
                " is the download complete?",
                source=checkpoint,
                field=module,
            )
        a, b = (pair[side].astype(np.float32) for side in "AB")
        rank = len(a)
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        base = merged[weight].astype(np.float32)
        if (b.shape[0], a.shape[1]) != base.shape or b.shape[1] != rank:
            raise BadInput(
                f"{checkpoint}: the adapter of {module!r} has shapes {list(b.shape)} and"
                f" {list(a.shape)}, its weight {list(base.shape)}; is it of another model?",
                source=checkpoint,
                field=module,
            )
        merged[weight] = base + scale * (b @ a)
    return merged


def _write(
    tensors: Tensors,
    source: Path,
    out: Path,
    base_folder: Path,
    tokens: Sequence[str],
    max_shard_size: str,
) -> None:
    """Write config.json, weights and tokenizer; all tensors must belong to the model."""
    fields = read_json(base_folder / "config.json")
    config_path = str(base_folder / "config.json")
    tokenizer = load_tokenizer(base_folder, ("tokenizer.json", "vocab.json"))
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    if (embeddings := tensors.get("model.embed_tokens.weight")) is not None:
        # the authors resize the embeddings to the tokenizer; the base has spare rows
        vocab_size = len(embeddings)
        if vocab_size < len(tokenizer):
            raise BadInput(
                f"{source}: there are embeddings of {vocab_size} tokens, and with"
                f" {', '.join(tokens)} the tokenizer has {len(tokenizer)}; is --tokenizer the model"
                " that this was trained from?",
                source=source,
                field="model.embed_tokens.weight",
            )
        target = fields.get("text_config") or fields
        target["vocab_size"] = vocab_size
    config = hf.fit_config(hf.config_from_hf(fields, config_path), tensors, str(source))
    table = hf.weights(config)
    used = {name for row in table for name in row.hf_names()}
    if unknown := [name for name in tensors if name not in used and not name.endswith(UNUSED)]:
        raise BadInput(
            f"{source}: tensor {unknown[0]!r} does not belong to a Qwen2-VL with this config.json;"
            " is --tokenizer the model that this was trained from?",
            source=source,
            field=unknown[0],
        )
    params = params_from_hf(table, tensors, str(source), expected=hf.param_shapes(config))
    folders.save(hf, out, config, params, max_shard_size)
    save_tokenizer(tokenizer, out)
    if (base_folder / "preprocessor_config.json").is_file():
        write_json(
            out / "preprocessor_config.json", read_json(base_folder / "preprocessor_config.json")
        )
