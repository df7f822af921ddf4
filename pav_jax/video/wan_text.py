"""How Wan reads prompts: cleaned first, encoded without the padding.

Source: diffusers' `WanPipeline`.
"""

import html
import re
from collections.abc import Mapping
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.t5 import T5Encoder

MAX_TEXT_TOKENS = 512  # diffusers' max_sequence_length for Wan


def encode_without_padding(
    encoder: T5Encoder, params: Mapping, ids_BxS: Int[Array, "B S"]
) -> tuple[Float[Array, "B S U"], Bool[Array, "B S"]]:
    """Encodes texts as Wan reads them: the encoder masks the padding, the transformer sees zeros.

    Returns:
      The embeddings, zero at the padding, and the mask of tokens that are not padding.
    """
    lengths = jnp.arange(1, ids_BxS.shape[1] + 1)
    # a text ends with a token that is not padding: everything after the last of these is
    not_padding = ids_BxS != encoder.config.pad_id
    length_Bx1 = jnp.where(not_padding, lengths, 0).max(axis=1, keepdims=True)
    mask_BxS = lengths <= length_Bx1
    text_BxSxU = cast(Array, encoder.apply({"params": params}, ids_BxS, mask_BxS))
    return jnp.where(mask_BxS[..., None], text_BxSxU, 0), mask_BxS


def clean(text: str) -> str:
    """A prompt as diffusers' Wan pipeline cleans it: ftfy's fixes, HTML entities resolved twice,
    runs of white space replaced by one space."""
    import ftfy  # slow to import

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text))).strip()).strip()
