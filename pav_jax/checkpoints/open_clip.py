"""CLIP as open_clip and OpenAI publish it, put into transformers' names, and a CLIP's sizes read
off its tensors."""

import math
import re
from collections.abc import Mapping

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.models.clip.model import CLIPConfig, TextConfig, VisionConfig

MARK = (  # where this is, the layout is open_clip's
    "visual.transformer.resblocks.0.attn.in_proj_weight"
)
OPENAI_SIZES = (
    "input_resolution",
    "context_length",
    "vocab_size",
)  # numbers that only OpenAI's own files hold
NOT_WEIGHTS = (*OPENAI_SIZES, "attn_mask")

# open_clip's name -> (transformers' name, whether the matrix is turned: open_clip multiplies from
# the other side)
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
LAYER = re.compile(
    r"(?P<visual>visual\.)?transformer\.resblocks\.(?P<number>\d+)\.(?P<module>.+)[._](?P<kind>weight|bias)"
)

# Width of one head. No tensor tells it: 64 everywhere but in these vision towers (open_clip's
# model_configs).
HEAD_WIDTH, VISION_HEAD_WIDTHS = (
    64,
    {1280: 80, 1408: 88, 1664: 104},
)  # ViT-H/14, ViT-g/14, ViT-bigG/14


def to_transformers(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The tensors under the names of transformers' `CLIPModel`.

    Raises:
      BadInput: a tensor that a plain CLIP with two transformers does not have.
    """
    found = {}
    for name, array in tensors.items():
        if name in NOT_WEIGHTS:
            continue
        if name in SINGLE:
            theirs, turned = SINGLE[name]
            found[theirs] = array.T if turned else array
            continue
        place = LAYER.fullmatch(name)
        if not place or place["module"] not in (*IN_LAYER, "attn.in_proj"):
            raise BadInput(
                f"{source}: tensor {name!r} has no place in a plain CLIP, so this open_clip model"
                " is of another kind; ViT-L-14 and ViT-H-14 are known"
            )
        layer = f"{'vision' if place['visual'] else 'text'}_model.encoder.layers.{place['number']}"
        if place["module"] in IN_LAYER:
            found[f"{layer}.{IN_LAYER[place['module']]}.{place['kind']}"] = array
        else:  # query, key and value in one
            for part, rows in zip("qkv", np.split(array, 3), strict=True):
                found[f"{layer}.self_attn.{part}_proj.{place['kind']}"] = rows
    if "logit_scale" in found:  # some versions keep it as a list of one
        found["logit_scale"] = found["logit_scale"].reshape(())
    return found


def sizes(tensors: Mapping[str, np.ndarray], activation: str, source: str) -> CLIPConfig:
    """The configuration that fits tensors under transformers' names. The last two ids of the
    vocabulary begin and end a text, as in CLIP's own.

    Raises:
      BadInput: a tensor that every CLIP has is missing, or a width is of no known model.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise BadInput(f"{source}: tensor {name!r} is missing; is the file whole?")
        return tensors[name].shape

    def tower(side: str, width: int, head_width: int) -> dict:
        if width % head_width:
            raise BadInput(
                f"{source}: the {side} tower is {width} wide, no multiple of {head_width}; no such"
                " CLIP is known"
            )
        layer = re.compile(rf"{side}_model\.encoder\.layers\.(\d+)\.layer_norm1\.weight")
        return dict(
            width=width,
            heads=width // head_width,
            layers=sum(bool(layer.fullmatch(name)) for name in tensors),
            ff_width=shape(f"{side}_model.encoder.layers.0.mlp.fc1.weight")[0],
            activation=activation,
        )

    vocabulary, text_width = shape("text_model.embeddings.token_embedding.weight")
    vision_width, channels, patch, _ = shape("vision_model.embeddings.patch_embedding.weight")
    patches = (
        shape("vision_model.embeddings.position_embedding.weight")[0] - 1
    )  # one is the class token's
    if (side := math.isqrt(patches)) ** 2 != patches:
        raise BadInput(
            f"{source}: positions for {patches} patches, which fill no square; no such CLIP is"
            " known"
        )
    return CLIPConfig(
        text=TextConfig(
            vocab_size=vocabulary,
            positions=shape("text_model.embeddings.position_embedding.weight")[0],
            bos_id=vocabulary - 2,
            eos_id=vocabulary - 1,
            **tower("text", text_width, HEAD_WIDTH),
        ),
        vision=VisionConfig(
            channels=channels,
            patch_size=patch,
            image_size=side * patch,
            **tower("vision", vision_width, VISION_HEAD_WIDTHS.get(vision_width, HEAD_WIDTH)),
        ),
        projection_dim=shape("text_projection.weight")[0],
    )
