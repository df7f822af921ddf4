"""Reward models as their authors publish them, made into folders that our rewards load: config.json
beside safetensors, in the Hugging Face layout where there is one.

Known, by what is in the file and not by its name:
- LAION's aesthetic heads (sa_0_4_vit_l_14_linear.pth, sac+logos+ava1-l14-linearMSE.pth), for
  `rewards.aesthetic`;
- CLIP in open_clip's or OpenAI's layout, for `rewards.clip_tower`;
- MPS_overall_checkpoint, a state dict or the whole pickled model, for `rewards.mps`;
- a VideoScore folder, for `rewards.videoscore`, which reads that layout as it is.
"""

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints import open_clip
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.safetensors import read_tensors, write_tensors
from pav_jax.checkpoints.torch_files import read_file
from pav_jax.errors import BadInput
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.mps import CrossConfig, MPSConfig
from pav_jax.models.mps import hf as mps_hf
from pav_jax.models.weights import params_from_hf
from pav_jax.storage.json_files import read_json, write_json

KNOWN = (
    "LAION's two aesthetic heads (.pth), CLIP in open_clip's layout, MPS_overall_checkpoint and"
    " VideoScore's folder"
)
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
)
ACTIVATIONS = ("gelu", "quick_gelu")
MPS_MARK = "cross_model.layers.0.0.fn.to_q.weight"
MPS_UNUSED = ("post_layernorm.weight", "post_layernorm.bias", "position_ids", "inv_freq", "pos_emb")


def convert(
    source: str | Path,
    out: str | Path,
    tokenizer: str | Path | None = None,
    activation: str | None = None,
    max_shard_size: str = "5GB",
) -> list[str]:
    """Writes the folder `out` from the file or folder `source`.

    Args:
      tokenizer: the folder (or hub id) of a CLIP whose tokenizer and preprocessing a CLIP or an MPS
        gets; where None, those that lie beside `source`.
      activation: of a CLIP's feed-forward, one of ACTIVATIONS; where None, what
        open_clip_config.json beside `source` says, quick_gelu for OpenAI's files, and else gelu.

    Returns:
      What the user should know of the result: lines on what was guessed and what is missing.

    Raises:
      BadInput: nothing there, a broken file, or a layout that is not known.
    """
    path, out = Path(source), Path(out)
    if not path.is_file():
        return _videoscore(local_folder(source), out)
    tensors = read_file(path)
    if open_clip.MARK in tensors or MPS_MARK in tensors:
        activation, remarks = _activation(activation, path, tensors)
        beside = local_folder(tokenizer, COMPANIONS) if tokenizer else path.parent
        make = _mps if MPS_MARK in tensors else _open_clip
        make(tensors, str(path), out, activation, max_shard_size)
        return remarks + _companions(beside, out)
    if tokenizer or activation:
        raise BadInput(
            f"{path}: --tokenizer and --activation are for a CLIP or an MPS, and this file is"
            " neither"
        )
    if set(tensors) == {"weight", "bias"} or all(
        re.fullmatch(r"layers\.\d+\.(weight|bias)", n) for n in tensors
    ):
        _aesthetic_head(tensors, str(path), out)
        return []
    raise BadInput(
        f"{path}: {len(tensors)} tensors, the first {next(iter(tensors))!r}, are of no known"
        f" layout; known are {KNOWN}"
    )


# ---------------------------------------------------------------------------------- aesthetic heads


def _aesthetic_head(tensors: dict[str, np.ndarray], source: str, out: Path) -> None:
    """The names stay; what config.json says is read off the shapes."""
    numbers = sorted({int(name.split(".")[1]) for name in tensors if "." in name})
    names = [f"layers.{i}." for i in numbers] or [""]
    inner = [2 * i for i in range(len(numbers) - 1)]  # a dropout follows each, but for the last two
    if numbers and numbers != [*inner, 2 * len(inner) - 1]:
        raise BadInput(
            f"{source}: layers {numbers} are not numbered as the published head's, [0, 2, 4, 6, 7]"
        )
    shapes = [
        tensors[f"{name}weight"].shape if f"{name}weight" in tensors else () for name in names
    ]
    if any(len(shape) != 2 for shape in shapes) or any(
        f"{name}bias" not in tensors for name in names
    ):
        raise BadInput(f"{source}: a layer lacks its weight matrix or its bias; is the file whole?")
    if shapes[-1][0] != 1 or any(a[0] != b[1] for a, b in zip(shapes, shapes[1:], strict=False)):
        raise BadInput(
            f"{source}: weights of shapes {[list(s) for s in shapes]} are no chain down to one"
            " score"
        )
    write_tensors(out, {name: np.asarray(array, np.float32) for name, array in tensors.items()})
    write_json(
        out / "config.json",
        {
            "kind": "mlp" if numbers else "linear",
            "input_dim": shapes[0][1],
            "hidden_dims": [shape[0] for shape in shapes[:-1]],
            "activation": None,
        },
    )  # as published: nothing between


# ------------------------------------------------------------------------------------- CLIP and MPS


def _open_clip(
    tensors: dict[str, np.ndarray], source: str, out: Path, activation: str, max_shard_size: str
) -> None:
    named = open_clip.to_transformers(tensors, source)
    config = open_clip.sizes(named, activation, source)
    params = params_from_hf(
        clip_hf.weights(config), named, source, expected=clip_hf.param_shapes(config)
    )
    folders.save(clip_hf, out, config, params, max_shard_size)


def _mps(
    tensors: dict[str, np.ndarray], source: str, out: Path, activation: str, max_shard_size: str
) -> None:
    prefix, reading = mps_hf.CLIP_PREFIX, mps_hf.CROSS_PREFIX + "0.fn."
    clip = {
        name.removeprefix(prefix): array
        for name, array in tensors.items()
        if name.startswith(prefix)
    }
    first = {part: f"{reading.format(layer=0)}{part}.weight" for part in ("to_q", "to_kv", "ff.0")}
    if missing := [name for name in first.values() if name not in tensors]:
        raise BadInput(f"{source}: tensor {missing[0]!r} is missing; is the file whole?")
    queries, key_and_value, feed_forward = (tensors[name].shape[0] for name in first.values())
    head_dim = key_and_value // 2
    layers = sum(name.endswith(".0.fn.to_q.weight") for name in tensors)
    config = MPSConfig(
        open_clip.sizes(clip, activation, source),
        CrossConfig(layers, queries // head_dim, head_dim, feed_forward // 2),
    )
    table = mps_hf.weights(config)
    used = {name for row in table for name in row.hf_names()}
    if extra := [name for name in tensors if name not in used and not name.endswith(MPS_UNUSED)]:
        raise BadInput(
            f"{source}: tensor {extra[0]!r} has no place in the published MPS; is it another"
            " version?"
        )
    folders.save(
        mps_hf,
        out,
        config,
        params_from_hf(table, tensors, source, expected=mps_hf.param_shapes(config)),
        max_shard_size,
    )


def _activation(given: str | None, path: Path, tensors: Iterable[str]) -> tuple[str, list[str]]:
    """The feed-forwards' activation, which no tensor tells, and a remark where it is a guess."""
    beside = path.parent / "open_clip_config.json"
    if given is not None:
        if given not in ACTIVATIONS:
            raise BadInput(f"activation is {given!r}; choose one of {', '.join(ACTIVATIONS)}")
        return given, []
    if MPS_MARK in tensors:  # tuned from laion's ViT-H/14
        return "gelu", []
    if beside.exists():
        return (
            "quick_gelu" if read_json(beside).get("model_cfg", {}).get("quick_gelu") else "gelu"
        ), []
    if all(name in tensors for name in open_clip.OPENAI_SIZES):
        return "quick_gelu", []
    return "gelu", [
        "the activation is taken to be gelu, as in open_clip's ViT-L-14 and ViT-H-14; weights"
        " trained with OpenAI's need --activation=quick_gelu"
    ]


def _companions(folder: Path, out: Path) -> list[str]:
    """Copies tokenizer and preprocessing; a remark where there is no tokenizer."""
    for name in COMPANIONS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if any((out / name).exists() for name in ("tokenizer.json", "vocab.json")):
        return []
    return [
        f"no tokenizer lies in {folder}; texts need one: put CLIP's into the new folder, or name"
        " its folder with --tokenizer"
    ]


# --------------------------------------------------------------------------------------- VideoScore


def _videoscore(folder: Path, out: Path) -> list[str]:
    """A checked copy, torch's .bin files turned into safetensors one by one."""
    from pav_jax.models.idefics2 import hf

    fields = read_json(folder / "config.json")
    if (kind := fields.get("model_type")) != "idefics2":
        raise BadInput(
            f"{folder}: a folder with model_type {kind!r}; known are {KNOWN}, whose model_type is"
            " 'idefics2'"
        )
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        check = lambda names: _check_videoscore(hf, fields, names, folder)  # noqa: E731
        _bins_to_safetensors(folder, out, check)
    else:
        tensors = read_tensors(folder, (hf.STEM,))
        _check_videoscore(hf, fields, tensors, folder)
        _copy(folder, out, ("*.safetensors", "*.safetensors.index.json"))
    _copy(folder, out, ("*.json", "*.jinja", "*.model", "merges.txt"), ("*.index.json",))
    return []


def _check_videoscore(
    hf: folders.Layout, fields: Mapping, names: Collection[str], folder: Path
) -> None:
    config = hf.fit_config(hf.config_from_hf(fields, str(folder / "config.json")), names)
    if missing := [
        name for row in hf.weights(config) for name in row.hf_names() if name not in names
    ]:
        raise BadInput(
            f"{folder}: tensor {missing[0]!r} is missing, so this is not VideoScore, an Idefics2"
            " with a head of scores"
        )


def _bins_to_safetensors(folder: Path, out: Path, check: Callable) -> None:
    index = folder / "pytorch_model.bin.index.json"
    if not index.exists():
        tensors = read_file(folder / "pytorch_model.bin")
        check(tensors)
        write_tensors(out, tensors)
        return
    weight_map = read_json(index)["weight_map"]
    check(weight_map)
    renamed = {
        file: re.sub(r"^pytorch_model(.*)\.bin$", r"model\1.safetensors", file)
        for file in dict.fromkeys(weight_map.values())
    }
    total = 0
    for file, new in renamed.items():
        tensors = read_file(folder / file)
        total += sum(array.nbytes for array in tensors.values())
        write_tensors(out, tensors, new.removesuffix(".safetensors"), f"{10**6}GB")
    write_json(
        out / "model.safetensors.index.json",
        {
            "metadata": {"total_size": total},
            "weight_map": {name: renamed[file] for name, file in weight_map.items()},
        },
    )


def _copy(folder: Path, out: Path, patterns: Iterable[str], but: Iterable[str] = ()) -> None:
    out.mkdir(parents=True, exist_ok=True)
    left_out = {path for pattern in but for path in folder.glob(pattern)}
    for path in {path for pattern in patterns for path in folder.glob(pattern)} - left_out:
        shutil.copyfile(path, out / path.name)
