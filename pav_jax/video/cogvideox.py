"""The CogVideoX family: which parts a diffusers folder holds, how they load, and how a batch of videos is sampled.

Source: diffusers' `CogVideoXPipeline` (folder layout, sizes, order of the guidance batch); Yang et al. 2024
(arXiv 2408.06072).

Shapes: B videos, S text tokens, U text width; T, H, W frames, height, width of the video in pixels; t, h, w, C those
of the latent and its channels.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from pav_jax.checkpoints.folder import load, save
from pav_jax.checkpoints.safetensors import write_json
from pav_jax.errors import BadInput
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.models.weights import logical_axes
from pav_jax.video import parts, sampling, schedulers
from pav_jax.video.generation import Generation

COMPONENTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
LAYOUTS = {"text_encoder": t5_hf, "transformer": transformer_hf, "vae": vae_hf}
SAMPLERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")


@dataclasses.dataclass(frozen=True, eq=False)
class CogVideoX:
    """The parts without their weights. `params` everywhere is {"text_encoder": ..., "transformer": ..., "vae": ...}."""

    tokenizer: Any  # a transformers tokenizer
    text_encoder: T5Encoder
    transformer: CogVideoXTransformer
    vae: CogVideoXVAE
    scheduler: schedulers.Scheduler

    generation = Generation()
    latent_axes = ("videos", "frames", "channels", "height", "width")  # of initial noise in diffusers

    # ---------------------------------------------------------------------------------------------- folders

    @classmethod
    def outline(cls, folder: Path, dtype: Any, scheduler: Mapping[str, Any] | str | None = None,
                tokenizer: Any = None, conv_impl: str = "auto") -> "CogVideoX":
        """The family from the configurations in a diffusers folder.

        Raises:
          BadInput: a part is missing or foreign, or the parts do not fit each other.
        """
        text, denoiser, vae = (parts.sizes(layout, folder / name) for name, layout in LAYOUTS.items())
        family = cls(
            tokenizer, T5Encoder(text, dtype), CogVideoXTransformer(denoiser, dtype),
            CogVideoXVAE(vae, dtype, conv_impl),
            parts.load_scheduler(folder, parts.scheduler_settings(folder, scheduler), SAMPLERS),
        )
        family.check_parts(str(folder))
        return family

    @classmethod
    def load(
        cls, folder: Path, dtype: Any, scheduler: Mapping[str, Any] | str | None = None
    ) -> tuple["CogVideoX", dict]:
        """Reads a diffusers folder; parameters are numpy arrays of type `dtype`.

        Args:
          scheduler: replaces the folder's; a class name keeps the folder's settings.

        Raises:
          BadInput: a part is missing or half-written, or the parts do not fit each other.
        """
        parts.check_components(folder, COMPONENTS, "a CogVideoX")
        family = cls.outline(folder, dtype, scheduler, parts.load_tokenizer(folder))
        return family, {name: load(layout, folder / name, dtype)[1] for name, layout in LAYOUTS.items()}

    def save(self, folder: Path, params: Mapping, max_shard_size: str) -> None:
        """Writes a folder that `diffusers.CogVideoXPipeline.from_pretrained` loads."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        for name, layout in LAYOUTS.items():
            save(layout, folder / name, getattr(self, name).config, params[name], max_shard_size)
        write_json(folder / "scheduler" / "scheduler_config.json", dict(self.scheduler.config))
        write_json(folder / "model_index.json", {
            "_class_name": "CogVideoXPipeline",
            "_diffusers_version": "0.35.0",
            "scheduler": ["diffusers", self.scheduler.config["_class_name"]],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", parts.tokenizer_class(self.tokenizer)],
            "transformer": ["diffusers", transformer_hf.CLASS_NAME],
            "vae": ["diffusers", "AutoencoderKLCogVideoX"],
        })

    def axes(self) -> dict:
        """Logical axis names of every parameter, for sharding."""
        return {name: logical_axes(layout.weights(getattr(self, name).config)) for name, layout in LAYOUTS.items()}

    def param_shapes(self) -> dict:
        """The parameters that `load` gives, as ShapeDtypeStructs."""
        return {name: parts.shapes_of(layout, getattr(self, name).config, getattr(self, name).dtype)
                for name, layout in LAYOUTS.items()}

    def check_parts(self, source: str) -> None:
        config, vae = self.transformer.config, self.vae.config
        if config.in_channels != vae.latent_channels or config.out_channels != vae.latent_channels:
            raise BadInput(
                f"{source}: the transformer takes {config.in_channels} channels and gives {config.out_channels}, the"
                f" vae has {vae.latent_channels}; image-to-video checkpoints are not supported")
        if config.text_embed_dim != self.text_encoder.config.width:
            raise BadInput(
                f"{source}: the transformer's text_embed_dim is {config.text_embed_dim}, the text encoder's d_model"
                f" {self.text_encoder.config.width}; these parts do not belong together")

    # ---------------------------------------------------------------------------------------------- sizes

    def default_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels of the videos the model was trained on."""
        config, ratio = self.transformer.config, self.vae.config.spatial_ratio
        return config.sample_frames, config.sample_height * ratio, config.sample_width * ratio

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[tuple[int, int, int, int], int]:
        """[t, h, w, C] of the latent to denoise for such a video, and how many of its last frames to decode.

        Version 1.5 denoises whole temporal patches; what that adds in front is dropped before decoding.

        Raises:
          BadInput: no latent does; the message names the nearest sizes that work.
        """
        config, ratio = self.transformer.config, self.vae.config.spatial_ratio
        step = ratio * config.patch_size
        for name, value in (("height", height), ("width", width)):
            if value < step or value % step:
                low = max(value // step, 1) * step
                raise BadInput(f"{name}={value}: this model makes multiples of {step}; nearest: {low} and {low + step}")
        if config.use_learned_positional_embeddings and (height, width) != self.default_size()[1:]:
            raise BadInput(f"height={height}, width={width}: this model makes only {self.default_size()[1:]}")
        t = max(frames - 1, 0) // int(self.vae.config.temporal_compression_ratio) + 1
        if self.decoded_frames(t) != frames:
            around = sorted({self.decoded_frames(n) for n in (t - 1, t, t + 1) if n > 0})
            raise BadInput(f"num_frames={frames}: not a length of this model; nearest: {', '.join(map(str, around))}")
        patch = config.patch_size_t or 1
        return (-(-t // patch) * patch, height // ratio, width // ratio, config.in_channels), t

    @functools.lru_cache(maxsize=64)  # noqa: B019  (a handful of families per process)
    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that so many latent frames decode to; the decoder's chunks make this uneven, so it is asked."""
        latent = jax.ShapeDtypeStruct((1, latent_frames, 1, 1, self.vae.config.latent_channels), jnp.float32)
        decode = functools.partial(self.vae.apply, method="decode")
        return jax.eval_shape(decode, {"params": vae_hf.param_shapes(self.vae.config)}, latent).shape[1]

    # ---------------------------------------------------------------------------------------------- text

    @property
    def text_tokens(self) -> int:
        return self.transformer.config.max_text_seq_length

    def tokenize(self, prompts: Sequence[str]) -> tuple[Int[np.ndarray, "B S"], list[int]]:
        """Token ids, padded, and which prompts were longer than the encoder's limit and were cut."""
        return parts.tokenize(self.tokenizer, prompts, self.text_tokens, self.text_encoder.config.vocab_size)

    # ---------------------------------------------------------------------------------------------- sampling

    def encode_text(self, params: Mapping, ids_BxS: Int[Array, "B S"]) -> Float[Array, "B S U"]:
        return self.text_encoder.apply({"params": params["text_encoder"]}, ids_BxS)

    def predict(self, params: Mapping, latents, text_BxSxU, negative_BxSxU, timestep, scale) -> Array:
        """One guided model output, float32. Without `negative_BxSxU` there is no guidance and half the work."""
        batch = latents.shape[0]
        if negative_BxSxU is not None:
            latents = jnp.concatenate([latents, latents])
            text_BxSxU = jnp.concatenate([negative_BxSxU, text_BxSxU])
        output = self.transformer.apply(
            {"params": params["transformer"]}, latents, text_BxSxU, jnp.full(latents.shape[:1], timestep),
        ).astype(jnp.float32)
        if negative_BxSxU is None:
            return output
        negative, positive = output[:batch], output[batch:]
        return negative + scale * (positive - negative)

    def denoise(
        self, params: Mapping, latents: Float[Array, "B t h w C"], text_BxSxU: Array, negative_BxSxU: Array | None,
        keys_B: Key[Array, "B"], scales: Float[Array, "steps"],
    ) -> Float[Array, "B t h w C"]:
        """Noise to clean latents in one scan."""
        plan = self.scheduler.plan(scales.shape[0])

        def predict(sample, index):
            timestep = jnp.asarray(plan.timesteps.astype(np.int32))[index]
            return self.predict(params, sample, text_BxSxU, negative_BxSxU, timestep, scales[index])

        return sampling.denoise(plan, predict, latents, keys_B, self.scheduler.needs_noise)

    def decode(self, params: Mapping, latents: Float[Array, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        return self.vae.apply({"params": params["vae"]}, self.vae.config.unscale(latents), method="decode")

    def sample(
        self, params: Mapping, ids_BxS: Int[Array, "B S"], negative_NxS: Int[Array, "N S"] | None,
        latents: Float[Array, "B t h w C"] | None, keys_B: Key[Array, "B"], scales: Float[Array, "steps"],
        *, latent_shape: tuple[int, int, int, int], keep: int, zero_uncond: bool,
    ) -> tuple[UInt8[Array, "B T H W 3"], Bool[Array, "B"]]:
        """Everything from token ids to frames, for one `jit`.

        Args:
          negative_NxS: N is B, or 1 where all videos share it; None: no guidance.
          latents: initial noise; drawn from `keys_B` where None.
          latent_shape, keep: what `latent_shape()` gives.
          zero_uncond: the unconditional branch sees zeros instead of the encoded negative prompt.

        Returns:
          the frames, and for each video whether every number on the way was finite.
        """
        if latents is None:
            latents = sampling.noise(keys_B, 0, latent_shape)
        text_BxSxU = self.encode_text(params, ids_BxS)
        negative_BxSxU = None
        if negative_NxS is not None:
            negative = 0.0 if zero_uncond else self.encode_text(params, negative_NxS)
            negative_BxSxU = jnp.broadcast_to(jnp.asarray(negative, text_BxSxU.dtype), text_BxSxU.shape)
        latents = self.denoise(params, latents, text_BxSxU, negative_BxSxU, keys_B, scales)[:, -keep:]
        return parts.to_frames(latents, self.decode(params, latents))
