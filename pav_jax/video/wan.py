"""The Wan family, 2.1 and 2.2 TI2V-5B: which parts a diffusers folder holds, how they fit together,
and what of sampling is its own.

Source: diffusers' `WanPipeline` (folder layout, sizes, cleaning and masking of text); Wan Team 2025
(arXiv 2503.20314).

Shapes: B videos, S text tokens, U text width; T, H, W frames, height, width of the video in pixels;
t, h, w, C those of the latent and its channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.tiling import decode_tiles
from pav_jax.models.wan import transformer_hf, vae_hf
from pav_jax.models.wan.transformer import WanTransformer
from pav_jax.models.wan.vae import WanVAE
from pav_jax.models.wan.vae_config import TILE, TILE_STEP, WanVAEConfig
from pav_jax.models.wan.vae_shortcuts import unpatchify
from pav_jax.parallel.mesh import mesh_platform
from pav_jax.video import pipeline_folder, schedulers, tokenization
from pav_jax.video.decoding import (
    Latents,
    Pixels,
    PixelsOrShapes,
    Run,
    chunk_name,
    join_frames,
    to_pixels,
    whole_to_pixels,
)
from pav_jax.video.family import Family
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.wan_folder import (
    FLOW_SETTINGS,
    WanIndex,
    scheduler_settings,
    with_flow_shift,
)
from pav_jax.video.wan_text import MAX_TEXT_TOKENS, clean, encode_without_padding

# of Wan's own configuration of TI2V-5B: frames, height and width; frames per second
TI2V_SIZE = (121, 704, 1280)
TI2V_FPS = 24
TEXT_BLOCK = 64  # text tokens; most prompts have fewer


@dataclasses.dataclass(frozen=True, eq=False)
class Wan(Family):
    """The family of Wan pipelines.

    Attributes:
      expand_timesteps: of Wan 2.2 TI2V-5B: each token has a timestep of its own, for image to
        video. In text to video they are all the same, so that one timestep does.
    """

    transformer: WanTransformer
    vae: WanVAE
    scheduler: schedulers.Scheduler
    default_sequence_length: int = MAX_TEXT_TOKENS
    expand_timesteps: bool = False

    pipeline = "WanPipeline"
    display_name = "a Wan"
    layouts = {"text_encoder": t5_hf, "transformer": transformer_hf, "vae": vae_hf}
    components = ("tokenizer", *layouts, "scheduler")
    generation = GenerationConfig(guidance_scale=5.0, fps=16)  # diffusers' defaults for Wan
    tiles = True
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
    ) -> Self:
        """The family from the configurations in a diffusers folder. The VAE computes in float32, as
        the original does.

        Raises:
          BadInput: a part is missing or of another model, or the parts do not fit each other.
        """
        index = WanIndex.read(folder)
        configs = cls.read_configs(folder)
        text, denoiser, vae = (configs[name] for name in ("text_encoder", "transformer", "vae"))
        settings = scheduler_settings(folder, scheduler)
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
            expand_timesteps=index.expand_timesteps,
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

    @classmethod
    def scheduler_settings(
        cls, folder: Path, scheduler: Mapping[str, Any] | str | None, flow_shift: float | None
    ) -> Mapping[str, Any] | str | None:
        """See `Family`."""
        if flow_shift is None:
            return scheduler
        return with_flow_shift(scheduler_settings(folder, scheduler), flow_shift)

    @classmethod
    def component_folder(cls, folder: Path, name: str) -> Path:
        """See `Family`; the only denoiser may be in the folder of the second expert."""
        if name == "transformer":
            return folder / WanIndex.read(folder).experts()[0]
        return folder / name

    @classmethod
    def default_settings(cls, folder: Path) -> GenerationConfig:
        """See `Family`; TI2V-5B has another frame rate."""
        if WanIndex.read(folder).expand_timesteps:
            return dataclasses.replace(cls.generation, fps=TI2V_FPS)
        return cls.generation

    def index(self) -> dict[str, Any]:
        """See `Family`."""
        fields = {"expand_timesteps": True} if self.expand_timesteps else {}
        return super().index() | fields

    def on_mesh(
        self,
        mesh: Mesh | None,
        auxiliary_mesh: Mesh | None,
        sequence_attention: str = "auto",
        cfg_parallel: bool = False,
    ) -> Self:
        """See `Family`; on CPU the transformer leaves out most of the texts' padding."""
        family = super().on_mesh(mesh, auxiliary_mesh, sequence_attention, cfg_parallel)
        text_block = TEXT_BLOCK if mesh_platform(mesh) == "cpu" else None
        transformer = family.transformer.clone(text_block=text_block)
        return dataclasses.replace(family, transformer=transformer)

    # ---------------------------------------------------------------------------------------- sizes

    def default_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels: of TI2V-5B the only ones that it was trained on, else
        diffusers' defaults; no configuration says what Wan was trained on."""
        return TI2V_SIZE if self.expand_timesteps else (81, 480, 832)

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
        """See `Family`: one latent frame after the other, and each resolution by itself; of tiles
        one after the other, those of all videos at once.

        Raises:
          BadInput: `tiled`, and the VAE's resolutions give tiles that do not cover the picture.
        """
        vae = self.vae.config
        grid = vae.tile_grid(*latents.shape[2:4])
        if not tiled or grid.is_single():
            pieces = self._decode_pieces(params, latents, run)
            return run("joining chunks", join_frames, latents, pieces)
        check_tiles(vae)
        frames = [(start, start + 1) for start in range(latents.shape[1])]

        def decode_level(
            x: Any,
            tile: int,
            start: int,
            cache: dict,
            size: tuple[int, int],
            length: int,
            level: int,
        ) -> tuple[Any, dict]:
            name = f"tiles of {size[0]} x {size[1]}, {chunk_name(start, size, level)}"
            arguments = (params, x if level else latents, tile, start, cache)
            return run(name, self.decode_tile_chunk, *arguments, level=level, size=size)

        counts = {size: len(grid.positions(size)) for size in grid.sizes()}
        decoded = decode_tiles(decode_level, counts, frames, len(vae.dim_mult))
        return run("joining tiles", self.join_tiles, latents, decoded)

    def _decode_pieces(self, params: Mapping, latents: Latents, run: Run) -> list[PixelsOrShapes]:
        levels = range(len(self.vae.config.dim_mult))
        _, num_chunks, height, width, _ = latents.shape
        caches: list[dict] = [{} for _ in levels]
        pieces = []
        for start in range(num_chunks):
            x: Any = latents
            for level in levels:
                name = chunk_name(start, (height, width), level)
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
            x = lax.dynamic_slice_in_dim(x, start, 1, axis=1)
        y, cache = self._decode_level(params, x, cache, level)
        if level == len(self.vae.config.dim_mult) - 1:
            y = to_pixels(unpatchify(y, self.vae.config.patch))
        return self.constrain_piece((y, cache))

    def decode_tile_chunk(
        self,
        params: Mapping,
        x: Float[Array, "B T H W C"],
        tile: Any,
        start: Any,
        cache: dict,
        *,
        level: int,
        size: tuple[int, int],
    ) -> tuple[Any, dict]:
        """Decodes one latent frame of one tile of each video at one resolution.

        Args:
          tile: which of the tiles of `size`.
          x, start, cache, level: as in `decode_chunk`.

        Returns:
          The next level's input, or patches of pixels; and the next latent frame's cache.
        """
        if level == 0:
            frame = lax.dynamic_slice_in_dim(x, start, 1, axis=1)
            x = self.vae.config.tile_grid(*x.shape[2:4]).cut(frame, size)[tile]
        return self.constrain_piece(self._decode_level(params, x, cache, level))

    def _decode_level(
        self, params: Mapping, x: Array, cache: dict, level: int
    ) -> tuple[Array, dict]:
        x = x if level else self.vae.config.unscale(x)
        result = self.vae.apply({"params": params["vae"]}, x, cache, level, method="decode_level")
        return cast(tuple[Array, dict], result)

    def join_tiles(self, latents: Float[Array, "B t h w C"], decoded: Sequence) -> Pixels:
        """Joins the result of `tiling.decode_tiles`."""
        vae = self.vae.config
        patches = vae.tile_grid(*latents.shape[2:4]).join(decoded)
        return whole_to_pixels(unpatchify(patches, vae.patch), latents)


def check_tiles(vae: WanVAEConfig) -> None:
    """Raises BadInput if the tiles of diffusers are not whole latent rows of this VAE."""
    ratio = vae.spatial_ratio
    if TILE % ratio or TILE_STEP % ratio:
        raise BadInput(
            f"vae_tiling: tiles of {TILE} pixels every {TILE_STEP} do not fit this vae, which has"
            f" {ratio} pixels per latent row; leave it out",
            source="generator",
            field="vae_tiling",
        )
