"""Converts reward models as their authors publish them to folders that our rewards load.

A folder has config.json beside safetensors, in the Hugging Face layout where there is one. The
format is recognised by the content of the file, not by its name:
- LAION's aesthetic heads (sa_0_4_vit_l_14_linear.pth, sac+logos+ava1-l14-linearMSE.pth), for
  `rewards.aesthetic`;
- CLIP in open_clip's or OpenAI's layout, for `rewards.clip_tower`;
- MPS_overall_checkpoint, a state dict or the whole pickled model, for `rewards.mps`;
- a VideoScore folder, for `rewards.videoscore`, which reads that layout unchanged;
- VideoReward's folder and HPSv3's file, for the rewards of these names (`qwen2_vl_judges.py`).
"""

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints import open_clip, qwen2_vl_judges
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.safetensors import read_tensors, read_weight_map, write_tensors
from pav_jax.checkpoints.torch_files import read_file
from pav_jax.errors import BadInput
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.idefics2 import hf as idefics2_hf
from pav_jax.models.mps import CrossConfig, MPSConfig
from pav_jax.models.mps import hf as mps_hf
from pav_jax.models.weights import params_from_hf
from pav_jax.storage.addresses import as_path
from pav_jax.storage.folders import local_copy, partial_copy
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.typed_fields import check_object

SUPPORTED = (
    "LAION's two aesthetic heads (.pth), CLIP in open_clip's layout, MPS_overall_checkpoint,"
    " VideoScore's folder, VideoReward's folder and HPSv3.safetensors"
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
)
OPEN_CLIP_CONFIG = "open_clip_config.json"
SMALL_FILES = (*TOKENIZER_FILES, OPEN_CLIP_CONFIG)  # that may be beside a file of weights
ACTIVATIONS = ("gelu", "quick_gelu")
MPS_MARKER = "cross_model.layers.0.0.fn.to_q.weight"  # a tensor that only MPS has
MPS_UNUSED = ("post_layernorm.weight", "post_layernorm.bias", "position_ids", "inv_freq", "pos_emb")
NO_SHARDING = f"{10**6}GB"

Tensors = Mapping[str, np.ndarray]


def convert(
    source: str | Path,
    out: str | Path,
    tokenizer: str | Path | None = None,
    activation: str | None = None,
    max_shard_size: str = "5GB",
) -> list[str]:
    """Write the folder `out` from the file or folder `source`.

    Args:
      tokenizer: a folder or Hub repository of a CLIP, whose tokenizer and preprocessing are copied
        for a CLIP or an MPS; None copies those beside `source`. For a VideoReward or an HPSv3, the
        Qwen2-VL that it was trained from.
      activation: of the feed-forward layers of a CLIP or MPS, one of ACTIVATIONS. None takes what
        open_clip_config.json beside `source` says, quick_gelu for OpenAI's files, else gelu.
      max_shard_size: the largest file of weights.

    Returns:
      Remarks for the user: what was guessed and what is missing.

    Raises:
      BadInput: the source is missing, broken or of no supported format.
    """
    path = local_copy(source)
    out = Path(out)
    if not path.is_file():
        _convert_folder(local_folder(source), out, tokenizer, max_shard_size)
        return []
    tensors = read_file(path)
    if qwen2_vl_judges.is_hpsv3(tensors):
        qwen2_vl_judges.convert_hpsv3(tensors, path, out, tokenizer, max_shard_size)
        return []
    if open_clip.MARKER in tensors or MPS_MARKER in tensors:
        beside = partial_copy(as_path(source).parent, SMALL_FILES, is_flat=True)
        activation, remarks = _choose_activation(activation, beside, tensors)
        tokenizer_folder = local_folder(tokenizer, TOKENIZER_FILES) if tokenizer else beside
        convert_clip = _convert_mps if MPS_MARKER in tensors else _convert_open_clip
        convert_clip(tensors, str(path), out, activation, max_shard_size)
        return remarks + _copy_tokenizer(tokenizer_folder, out)
    if tokenizer or activation:
        raise BadInput(
            f"{path}: --tokenizer and --activation apply to a CLIP or an MPS, and this file is"
            " neither",
            source=path,
        )
    if _is_aesthetic_head(tensors):
        _convert_aesthetic_head(tensors, str(path), out)
        return []
    raise BadInput(
        f"{path}: unknown format with {len(tensors)} tensors, the first {next(iter(tensors))!r};"
        f" supported are {SUPPORTED}",
        source=path,
    )


def _convert_folder(
    folder: Path, out: Path, tokenizer: str | Path | None, max_shard_size: str
) -> None:
    """Write `out` from the folder of a VideoReward, an HPSv3 or a VideoScore."""
    if qwen2_vl_judges.is_videoreward(folder):
        qwen2_vl_judges.convert_videoreward(folder, out, tokenizer, max_shard_size)
        return
    files = [] if (folder / "config.json").exists() else sorted(folder.glob("*.safetensors"))
    if len(files) == 1 and qwen2_vl_judges.is_hpsv3(tensors := read_file(files[0])):
        qwen2_vl_judges.convert_hpsv3(tensors, files[0], out, tokenizer, max_shard_size)
        return
    _convert_videoscore(folder, out)


# ---------------------------------------------------------------------------------- aesthetic heads


def _is_aesthetic_head(tensors: Collection[str]) -> bool:
    return set(tensors) == {"weight", "bias"} or all(
        re.fullmatch(r"layers\.\d+\.(weight|bias)", name) for name in tensors
    )


def _convert_aesthetic_head(tensors: Tensors, source: str, out: Path) -> None:
    """Keep the names of the tensors; config.json follows from their shapes."""
    numbers = sorted({int(name.split(".")[1]) for name in tensors if "." in name})
    # a dropout follows each layer but the last two: [0, 2, 4, 6, 7]
    hidden = [2 * i for i in range(len(numbers) - 1)]
    if numbers and numbers != [*hidden, 2 * len(hidden) - 1]:
        raise BadInput(
            f"{source}: layers are numbered {numbers}, the published head's [0, 2, 4, 6, 7]; is it"
            " another head?",
            source=source,
            field="layers",
        )
    prefixes = [f"layers.{i}." for i in numbers] or [""]
    shapes = [_linear_shape(tensors, prefix, source) for prefix in prefixes]
    composes = all(
        inner[0] == outer[1] for inner, outer in zip(shapes[:-1], shapes[1:], strict=True)
    )
    if shapes[-1][0] != 1 or not composes:
        raise BadInput(
            f"{source}: layer shapes {[list(shape) for shape in shapes]} do not compose to a scalar"
            " head",
            source=source,
            field="layers",
        )
    write_tensors(out, {name: np.asarray(array, np.float32) for name, array in tensors.items()})
    fields = {
        "kind": "mlp" if numbers else "linear",
        "input_dim": shapes[0][1],
        "hidden_dims": [shape[0] for shape in shapes[:-1]],
        "activation": None,  # the published head has none
    }
    write_json(out / "config.json", fields)


def _linear_shape(tensors: Tensors, prefix: str, source: str) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer."""
    weight = tensors.get(f"{prefix}weight")
    if weight is None or weight.ndim != 2 or f"{prefix}bias" not in tensors:
        raise BadInput(
            f"{source}: layer {prefix!r} has no weight matrix or no bias; is the file complete?",
            source=source,
            field=f"{prefix}weight",
        )
    outputs, inputs = weight.shape
    return outputs, inputs


# ------------------------------------------------------------------------------------- CLIP and MPS


def _convert_open_clip(
    tensors: Tensors, source: str, out: Path, activation: str, max_shard_size: str
) -> None:
    renamed = open_clip.to_transformers(tensors, source)
    config = open_clip.infer_config(renamed, activation, source)
    table = clip_hf.weights(config)
    params = params_from_hf(table, renamed, source, expected=clip_hf.param_shapes(config))
    folders.save(clip_hf, out, config, params, max_shard_size)


def _convert_mps(
    tensors: Tensors, source: str, out: Path, activation: str, max_shard_size: str
) -> None:
    prefix = mps_hf.CLIP_PREFIX
    clip = {
        name.removeprefix(prefix): array
        for name, array in tensors.items()
        if name.startswith(prefix)
    }
    config = MPSConfig(
        open_clip.infer_config(clip, activation, source), _infer_cross_config(tensors, source)
    )
    table = mps_hf.weights(config)
    used = {name for weight in table for name in weight.hf_names()}
    unknown = [name for name in tensors if name not in used and not name.endswith(MPS_UNUSED)]
    if unknown:
        raise BadInput(
            f"{source}: tensor {unknown[0]!r} does not belong to the published MPS; is it another"
            " version?",
            source=source,
            field=unknown[0],
        )
    params = params_from_hf(table, tensors, source, expected=mps_hf.param_shapes(config))
    folders.save(mps_hf, out, config, params, max_shard_size)


def _infer_cross_config(tensors: Tensors, source: str) -> CrossConfig:
    """The sizes of MPS's cross-attention, from the shapes of its first layer."""
    first_layer = mps_hf.CROSS_PREFIX.format(layer=0) + "0.fn."
    names = [f"{first_layer}{module}.weight" for module in ("to_q", "to_kv", "ff.0")]
    if missing := [name for name in names if name not in tensors]:
        raise BadInput(
            f"{source}: tensor {missing[0]!r} is missing; is the file complete?",
            source=source,
            field=missing[0],
        )
    queries, keys_and_values, feed_forward = (tensors[name].shape[0] for name in names)
    head_dim = keys_and_values // 2
    layers = sum(name.endswith(".0.fn.to_q.weight") for name in tensors)
    return CrossConfig(layers, queries // head_dim, head_dim, feed_forward // 2)


def _choose_activation(
    activation: str | None, folder: Path, tensors: Collection[str]
) -> tuple[str, list[str]]:
    """The activation of the feed-forward layers, and a remark if it is a guess.

    Args:
      folder: of the file with the tensors.
    """
    if activation is not None:
        if activation not in ACTIVATIONS:
            raise BadInput(
                f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}",
                field="activation",
            )
        inferred, reason = _infer_activation(folder, tensors)
        if not reason or inferred == activation:
            return activation, []
        return activation, [
            f"--activation={activation} is used, although {reason}, whose activation is {inferred}"
        ]
    inferred, reason = _infer_activation(folder, tensors)
    if reason:
        return inferred, []
    return inferred, [
        "the activation is assumed to be gelu, as in open_clip's ViT-L-14 and ViT-H-14; OpenAI's"
        " weights need --activation=quick_gelu"
    ]


def _infer_activation(folder: Path, tensors: Collection[str]) -> tuple[str, str]:
    """The activation, and what says so; "" if it is a guess."""
    if MPS_MARKER in tensors:
        return "gelu", "the file is an MPS, fine-tuned from LAION's ViT-H/14"
    open_clip_config = folder / OPEN_CLIP_CONFIG
    if open_clip_config.exists():
        sizes = read_json(open_clip_config).get("model_cfg", {})
        quick = check_object(sizes, str(open_clip_config), "model_cfg").get("quick_gelu")
        return ("quick_gelu" if quick else "gelu"), f"{open_clip_config} describes the model"
    if all(name in tensors for name in open_clip.OPENAI_SIZES):
        marks = ", ".join(open_clip.OPENAI_SIZES)
        return "quick_gelu", f"the file has {marks}, as only OpenAI's own files have"
    return "gelu", ""


def _copy_tokenizer(folder: Path, out: Path) -> list[str]:
    """Copy tokenizer and preprocessing files; return a remark if there is no tokenizer."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if any((out / name).exists() for name in ("tokenizer.json", "vocab.json")):
        return []
    return [
        f"no tokenizer in {folder}, and texts need one: copy CLIP's into the new folder, or name"
        " its folder with --tokenizer"
    ]


# --------------------------------------------------------------------------------------- VideoScore


def _convert_videoscore(folder: Path, out: Path) -> None:
    """Copy and check a folder; torch's .bin files become safetensors, one at a time."""
    fields = read_json(folder / "config.json")
    if (kind := fields.get("model_type")) != "idefics2":
        raise BadInput(
            f"{folder}: model_type is {kind!r}; supported are {SUPPORTED}, whose model_type is"
            " 'idefics2'",
            source=folder / "config.json",
            field="model_type",
        )

    def check(names: Collection[str]) -> None:
        _check_videoscore(fields, names, folder)

    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        _convert_bin_files(folder, out, check)
    else:
        check(read_tensors(folder, (idefics2_hf.STEM,)))
        _copy_files(folder, out, ("*.safetensors", "*.safetensors.index.json"))
    patterns = ("*.json", "*.jinja", "*.model", "merges.txt")
    _copy_files(folder, out, patterns, exclude="*.index.json")


def _check_videoscore(fields: Mapping[str, Any], names: Collection[str], folder: Path) -> None:
    config = idefics2_hf.config_from_hf(fields, str(folder / "config.json"))
    table = idefics2_hf.weights(idefics2_hf.fit_config(config, names))
    missing = [name for weight in table for name in weight.hf_names() if name not in names]
    if missing:
        raise BadInput(
            f"{folder}: tensor {missing[0]!r} is missing; VideoScore is an Idefics2 with a score"
            " head",
            source=folder,
            field=missing[0],
        )


def _convert_bin_files(folder: Path, out: Path, check: Callable[[Collection[str]], None]) -> None:
    index = folder / "pytorch_model.bin.index.json"
    if not index.exists():
        tensors = read_file(folder / "pytorch_model.bin")
        check(tensors)
        write_tensors(out, tensors)
        return
    weight_map = read_weight_map(index)
    check(weight_map)
    new_names = {
        file: re.sub(r"^pytorch_model(.*)\.bin$", r"model\1.safetensors", file)
        for file in dict.fromkeys(weight_map.values())
    }
    total = 0
    for file, new_name in new_names.items():
        tensors = read_file(folder / file)
        total += sum(array.nbytes for array in tensors.values())
        write_tensors(out, tensors, new_name.removesuffix(".safetensors"), NO_SHARDING)
    write_json(
        out / "model.safetensors.index.json",
        {
            "metadata": {"total_size": total},
            "weight_map": {name: new_names[file] for name, file in weight_map.items()},
        },
    )


def _copy_files(
    folder: Path, out: Path, patterns: Iterable[str], exclude: str | None = None
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in {path for pattern in patterns for path in folder.glob(pattern)}:
        if exclude is None or not path.match(exclude):
            shutil.copyfile(path, out / path.name)
