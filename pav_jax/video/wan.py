"""The Wan 2.1 family: which parts a diffusers folder holds, how they fit together, and what of
sampling is its own.

Source: diffusers' `WanPipeline` (folder layout, sizes, cleaning and masking of text); Wan Team 2025
(arXiv 2503.20314).

Shapes: B videos, S text tokens, U text width; T, H, W frames, height, width of the video in pixels;
t, h, w, C those of the latent and its channels.
"""

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.wan import transformer_hf, vae_hf
from pav_jax.models.wan.transformer import WanTransformer
from pav_jax.models.wan.vae import WanVAE
from pav_jax.storage.json_files import read_json
from pav_jax.video import pipeline_folder, schedulers, tokenization
from pav_jax.video.decoding import (
    Latents,
    PixelsOrShapes,
    Run,
    join_frames,
    to_pixels,
)
from pav_jax.video.family import Family
from pav_jax.video.generation_config import GenerationConfig

# diffusers' max_sequence_length for Wan
MAX_TEXT_TOKENS = 512
# the name of each scheduler's shift of the noise levels, and fields it needs to sample a flow
FLOW_SETTINGS = {
    "UniPCMultistepScheduler": (
        "flow_shift",
        dict(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ),
    "FlowMatchEulerDiscreteScheduler": ("shift", {}),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Wan(Family):
    """The family of Wan pipelines."""

    transformer: WanTransformer
    vae: WanVAE
    scheduler: schedulers.Scheduler
    default_sequence_length: int = MAX_TEXT_TOKENS

    pipeline = "WanPipeline"
    display_name = "a Wan"
    layouts = {"text_encoder": t5_hf, "transformer": transformer_hf, "vae": vae_hf}
    components = ("tokenizer", *layouts, "scheduler")
    generation = GenerationConfig(guidance_scale=5.0, fps=16)  # diffusers' defaults for Wan
    tiles = False
    latent_axes = ("videos", "channels", "frames", "height", "width")

    # -------------------------------------------------------------------------------------- folders

    @classmethod
    def outline(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        tokenizer: Any = None,
        conv_impl: ConvImpl = "auto",
    ) -> "Wan":
        """The family from the configurations in a diffusers folder. The VAE computes in float32, as
        the original does.

        Raises:
          BadInput: a part is missing or not Wan 2.1's, or the parts do not fit each other.
        """
        index = read_json(folder / "model_index.json")
        if index.get("boundary_ratio") is not None or index.get("expand_timesteps"):
            raise BadInput(
                f"{folder / 'model_index.json'}: boundary_ratio and expand_timesteps are of Wan"
                " 2.2; only Wan 2.1 is supported"
            )
        text, denoiser, vae = cls.read_configs(folder)
        settings = pipeline_folder.scheduler_settings(folder, scheduler)
        if isinstance(scheduler, str):
            settings = flow_settings(
                settings, pipeline_folder.scheduler_settings(folder, None).get("_class_name")
            )
        default_sequence_length = MAX_TEXT_TOKENS
        if tokenizer is not None:
            default_sequence_length = min(MAX_TEXT_TOKENS, tokenizer.model_max_length)
        family = cls(
            tokenizer,
            T5Encoder(text, dtype),
            WanTransformer(denoiser, dtype),
            WanVAE(vae, jnp.float32, conv_impl),
            pipeline_folder.load_scheduler(folder, settings, FLOW_SETTINGS),
            default_sequence_length=default_sequence_length,
        )
        family.check_parts(str(folder))
        return family

    def check_parts(self, source: str) -> None:
        """Raises BadInput if the components do not fit each other."""
        config = self.transformer.config
        channels = self.vae.config.z_dim
        if config.in_channels != channels or config.out_channels != channels:
            raise BadInput(
                f"{source}: the transformer takes {config.in_channels} channels and gives"
                f" {config.out_channels}, the vae has {channels}; image-to-video checkpoints are"
                " not supported"
            )
        if config.text_dim != self.text_encoder.config.width:
            raise BadInput(
                f"{source}: the transformer's text_dim is {config.text_dim}, the text encoder's"
                f" d_model {self.text_encoder.config.width}; these parts do not belong together"
            )

    # ---------------------------------------------------------------------------------------- sizes

    def default_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels: diffusers' defaults; no configuration says what Wan
        was trained on."""
        return 81, 480, 832

    def latent_shape(
        self, frames: int, height: int, width: int
    ) -> tuple[tuple[int, int, int, int], int]:
        """[t, h, w, C] of the latent to denoise for such a video, and how many of its last frames
        to decode: all.

        Raises:
          BadInput: no latent does; the message names the nearest sizes that work.
        """
        config = self.transformer.config
        vae = self.vae.config
        axes = (
            ("num_frames", frames, vae.temporal_ratio, 1),
            ("height", height, vae.spatial_ratio, 0),
            ("width", width, vae.spatial_ratio, 0),
        )
        latent = []
        for (name, value, ratio, extra), patch in zip(axes, config.patch_size, strict=True):
            # the first frame has a latent frame of its own; latent frames fill whole patches
            largest = config.rope_max_seq_len * patch
            size = min(max(value - extra, 0) // ratio + extra, largest) // patch * patch
            if size < 1 or (size - extra) * ratio + extra != value:
                nearest = [
                    (n - extra) * ratio + extra for n in (size, size + patch) if 1 <= n <= largest
                ]
                raise BadInput(
                    f"{name}={value}: not a size of this model; nearest:"
                    f" {' and '.join(map(str, nearest))}",
                    source="generate",
                    field=name,
                )
            latent.append(size)
        return (*latent, config.in_channels), latent[0]

    # ----------------------------------------------------------------------------------------- text

    def sequence_length(self, max_sequence_length: int | None) -> int:
        """See `Family`."""
        return tokenization.checked_sequence_length(
            max_sequence_length, self.default_sequence_length, MAX_TEXT_TOKENS
        )

    def tokenize(
        self, prompts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "B S"], list[int]]:
        """See `Family`; the prompts are cleaned first."""
        return super().tokenize([clean(prompt) for prompt in prompts], length)

    def encode_text(self, params: Mapping, ids_BxS: Int[Array, "B S"]) -> Float[Array, "B S U"]:
        """Text embeddings [B, S, U] of token ids [B, S], without the padding."""
        return encode_without_padding(self.text_encoder, params["text_encoder"], ids_BxS)[0]

    # ------------------------------------------------------------------------------------- sampling

    def decode(self, params: Mapping, latents: Latents, tiled: bool, run: Run) -> PixelsOrShapes:
        """See `Family`: one latent frame after the other, and each resolution by itself."""
        pipeline_folder.check_tiling(self, tiled)
        pieces = self._decode_pieces(params, latents, run)
        return run("joining chunks", join_frames, latents, pieces)

    def _decode_pieces(self, params: Mapping, latents: Latents, run: Run) -> list[PixelsOrShapes]:
        levels = range(len(self.vae.config.dim_mult))
        _, num_chunks, height, width, _ = latents.shape
        caches: list[dict] = [{} for _ in levels]
        pieces = []
        for start in range(num_chunks):
            x: Any = latents
            for level in levels:
                chunk = "next chunks" if start else "first chunk"
                name = f"{chunk} at {height * 2**level} x {width * 2**level}"
                arguments = (params, x, start, caches[level])
                x, caches[level] = run(name, self.decode_chunk, *arguments, level=level)
            pieces.append(x)
        return pieces

    def decode_chunk(
        self, params: Mapping, x: Float[Array, "B T H W C"], start: Any, cache: dict, *, level: int
    ) -> tuple[Any, dict]:
        """Decodes one latent frame at one resolution.

        Args:
          x: at level 0 all latents, else the preceding level's output.
          start: which latent frame.
          cache: as returned for the preceding latent frame; empty for the first one.
          level: the resolution, from 0.

        Returns:
          The next level's input, or the pixels; and the next latent frame's cache.
        """
        if level == 0:
            x = self.vae.config.unscale(lax.dynamic_slice_in_dim(x, start, 1, axis=1))
        result = self.vae.apply({"params": params["vae"]}, x, cache, level, method="decode_level")
        y, cache = cast(tuple[Array, dict], result)
        is_last = level == len(self.vae.config.dim_mult) - 1
        return self.constrain_piece((to_pixels(y) if is_last else y, cache))


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


def flow_settings(settings: Mapping[str, Any], previous_class: str | None) -> dict[str, Any]:
    """Translates scheduler settings to the fields of the class that they now name.

    Args:
      settings: written for `previous_class`, with another `_class_name`.
    """
    new_class = settings["_class_name"]
    previous = FLOW_SETTINGS.get(previous_class or "")
    new = FLOW_SETTINGS.get(new_class)
    if previous is None or new is None or previous_class == new_class:
        return dict(settings)
    previous_shift, _ = previous
    new_shift, required = new
    others = {name: value for name, value in settings.items() if name != previous_shift}
    return others | required | {new_shift: settings.get(previous_shift, 1.0)}


def clean(text: str) -> str:
    """A prompt as diffusers' Wan pipeline cleans it: ftfy's fixes, HTML entities resolved twice,
    runs of white space replaced by one space."""
    import ftfy  # slow to import

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text))).strip()).strip()
