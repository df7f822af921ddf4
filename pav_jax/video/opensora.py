"""The Open-Sora 1.2 family: which parts its folder holds, how they fit together, and what of
sampling is its own.

Open-Sora is published as separate repositories without a model_index.json. A folder for
`VideoModel` puts them side by side, each as it is:

    model_index.json   {"_class_name": "OpenSoraPipeline"}, and optionally "conditions": the fields
    of `Conditions` transformer/       hpcai-tech/OpenSora-STDiT-v3
    vae/               hpcai-tech/OpenSora-VAE-v1.2
    text_encoder/      a T5 v1.1 XXL encoder in safetensors; those of CogVideoX-5b and PixArt-Sigma
    are it tokenizer/         its tokenizer
    scheduler/         optional: scheduler_config.json with the fields of `RectifiedFlow`; else as
      published

Source: hpcaitech/Open-Sora, tag v1.2.0, `scripts/inference.py`,
`configs/opensora-v1-2/inference/sample.py` and `opensora/schedulers/rf/`.

Shapes: B videos, S text tokens, U text width; T, H, W frames, height, width of the video in pixels;
t, h, w, C those of the latent and its channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import ConvImpl
from pav_jax.models.opensora import stdit_hf, vae_hf
from pav_jax.models.opensora.stdit import STDiT3
from pav_jax.models.opensora.vae import OpenSoraVAE
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.parallel.sequence_attention import make_sequence_attention_fn
from pav_jax.parallel.sharding_rules import ShardingConstraint
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import Positive, check_object, read_fields
from pav_jax.video import opensora_captions, pipeline_folder, tokenization
from pav_jax.video.decoding import (
    Latents,
    Pixels,
    PixelsOrShapes,
    Run,
    join_frames,
    to_pixels,
)
from pav_jax.video.family import Family
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.guidance import stack_branches
from pav_jax.video.schedulers.rectified_flow import RectifiedFlow, RectifiedFlowPlan

PICTURE_FPS = 120.0  # the frame rate a single frame was trained with


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the model is told about the video besides the prompt, as published for sampling.

    Attributes:
      fps: frames per second; a single frame has its own.
      aesthetic_score, motion_score, camera_motion: appended to the prompt, where it does not name
      them; None: not.
    """

    fps: Positive = 24.0
    aesthetic_score: float | None = 6.5
    motion_score: float | None = None
    camera_motion: str | None = None

    @classmethod
    def from_dict(cls, fields: Any, source: str) -> "Conditions":
        """Raises BadInput for a field that is unknown, of another type or out of range."""
        fields = {} if fields is None else check_object(fields, source, "conditions")
        for name in fields:
            if name not in cls.__dataclass_fields__:
                raise BadInput(
                    f"{source}: conditions.{name[:60]} is unknown; choose from"
                    f" {', '.join(cls.__dataclass_fields__)}",
                    source=source,
                    field=f"conditions.{name}",
                )
        return read_fields(cls, fields, source, "conditions")


@dataclasses.dataclass(frozen=True, eq=False)
class OpenSora(Family):
    """The family of Open-Sora pipelines."""

    transformer: STDiT3
    vae: OpenSoraVAE
    scheduler: RectifiedFlow
    conditions: Conditions = Conditions()

    pipeline = "OpenSoraPipeline"
    display_name = "an Open-Sora"
    layouts = {"text_encoder": t5_hf, "transformer": stdit_hf, "vae": vae_hf}
    components = ("tokenizer", *layouts)
    generation = GenerationConfig(
        num_inference_steps=30, guidance_scale=7.0, fps=24
    )  # as published for sampling
    tiles = False
    latent_axes = ("videos", "channels", "frames", "height", "width")

    def on_mesh(
        self,
        mesh: Mesh | None,
        auxiliary_mesh: Mesh | None,
        sequence_attention: str = "auto",
        cfg_parallel: bool = False,
    ) -> "OpenSora":
        """As `Family.on_mesh`.

        Raises:
          BadInput: a mesh with a `sequence` axis: attention is within a frame or among frames,
            never among all tokens.
        """
        if mesh is not None and mesh.shape["sequence"] > 1:
            raise BadInput(
                f"generator.mesh.sequence={mesh.shape['sequence']}: the tokens of Open-Sora are not"
                " spread over devices; make it 1 and use data, fsdp or tensor"
            )
        transformer = self.transformer.clone(
            attention_fn=make_sequence_attention_fn(mesh, sequence_attention)
        )
        constrain = self.constrain if mesh is None else ShardingConstraint(mesh)
        family = dataclasses.replace(
            self, transformer=transformer, constrain=constrain, cfg_parallel=cfg_parallel
        )
        return family.with_vae_mesh(auxiliary_mesh)

    # -------------------------------------------------------------------------------------- folders

    @classmethod
    def outline(
        cls,
        folder: Path,
        dtype: Any,
        scheduler: Mapping[str, Any] | str | None = None,
        tokenizer: Any = None,
        conv_impl: ConvImpl = "auto",
    ) -> "OpenSora":
        """The family from the configurations in a folder.

        Raises:
          BadInput: a part is missing or foreign, or the parts do not fit each other.
        """
        index = folder / "model_index.json"
        path = folder / "scheduler" / "scheduler_config.json"
        conditions = Conditions.from_dict(read_json(index).get("conditions"), str(index))
        if isinstance(scheduler, Mapping):
            settings = scheduler
        else:
            settings = read_json(path) if path.exists() else {}
        if isinstance(scheduler, str):
            settings = {**settings, "_class_name": scheduler}
        text, denoiser, vae = cls.read_configs(folder).values()
        family = cls(
            tokenizer,
            T5Encoder(text, dtype),
            STDiT3(denoiser, dtype),
            OpenSoraVAE(vae, dtype, conv_impl),
            RectifiedFlow.from_config(settings, str(path)),
            conditions=conditions,
        )
        family.check_parts(str(folder))
        return family

    def index(self) -> dict[str, Any]:
        """Each part is one that the original loads; only the conditions are said here."""
        return {"conditions": dataclasses.asdict(self.conditions)}

    def check_parts(self, source: str) -> None:
        """Raises BadInput if the components do not fit each other."""
        config = self.transformer.config
        vae = self.vae.config
        if config.in_channels != vae.latent_channels:
            raise BadInput(
                f"{source}: the transformer takes {config.in_channels} channels, the vae has"
                f" {vae.latent_channels}; these parts do not belong together"
            )
        if config.caption_channels != self.text_encoder.config.width:
            raise BadInput(
                f"{source}: the transformer's caption_channels is {config.caption_channels}, the"
                f" text encoder's d_model {self.text_encoder.config.width}; these parts do not"
                " belong together"
            )
        if not vae.micro_frame_size or vae.temporal.latent_frames(vae.micro_frame_size) < 2:
            raise BadInput(
                f"{source}: the vae's micro_frame_size is {vae.micro_frame_size}; clips of more"
                f" frames than {vae.temporal.ratio} are needed"
            )

    # ---------------------------------------------------------------------------------------- sizes

    @property
    def frames_per_clip(self) -> int:
        """Frames that the VAE encodes at once."""
        frames = self.vae.config.micro_frame_size
        assert frames is not None, "see check_parts"
        return frames

    def default_size(self) -> tuple[int, int, int]:
        """Two seconds of 720p, of the last stage of training; no configuration says it."""
        return 3 * self.frames_per_clip, 720, 1280

    def latent_shape(
        self, frames: int, height: int, width: int
    ) -> tuple[tuple[int, int, int, int], int]:
        """[t, h, w, C] of the latent to denoise for such a video, and how many of its last frames
        to decode: all.

        Raises:
          BadInput: no latent does; the message names the nearest sizes that work.
        """
        vae = self.vae.config
        clip = self.frames_per_clip
        pipeline_folder.check_multiples(height, width, vae.spatial_ratio)
        if frames != 1 and (frames < clip or frames % clip):
            low = frames // clip * clip or 1
            raise BadInput(
                f"num_frames={frames}: this model makes one frame or clips of {clip}; nearest:"
                f" {low} and {max(low // clip + 1, 1) * clip}"
            )
        t = vae.latent_frames(frames)
        return (t, height // vae.spatial_ratio, width // vae.spatial_ratio, vae.latent_channels), t

    def video_size(self, latents: Latents) -> tuple[int, int, int]:
        """Frames, height and width of the video that such latents are of: the inverse of
        `latent_shape`."""
        _, t, h, w, _ = latents.shape
        vae = self.vae.config
        clip = self.frames_per_clip
        frames = 1 if t == 1 else t // vae.temporal.latent_frames(clip) * clip
        return frames, h * vae.spatial_ratio, w * vae.spatial_ratio

    # ----------------------------------------------------------------------------------------- text

    def sequence_length(self, max_sequence_length: int | None) -> int:
        """See `Family`; the learned null caption has as many tokens as the model was trained on."""
        trained = self.transformer.config.model_max_length
        return tokenization.checked_sequence_length(max_sequence_length, trained, trained)

    def caption(self, prompt: str) -> str:
        """The prompt as the text encoder reads it; an empty one stays empty and stands for the null
        caption."""
        if not prompt.strip():
            return ""
        told = self.conditions
        return opensora_captions.clean(
            opensora_captions.with_scores(
                prompt, told.aesthetic_score, told.motion_score, told.camera_motion
            )
        )

    def tokenize(
        self, prompts: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "B S"], list[int]]:
        """See `Family`, of the prompts' captions; an empty prompt has padding only."""
        captions = [self.caption(prompt) for prompt in prompts]
        ids, truncated = super().tokenize(captions, length)
        ids[[i for i, caption in enumerate(captions) if not caption]] = (
            self.text_encoder.config.pad_id
        )
        return ids, truncated

    def encode_text(
        self, params: Mapping, ids_BxS: Int[Array, "B S"]
    ) -> Float[Array, "B S channels"]:
        """The embedding and, as its last channel, which tokens are the text's own; none is in the
        null caption."""
        own_BxS = ids_BxS != self.text_encoder.config.pad_id
        variables = {"params": params["text_encoder"]}
        text_BxSxU = cast(Array, self.text_encoder.apply(variables, ids_BxS, own_BxS))
        return jnp.concatenate([text_BxSxU, own_BxS[..., None].astype(text_BxSxU.dtype)], axis=-1)

    # ------------------------------------------------------------------------------------- sampling

    def predict(
        self,
        params: Mapping,
        latents,
        text,
        negative,
        timestep,
        scale,
        residual=None,
        keep_residual: bool = False,
    ) -> Array | tuple[Array, Array]:
        """See `Family`: one guided velocity."""
        mask_BxS = text[..., -1] > 0
        null_B = ~mask_BxS.any(axis=1)
        mask_BxS = mask_BxS | null_B[:, None]
        if negative is not None:
            # the null caption is as long as the caption it stands against, as in the original
            negative_mask = negative[..., -1] > 0
            negative_null = ~negative_mask.any(axis=1)
            negative_mask = jnp.where(negative_null[:, None], mask_BxS, negative_mask)
            latents, text, mask_BxS, null_B = stack_branches(
                self.constrain,
                self.cfg_parallel,
                (latents, negative, negative_mask, negative_null),
                (latents, text, mask_BxS, null_B),
            )
        frames, *size = self.video_size(latents)
        rows = latents.shape[:1]
        fps = PICTURE_FPS if frames == 1 else self.conditions.fps
        output: Any = self.transformer.apply(
            {"params": params["transformer"]},
            latents,
            jnp.full(rows, timestep),
            text[..., :-1],
            mask_BxS,
            jnp.full(rows, fps, jnp.float32),
            size=tuple(size),
            null_B=null_B,
            residual=residual,
            keep_residual=keep_residual,
        )
        # the other channels are the variance of an earlier training objective
        return self.guide_output(output, scale, negative is not None, latents.shape[-1])

    def video_tokens(
        self, residual: Array, latents: Float[Array, "B t h w C"], num_text_tokens: int
    ) -> Array:
        """See `Family`; the residual has video tokens only."""
        return residual

    def plan(self, steps: int, latents: Float[Array, "B t h w C"]) -> RectifiedFlowPlan:
        """The sampling steps for latents of this size."""
        _, height, width = self.video_size(latents)
        return self.scheduler.plan(steps, height * width, latents.shape[1])

    def decode(self, params: Mapping, latents: Latents, tiled: bool, run: Run) -> PixelsOrShapes:
        """See `Family`: each clip in time, then a few frames after the other in space."""
        pipeline_folder.check_tiling(self, tiled)
        vae = self.vae.config
        frames, height, width = self.video_size(latents)
        clips = []
        start = 0
        for clip in vae.clips(frames):
            length = vae.temporal.latent_frames(clip)
            name = f"clips of {clip} frames in time"
            arguments = (params, latents, start)
            clips.append(run(name, self.decode_clip, *arguments, length=length, frames=clip))
            start += length
        count = min(vae.frames_at_once(frames, height * width), frames)
        name = f"{count} frames at a time" if count > 1 else "one frame at a time"
        # the last few overlap those before, so that all are equally many
        starts = [min(start, frames - count) for start in range(0, frames, count)]
        pieces = [
            run(name, self.decode_frames, params, clips, start, count=count) for start in starts
        ]
        return run("joining frames", join_frames, latents, pieces, overlap=-frames % count)

    def decode_clip(
        self,
        params: Mapping,
        latents: Float[Array, "B t h w C"],
        start: Any,
        *,
        length: int,
        frames: int,
    ) -> Float[Array, "B T h w C"]:
        """The latent frames of the 2-D autoencoder of one clip.

        Args:
          start, length: of the clip, in latent frames.
          frames: of the clip.
        """
        z = lax.dynamic_slice_in_dim(latents, start, length, axis=1)
        clip = self.vae.apply({"params": params["vae"]}, z, frames, method="decode_clip")
        return self.constrain_piece(clip)

    def decode_frames(
        self, params: Mapping, clips: Sequence[Float[Array, "B T h w C"]], start: Any, *, count: int
    ) -> Pixels:
        """Pixels of `count` frames from `start` of the joined results of `decode_clip`."""
        x = lax.dynamic_slice_in_dim(jnp.concatenate(clips, axis=1), start, count, axis=1)
        video = self.vae.apply({"params": params["vae"]}, x, method="decode_frames")
        return self.constrain_piece(to_pixels(cast(Array, video)))
