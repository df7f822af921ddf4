"""The CogVideoX family: which parts a diffusers folder holds, how they fit together, and what of
sampling is its own.

Source: diffusers' `CogVideoXPipeline` (folder layout, sizes, order of the guidance batch); Yang et
al. 2024 (arXiv 2408.06072).

Shapes: B videos, S text tokens, U text width; T, H, W frames, height, width of the video in pixels;
t, h, w, C those of the latent and its channels.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE, decoder_chunks
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.tiling import decode_tiles
from pav_jax.video import pipeline_folder, schedulers
from pav_jax.video.decoding import (
    Latents,
    Pixels,
    PixelsOrShapes,
    Run,
    chunk_name,
    whole_to_pixels,
)
from pav_jax.video.family import Family
from pav_jax.video.generation_config import GenerationConfig

# In version 1.5 sample_height and sample_width are the largest grid that has positions, not the
# size of training, which is 768 x 1360 (its model card)
LARGEST_GRID_1_5 = (300, 300)
SIZE_1_5 = (768, 1360)
SAMPLERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")


@dataclasses.dataclass(frozen=True, eq=False)
class CogVideoX(Family):
    """The family of CogVideoX pipelines."""

    transformer: CogVideoXTransformer
    vae: CogVideoXVAE
    scheduler: schedulers.Scheduler

    pipeline = "CogVideoXPipeline"
    display_name = "a CogVideoX"
    layouts = {"text_encoder": t5_hf, "transformer": transformer_hf, "vae": vae_hf}
    components = ("tokenizer", *layouts, "scheduler")
    generation = GenerationConfig()
    tiles = True
    piece_axis = "tiles"
    latent_axes = ("videos", "frames", "channels", "height", "width")

    def with_vae_mesh(self, mesh: Mesh | None) -> "CogVideoX":
        """See `Family`; the VAE also shards its tiles over the mesh."""
        family = super().with_vae_mesh(mesh)
        if mesh is None:
            return family
        vae = self.vae.clone(constrain=family.constrain_vae, tiles_at_once=mesh.size)
        return dataclasses.replace(family, vae=vae)

    # -------------------------------------------------------------------------------------- folders

    @classmethod
    def outline(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        tokenizer: Any = None,
        conv_impl: ConvImpl = "auto",
    ) -> "CogVideoX":
        """The family from the configurations in a diffusers folder.

        Raises:
          BadInput: a part is missing or foreign, or the parts do not fit each other.
        """
        text, denoiser, vae = cls.read_configs(folder).values()
        family = cls(
            tokenizer,
            T5Encoder(text, dtype),
            CogVideoXTransformer(denoiser, dtype),
            CogVideoXVAE(vae, dtype, conv_impl),
            pipeline_folder.load_scheduler(
                folder, pipeline_folder.scheduler_settings(folder, scheduler), SAMPLERS
            ),
        )
        family.check_parts(str(folder))
        return family

    def check_parts(self, source: str) -> None:
        """Raises BadInput if the components do not fit each other."""
        config = self.transformer.config
        vae = self.vae.config
        if config.in_channels != vae.latent_channels or config.out_channels != vae.latent_channels:
            raise BadInput(
                f"{source}: the transformer takes {config.in_channels} channels and gives"
                f" {config.out_channels}, the vae has {vae.latent_channels}; image-to-video"
                " checkpoints are not supported"
            )
        if config.text_embed_dim != self.text_encoder.config.width:
            raise BadInput(
                f"{source}: the transformer's text_embed_dim is {config.text_embed_dim}, the text"
                f" encoder's d_model {self.text_encoder.config.width}; these parts do not belong"
                " together"
            )

    # ---------------------------------------------------------------------------------------- sizes

    def default_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels of the videos the model was trained on."""
        config = self.transformer.config
        ratio = self.vae.config.spatial_ratio
        if (
            config.patch_size_t is not None
            and (config.sample_height, config.sample_width) == LARGEST_GRID_1_5
        ):
            return config.sample_frames, *SIZE_1_5
        return config.sample_frames, config.sample_height * ratio, config.sample_width * ratio

    def trained_frames(self) -> int:
        """`sample_frames` of the transformer."""
        return self.transformer.config.sample_frames

    def latent_shape(
        self, frames: int, height: int, width: int
    ) -> tuple[tuple[int, int, int, int], int]:
        """[t, h, w, C] of the latent to denoise for such a video, and how many of its last frames
        to decode.

        Version 1.5 denoises whole temporal patches; what that adds in front is dropped before
        decoding.

        Raises:
          BadInput: no latent does; the message names the nearest sizes that work.
        """
        config = self.transformer.config
        ratio = self.vae.config.spatial_ratio
        pipeline_folder.check_multiples(height, width, ratio * config.patch_size)
        if config.use_learned_positional_embeddings and (height, width) != self.default_size()[1:]:
            raise BadInput(
                f"height={height}, width={width}: this model makes only {self.default_size()[1:]}",
                source="generate",
                field="height",
            )
        t = max(frames - 1, 0) // int(self.vae.config.temporal_compression_ratio) + 1
        if self.decoded_frames(t) != frames:
            nearest = sorted({self.decoded_frames(n) for n in (t - 1, t, t + 1) if n > 0})
            raise BadInput(
                f"num_frames={frames}: not a length of this model; nearest:"
                f" {', '.join(map(str, nearest))}",
                source="generate",
                field="num_frames",
            )
        patch = config.patch_size_t or 1
        return (-(-t // patch) * patch, height // ratio, width // ratio, config.in_channels), t

    @functools.lru_cache(maxsize=64)  # noqa: B019  (a handful of families per process)
    def decoded_frames(self, latent_frames: int) -> int:
        """How many frames that many latent frames decode to.

        The decoder works in chunks, so there is no simple formula: its shapes are evaluated.
        """
        latent = jax.ShapeDtypeStruct(
            (1, latent_frames, 1, 1, self.vae.config.latent_channels), jnp.float32
        )
        decode = functools.partial(self.vae.apply, method="decode")
        params = pipeline_folder.param_shapes(vae_hf, self.vae.config, jnp.float32)
        return jax.eval_shape(decode, {"params": params}, latent).shape[1]

    # ----------------------------------------------------------------------------------------- text

    def sequence_length(self, max_sequence_length: int | None) -> int:
        """See `Family`. Position embeddings that are added to the tokens fix the length."""
        config = self.transformer.config
        trained = config.max_text_seq_length
        if max_sequence_length in (None, trained):
            return trained
        if not config.use_rotary_positional_embeddings or config.use_learned_positional_embeddings:
            raise BadInput(
                f"max_sequence_length={max_sequence_length}: this CogVideoX has position embeddings"
                f" for {trained} text tokens; use {trained} or leave it out",
                source="generate",
                field="max_sequence_length",
            )
        return max_sequence_length

    # ------------------------------------------------------------------------------------- sampling

    def encode_text(self, params: Mapping, ids_BxS: Int[Array, "B S"]) -> Float[Array, "B S U"]:
        """Text embeddings [B, S, U] of token ids [B, S]."""
        return cast(Array, self.text_encoder.apply({"params": params["text_encoder"]}, ids_BxS))

    def video_tokens(
        self, residual: Array, latents: Float[Array, "B t h w C"], num_text_tokens: int
    ) -> Array:
        """See `Family`; text comes first."""
        return super().video_tokens(residual[:, num_text_tokens:], latents, num_text_tokens)

    def decode(self, params: Mapping, latents: Latents, tiled: bool, run: Run) -> PixelsOrShapes:
        """See `Family`: all at once, or each temporal chunk of each batch of tiles, and each
        resolution by itself.

        Raises:
          BadInput: `tiled`, and the VAE's configuration gives tiles that do not cover the picture.
        """
        if not tiled or self.vae.config.tile_grid(*latents.shape[2:4]).is_single():
            return run("whole videos", self.decode_whole, params, latents)

        def decode_level(
            x: Any, batch: int, start: int, cache: dict, size: tuple[int, int], **static: int
        ) -> tuple[Any, dict]:
            chunk = chunk_name(start, size, static["level"])
            name = f"tiles of {size[0]} x {size[1]}, {chunk}"
            arguments = (params, latents, x, batch, start, cache)
            return run(name, self.decode_tile_level, *arguments, size=size, **static)

        pieces = (self.vae.tile_batches(latents.shape), decoder_chunks(latents.shape[1]))
        decoded = decode_tiles(decode_level, *pieces, self.vae.config.num_levels)
        return run("joining tiles", self.join_tiles, latents, decoded)

    def decode_whole(self, params: Mapping, latents: Float[Array, "B t h w C"]) -> Pixels:
        """Decodes whole frames of whole videos."""
        unscaled = self.vae.config.unscale(latents)
        video = self.vae.apply({"params": params["vae"]}, unscaled, method="decode")
        return whole_to_pixels(cast(Array, video), latents)

    def decode_tile_level(
        self,
        params: Mapping,
        latents: Float[Array, "B t h w C"],
        x: Float[Array, "tiles T H W C"] | None,
        batch: Any,
        start: Any,
        cache: dict,
        *,
        size: tuple[int, int],
        length: int,
        level: int,
    ) -> tuple[Array, dict]:
        """One temporal chunk of tiles, decoded at one resolution.

        Args:
          x: the preceding level's output; None at level 0.
          batch: which batch of the tiles of `size`.
          start, length: of the chunk, in latent frames.
          cache: as returned for the preceding chunk; empty for the first one.
          level: the resolution, from 0.

        Returns:
          The next level's input, or the frames; and the next chunk's cache.
        """
        unscaled = self.vae.config.unscale(latents)
        arguments = (unscaled, x, batch, start, cache, size, length, level)
        variables = {"params": params["vae"]}
        result = self.vae.apply(variables, *arguments, method="decode_tile_level")
        return self.constrain_piece(result)

    def join_tiles(self, latents: Float[Array, "B t h w C"], decoded: Sequence) -> Pixels:
        """Joins the result of `tiling.decode_tiles`.

        Raises:
          BadInput: as `decode`.
        """
        video = self.vae.config.tile_grid(*latents.shape[2:4]).join(decoded)
        self._check_size(video, latents)
        return whole_to_pixels(video, latents)

    def _check_size(self, video: Array, latents: Array) -> None:
        config = self.vae.config
        ratio = config.spatial_ratio
        if video.shape[2:4] != (latents.shape[2] * ratio, latents.shape[3] * ratio):
            raise BadInput(
                f"vae_tiling: half of this vae's sample_height={config.sample_height} and"
                f" sample_width={config.sample_width} gives tiles that do not fit"
                f" {latents.shape[2]} x {latents.shape[3]} latents"
            )
