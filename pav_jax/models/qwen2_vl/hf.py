"""Qwen2-VL checkpoints with a reward head, both ways.

Apart from the head, fields and tensor names are those of transformers 4's Qwen2-VL, which version 5
also reads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.decoder import hf as decoder_hf
from pav_jax.models.decoder.families.family import refuse
from pav_jax.models.qwen2_vl.config import HeadConfig, Qwen2VLConfig, Sections, VisionConfig
from pav_jax.models.qwen2_vl.model import Qwen2VL
from pav_jax.models.weights import Weight, linear, norm
from pav_jax.typed_fields import TokenId, check_object, read_fields, read_value

STEM = "model"
MODEL_TYPE = "qwen2_vl"
# beginnings of names in transformers 5 -> in version 4 and in published files
PREFIXES = {"model.visual.": "visual.", "model.language_model.": "model."}
HEADS = ("rm_head", "score")  # of VideoReward and HPSv3, and of VideoScore-Qwen2-VL
DEFAULT_SECTIONS = (16, 24, 24)
# Our field -> (transformers' field, transformers' default).
VISION_FIELDS = {
    "width": ("embed_dim", 1280),
    "out_width": ("hidden_size", 3584),
    "layers": ("depth", 32),
    "heads": ("num_heads", 16),
    "channels": ("in_channels", 3),
    "patch_size": ("patch_size", 14),
    "temporal_patch_size": ("temporal_patch_size", 2),
    "merge_size": ("spatial_merge_size", 2),
    "mlp_ratio": ("mlp_ratio", 4),
    "activation": ("hidden_act", "quick_gelu"),
}
# transformers' defaults for the language model
TEXT_DEFAULTS = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
# fields of a Qwen2 config that Qwen2-VL's does not have, or that are those of the whole model
NOT_TEXT = ("architectures", "model_type", "torch_dtype", "head_dim", "layer_types")


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """The fields of config.json that neither the vision tower nor the language model has."""

    image_token_id: TokenId = 151655
    video_token_id: TokenId = 151656


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> Qwen2VLConfig:
    """Read a config.json, with the fields of the language model at the top (transformers 4) or in
    `text_config` (version 5).

    Raises:
      BadInput: another architecture, an unknown activation, or an unsupported size.
    """
    if (kind := hf.get("model_type")) != MODEL_TYPE:
        raise BadInput(
            f"{source}: model_type is {str(kind)[:60]!r}; a Qwen2-VL checkpoint ({MODEL_TYPE!r}) is"
            " needed",
            source=source,
            field="model_type",
        )
    nested = check_object(hf.get("text_config") or {}, source, "text_config")
    text = {**TEXT_DEFAULTS, **{k: v for k, v in (nested or hf).items() if v is not None}}
    refuse(text, "use_sliding_window", source, "windows are not supported in Qwen2-VL")
    section = "rope_parameters" if text.get("rope_parameters") else "rope_scaling"
    rope = dict(check_object(text.get(section) or {}, source, section))
    sections = rope.pop("mrope_section", None) or DEFAULT_SECTIONS
    for field in ("type", "rope_type"):
        if rope.get(field) == "mrope":
            rope[field] = "default"
    text |= {section: rope, "model_type": "qwen2"}
    config = decoder_hf.config_from_hf(text, source)
    vision = fields.read_section(
        VisionConfig, hf.get("vision_config") or {}, VISION_FIELDS, source, "vision_config"
    )
    ids = {f.name: hf[f.name] for f in dataclasses.fields(TokenIds) if hf.get(f.name) is not None}
    result = Qwen2VLConfig(
        # the reward head takes the place of the output matrix
        text=dataclasses.replace(config, tie_word_embeddings=True),
        vision=vision,
        sections=read_value(list(sections), Sections, source, f"{section}.mrope_section"),
        **dataclasses.asdict(read_fields(TokenIds, ids, source)),
    )
    _check_sizes(result, source)
    return result


def _check_sizes(config: Qwen2VLConfig, source: str) -> None:
    """Check what fields say about each other."""
    text, vision = config.text, config.vision
    half = text.head_dim // 2
    problem = None
    if sum(config.sections) != half:
        field = "mrope_section"
        problem = f"is {list(config.sections)}; the sum must be half the head size, {half}"
    elif vision.out_width != text.hidden_size:
        field = "vision_config.hidden_size"
        problem = f"is {vision.out_width}; it must be the language model's {text.hidden_size}"
    elif vision.width // vision.heads % 4:
        field = "vision_config.num_heads"
        problem = f"is {vision.heads}; the size of a head must be a multiple of 4"
    if problem is not None:
        raise BadInput(f"{source}: {field} {problem}", source=source, field=field)


def fit_config(
    config: Qwen2VLConfig, tensors: Mapping[str, np.ndarray], source: str
) -> Qwen2VLConfig:
    """Set the head from its tensors: no field of config.json describes it.

    Raises:
      BadInput: there is no head.
    """
    names = [name for name in tensors if name.split(".")[0] in HEADS and name.endswith(".weight")]
    if not names:
        raise BadInput(
            f"{source}: no tensor of a reward head ({' or '.join(HEADS)}); Qwen2-VL without one"
            " gives no scores",
            source=source,
            field=HEADS[0],
        )
    layers = sorted((name.removesuffix(".weight") for name in names), key=_layer_number)
    widths = tuple(len(tensors[f"{name}.weight"]) for name in layers)
    head = HeadConfig(tuple(layers), widths, f"{layers[0]}.bias" in tensors)
    return dataclasses.replace(config, head=head)


def _layer_number(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def config_to_hf(config: Qwen2VLConfig) -> dict[str, Any]:
    """Return a config.json that transformers' `Qwen2VLConfig` reads."""
    text = decoder_hf.config_to_hf(config.text)
    vision = fields.write_section(config.vision, VISION_FIELDS)
    return {
        **{name: value for name, value in text.items() if name not in NOT_TEXT},
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.sections)},
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "vision_config": vision | {"model_type": MODEL_TYPE},
        "torch_dtype": "float32",
    }


def weights(config: Qwen2VLConfig) -> list[Weight]:
    """Return the weight table."""
    rows = _vision(config.vision)
    for row in decoder_hf.weights(config.text):
        rows.append(dataclasses.replace(row, path=f"text/{row.path}"))
    for i, name in enumerate(config.head.tensors):
        path = f"head/layer_{i}"
        rows.append(Weight(f"{name}.weight", f"{path}/kernel", "linear", ("embed", None)))
        if config.head.bias:
            rows.append(Weight(f"{name}.bias", f"{path}/bias", axes=(None,)))
    return rows


def _vision(config: VisionConfig) -> list[Weight]:
    layers = config.layers
    width = config.width
    layer = "visual.blocks.{layer}"
    path = "vision/layers"
    patch_axes = (None, None, None, None, "embed")
    rows = [
        Weight("visual.patch_embed.proj.weight", "vision/patch_embedding", "conv3d", patch_axes),
        *norm(f"{layer}.norm1", f"{path}/norm1", "embed", layers),
        *norm(f"{layer}.norm2", f"{path}/norm2", "embed", layers),
        *linear(f"{layer}.attn.proj", f"{path}/attention/out_proj", ("heads", "embed"), layers),
        *linear(f"{layer}.mlp.fc1", f"{path}/fc1", ("embed", "mlp"), layers),
        *linear(f"{layer}.mlp.fc2", f"{path}/fc2", ("mlp", "embed"), layers),
        *norm("visual.merger.ln_q", "vision/final_norm", "embed"),
        *linear("visual.merger.mlp.0", "vision/merge1", ("embed", "mlp")),
        *linear("visual.merger.mlp.2", "vision/merge2", ("mlp", "embed")),
    ]
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        rows += [
            dataclasses.replace(row, rows=(i * width, (i + 1) * width, 3 * width))
            for row in linear(
                f"{layer}.attn.qkv", f"{path}/attention/{name}", ("embed", "heads"), layers
            )
        ]
    return rows


def param_shapes(config: Qwen2VLConfig) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    vision = config.vision
    side = vision.patch_size * vision.merge_size
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    frames = jax.ShapeDtypeStruct(
        (1, 1, vision.temporal_patch_size, side, side, vision.channels), jnp.float32
    )
    mask = jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    positions = jax.ShapeDtypeStruct((1, 2, 3), jnp.int32)
    init = Qwen2VL(config).init
    return jax.eval_shape(init, jax.random.key(0), ids, mask, positions, frames, ids)["params"]
