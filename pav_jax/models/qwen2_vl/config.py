"""Sizes of Qwen2-VL and of its head."""

import dataclasses
from typing import Annotated

from pav_jax.models.decoder import DecoderConfig
from pav_jax.typed_fields import Depth, Length, TokenId

Sections = Annotated[tuple[int, ...], Length(3, 3)]


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower; defaults: Qwen2-VL of all published sizes.

    Attributes:
      out_width: of the vectors that the language model reads.
      patch_size: pixels of a patch's side.
      temporal_patch_size: frames of a patch; an image is repeated as often.
      merge_size: side of the square of patches that become one vector.
      mlp_ratio: units of the feed-forward layer per feature.
    """

    width: int = 1280
    out_width: int = 1536
    layers: Depth = 32
    heads: int = 16
    channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    mlp_ratio: int = 4
    activation: str = "quick_gelu"


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The layers that turn a hidden vector into scores, with ReLU between them.

    Attributes:
      tensors: name in the checkpoint of each layer, without ".weight".
      widths: outputs of each layer; the last one's are the scores.
      bias: whether the layers have biases.
    """

    tensors: tuple[str, ...] = ("rm_head",)
    widths: tuple[int, ...] = (1,)
    bias: bool = False


@dataclasses.dataclass(frozen=True)
class Qwen2VLConfig:
    """Sizes of the parts.

    Attributes:
      sections: features of a head's half that turn with the time, the row and the column of a
        token (M-RoPE, arXiv 2409.12191, section 2.1).
      image_token_id, video_token_id: tokens that stand for a vector of the vision tower.
    """

    text: DecoderConfig
    vision: VisionConfig = VisionConfig()
    head: HeadConfig = HeadConfig()
    sections: Sections = (16, 24, 24)
    image_token_id: TokenId = 151655
    video_token_id: TokenId = 151656
