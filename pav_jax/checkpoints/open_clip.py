"""CLIP as open_clip and OpenAI publish it: tensors under transformers' names, and the configuration
inferred from their shapes."""

import math
import re
from collections.abc import Mapping

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.models.clip.model import CLIPConfig, TextConfig, VisionConfig

# a tensor that only open_clip's layout has
MARKER = "visual.transformer.resblocks.0.attn.in_proj_weight"
# entries that only OpenAI's own files have
OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
NOT_WEIGHTS = (*OPENAI_SIZES, "attn_mask")

# open_clip's name -> (transformers' name, whether the matrix is transposed: open_clip multiplies
# from the other side)
SINGLE = {
    "positional_embedding": ("text_model.embeddings.position_embedding.weight", False),
    "token_embedding.weight": ("text_model.embeddings.token_embedding.weight", False),
    "ln_final.weight": ("text_model.final_layer_norm.weight", False),
    "ln_final.bias": ("text_model.final_layer_norm.bias", False),
    "text_projection": ("text_projection.weight", True),
    "logit_scale": ("logit_scale", False),
    "visual.class_embedding": ("vision_model.embeddings.class_embedding", False),
    "visual.positional_embedding": ("vision_model.embeddings.position_embedding.weight", False),
    "visual.conv1.weight": ("vision_model.embeddings.patch_embedding.weight", False),
    "visual.ln_pre.weight": ("vision_model.pre_layrnorm.weight", False),
    "visual.ln_pre.bias": ("vision_model.pre_layrnorm.bias", False),
    "visual.ln_post.weight": ("vision_model.post_layernorm.weight", False),
    "visual.ln_post.bias": ("vision_model.post_layernorm.bias", False),
    "visual.proj": ("visual_projection.weight", True),
}
IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
QKV = "attn.in_proj"  # query, key and value in one matrix
LAYER = re.compile(
    r"(?P<visual>visual\.)?transformer\.resblocks\.(?P<number>\d+)\.(?P<module>.+)[._](?P<kind>weight|bias)"
)

# The width of one head, which no tensor tells: 64 except in the vision towers of ViT-H/14, ViT-g/14
# and ViT-bigG/14, here by the width of the tower (open_clip's model_configs).
HEAD_WIDTH = 64
VISION_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}


def to_transformers(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Rename tensors to those of transformers' `CLIPModel`.

    Args:
      source: the file, for messages.

    Raises:
      BadInput: a tensor that a CLIP with two plain transformers does not have.
    """
    renamed = {}
    for name, array in tensors.items():
        if name in NOT_WEIGHTS:
            continue
        if name in SINGLE:
            new_name, transposed = SINGLE[name]
            renamed[new_name] = array.T if transposed else array
        else:
            renamed |= _layer_tensors(name, array, source)
    if "logit_scale" in renamed:  # some versions have an array of one element
        renamed["logit_scale"] = renamed["logit_scale"].reshape(())
    return renamed


def _layer_tensors(name: str, array: np.ndarray, source: str) -> dict[str, np.ndarray]:
    match = LAYER.fullmatch(name)
    if not match or match["module"] not in (*IN_LAYER, QKV):
        raise BadInput(
            f"{source}: tensor {name!r} does not belong to a plain CLIP; supported open_clip models"
            " are those like ViT-L-14 and ViT-H-14",
            source=source,
            field=name,
        )
    tower = "vision" if match["visual"] else "text"
    layer = f"{tower}_model.encoder.layers.{match['number']}"
    if match["module"] == QKV:
        parts = zip("qkv", np.split(array, 3), strict=True)
        return {f"{layer}.self_attn.{part}_proj.{match['kind']}": rows for part, rows in parts}
    return {f"{layer}.{IN_LAYER[match['module']]}.{match['kind']}": array}


def infer_config(tensors: Mapping[str, np.ndarray], activation: str, source: str) -> CLIPConfig:
    """Infer the configuration from tensors under transformers' names.

    The last two ids of the vocabulary are taken to begin and end a text, as in CLIP's own.

    Args:
      activation: of the feed-forward layers, which no tensor tells.
      source: the file, for messages.

    Raises:
      BadInput: a tensor that every CLIP has is missing, or a width is of no known model.
    """
    vocabulary, text_width = _shape(tensors, "text_model.embeddings.token_embedding.weight", source)
    vision_width, channels, patch, _ = _shape(
        tensors, "vision_model.embeddings.patch_embedding.weight", source
    )
    positions = "vision_model.embeddings.position_embedding.weight"
    patches = _shape(tensors, positions, source)[0] - 1  # one position is the class token's
    side = math.isqrt(patches)
    if side**2 != patches:
        raise BadInput(
            f"{source}: tensor {positions} has {patches} patch positions, which is not a square;"
            " this is not a supported CLIP",
            source=source,
            field=positions,
        )
    vision_head_width = VISION_HEAD_WIDTHS.get(vision_width, HEAD_WIDTH)
    text_positions = "text_model.embeddings.position_embedding.weight"
    return CLIPConfig(
        text=TextConfig(
            vocab_size=vocabulary,
            positions=_shape(tensors, text_positions, source)[0],
            bos_id=vocabulary - 2,
            eos_id=vocabulary - 1,
            activation=activation,
            **_tower_sizes(tensors, "text", text_width, HEAD_WIDTH, source),
        ),
        vision=VisionConfig(
            channels=channels,
            patch_size=patch,
            image_size=side * patch,
            activation=activation,
            **_tower_sizes(tensors, "vision", vision_width, vision_head_width, source),
        ),
        projection_dim=_shape(tensors, "text_projection.weight", source)[0],
    )


def _shape(tensors: Mapping[str, np.ndarray], name: str, source: str) -> tuple[int, ...]:
    if name not in tensors:
        raise BadInput(
            f"{source}: tensor {name!r} is missing; is the file complete?",
            source=source,
            field=name,
        )
    return tensors[name].shape


def _tower_sizes(
    tensors: Mapping[str, np.ndarray], tower: str, width: int, head_width: int, source: str
) -> dict[str, int]:
    if width % head_width:
        raise BadInput(
            f"{source}: the {tower} tower is {width} wide, not a multiple of {head_width}; this is"
            " not a supported CLIP",
            source=source,
        )
    layer = re.compile(rf"{tower}_model\.encoder\.layers\.(\d+)\.layer_norm1\.weight")
    return {
        "width": width,
        "heads": width // head_width,
        "layers": sum(bool(layer.fullmatch(name)) for name in tensors),
        "ff_width": _shape(tensors, f"{tower}_model.encoder.layers.0.mlp.fc1.weight", source)[0],
    }
