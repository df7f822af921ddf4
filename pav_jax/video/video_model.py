"""Any text-to-video model behind one class: load a diffusers folder, make videos from prompts, save
it again."""

import collections
import copy
import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from pav_jax.checkpoints.digest import add_file
from pav_jax.checkpoints.hub import local_folder
from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.video import backends, generation, pipeline_folder, sampling, step_schedule
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.family import Family
from pav_jax.video.generation import Generation
from pav_jax.video.opensora import OpenSora
from pav_jax.video.programs import Programs, check_rows, places
from pav_jax.video.wan import Wan

FAMILIES = {family.pipeline: family for family in (CogVideoX, OpenSora, Wan)}
HASHED = (".json", ".safetensors", ".model")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class VideoModel:
    """A text-to-video generator.

    Attributes:
      family: the parts and how they sample (`pav_jax.video.cogvideox.CogVideoX` and the others of
        `FAMILIES`).
      params: nested dict of arrays, one entry per part.
      defaults: what `generate` uses where a call gives None.
    """

    def __init__(
        self,
        family: Family,
        params: Mapping,
        defaults: Generation | None = None,
        mesh=None,
        weights_digest: str | None = None,
        side=None,
        sequence_attention: str = "auto",
    ):
        self.defaults = defaults or family.generation
        self.mesh, side = mesh, side or mesh
        if mesh is not None:
            check_rows(mesh, side, self.defaults.batch, self.defaults.cfg_parallel)
        self.family = family.on_mesh(mesh, side, sequence_attention, self.defaults.cfg_parallel)
        self.programs = Programs(self.family, mesh, side)
        self.params = self.programs.place_params(params)
        self._weights_digest = weights_digest
        self._warned_of_cut = False

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        dtype: str = "bfloat16",
        mesh=None,
        scheduler: Mapping[str, Any] | str | None = None,
        side=None,
        sequence_attention: str = "auto",
        **defaults: Any,
    ) -> "backends.Generator":
        """Loads a diffusers folder, or fetches one from the hub; model_index.json names the family.

        `diffusers:FOLDER` and addresses of endpoints give a generator of the back end they name,
        see `backends`, with the same `generate`.

        Args:
          dtype: of the weights and the matrix products; "float32" is the fast one on a CPU.
          mesh: a mesh of `pav_jax.parallel.mesh`: rows go over `data` (and `fsdp` as far as it
            divides them), weights over `fsdp`, heads over `tensor`, tokens over `sequence`.
          scheduler: replaces the folder's: a class name (settings stay), or a whole configuration.
          side: a mesh of other devices for text encoder and VAE, which then work while the denoiser
            does.
          sequence_attention: how tokens on several devices meet: ring, ulysses, or auto.
          defaults: fields of `Generation` that replace the folder's pav_generation.json.

        Raises:
          BadInput: what is there is not a whole pipeline of a known family.
        """
        if backends.is_back_end(path_or_repo):
            if scheduler is not None:
                raise BadInput(
                    f"generator.scheduler={scheduler}: {path_or_repo} samples as it says itself;"
                    " leave it out"
                )
            return _back_end(str(path_or_repo)).from_pretrained(
                path_or_repo, dtype=dtype, **defaults
            )
        folder = local_folder(path_or_repo, [f"*{kind}" for kind in HASHED])
        if dtype not in DTYPES:
            raise BadInput(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        kind = family_of(folder)
        used = saved_defaults(kind, folder).replace("generator", **defaults)
        pipeline_folder.check_tiling(kind, used.vae_tiling)
        step_schedule.check(used)
        family, params = kind.load(folder, DTYPES[dtype], scheduler, places(mesh, side))
        return cls(family, params, used, mesh, _digest(folder), side, sequence_attention)

    def save_pretrained(self, folder: str | Path, max_shard_size: str = "5GB") -> None:
        """Writes a diffusers folder that this class and diffusers load."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.family.save(folder, jax.device_get(self.params), max_shard_size)
        write_json(folder / generation.FILE, self.defaults.saved())

    def with_defaults(self, **fields: Any) -> "VideoModel":
        """The same model with other fields of `Generation`, as for drafts; weights and programs are
        shared."""
        other = copy.copy(self)
        other.defaults = self.defaults.replace("generator", **fields)
        other.__dict__.pop("fingerprint", None)  # it names the settings
        return other

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names what the same prompt and seed would give again: weights, configurations, scheduler,
        sampling settings.

        It does not change with the folder's place, the batch size or the frame rate of files.
        """
        weights = self._weights_digest or _digest_of_arrays(self.params)
        settings = [
            weights,
            self.defaults.sampling_settings(),
            dict(self.family.scheduler.config),
            jnp.dtype(self.family.transformer.dtype).name,
        ]
        if (conditions := getattr(self.family, "conditions", None)) is not None:
            settings.append(dataclasses.asdict(conditions))
        return hashlib.sha256(
            json.dumps(settings, sort_keys=True, default=str).encode()
        ).hexdigest()[:16]

    def generate(
        self,
        prompts: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        latents: Float[np.ndarray, "B ..."] | None = None,
        use_dynamic_cfg: bool | None = None,
        zero_uncond: bool | None = None,
        vae_tiling: bool | None = None,
        return_finite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> (
        UInt8[np.ndarray, "B T H W 3"]
        | tuple[UInt8[np.ndarray, "B T H W 3"], Bool[np.ndarray, "B"]]
    ):
        """One video per prompt; a video depends on its prompt, seed and the settings, not on its
        neighbours.

        Args:
          negative_prompt: what guidance moves away from: one text, or one per prompt.
          guidance_scale: 1 or less switches guidance off.
          seed: one int for all videos, or one per prompt.
          latents: initial noise in diffusers' axis order, instead of the seed's.
          return_finite: also return which videos met no NaN or infinity on the way; the others are
            not to be trusted.
          progress: called after every batch with the videos made and the videos asked for.

        Raises:
          BadInput: a size or number of steps the model cannot make, or arguments that do not fit
            each other.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        asked = self.asked(
            prompts,
            negative_prompt,
            seed,
            latents,
            num_frames=num_frames,
            height=height,
            width=width,
            steps=steps,
            guidance_scale=guidance_scale,
            use_dynamic_cfg=use_dynamic_cfg,
            zero_uncond=zero_uncond,
            vae_tiling=vae_tiling,
        )
        made = [(np.zeros((0, *asked.sizes, 3), np.uint8), np.zeros(0, bool))]
        waiting: collections.deque[Callable] = collections.deque()

        def take() -> None:
            made.append(waiting.popleft()())
            if progress is not None:
                progress(sum(len(finite) for _, finite in made), len(prompts))

        for rows, wanted in sampling.batches(len(prompts), self.defaults.batch):
            waiting.append(self._start(asked, rows, wanted))
            if (
                len(waiting) > 1
            ):  # the frames of one batch are waited for when the next is on its way
                take()
        while waiting:
            take()
        videos, finite = map(np.concatenate, zip(*made, strict=True))
        return (videos, finite) if return_finite else videos

    def start(
        self, prompts: Sequence[str], seed: int | Sequence[int] = 0
    ) -> Callable[[], tuple[UInt8[np.ndarray, "B T H W 3"], Bool[np.ndarray, "B"]]]:
        """Starts one batch and does not wait: what is returned, when called, gives the videos and
        which are finite.

        Whoever starts the next batch first has it denoised while this one is decoded.

        Raises:
          BadInput: as `generate`; also more prompts than `defaults.batch`.
        """
        if not 0 < len(prompts) <= self.defaults.batch:
            raise BadInput(
                f"start: {len(prompts)} prompts, but a batch has 1 to {self.defaults.batch}"
            )
        ((rows, wanted),) = sampling.batches(len(prompts), self.defaults.batch)
        return self._start(self.asked(list(prompts), seed=seed), rows, wanted)

    def asked(
        self,
        prompts: list[str],
        negative_prompt: str | Sequence[str] = "",
        seed: int | Sequence[int] = 0,
        latents: Any = None,
        **settings: Any,
    ) -> "Asked":
        """What `generate` would be asked for, checked; `texts` and `denoised` take it from here."""
        if bad := [p for p in prompts if not isinstance(p, str)]:
            raise BadInput(f"prompts: {bad[0]!r} is not a text")
        chosen = self.defaults.replace("generate", **settings)
        pipeline_folder.check_tiling(self.family, chosen.vae_tiling)
        step_schedule.check(chosen)
        sizes = tuple(
            given or default
            for given, default in zip(
                (chosen.num_frames, chosen.height, chosen.width),
                self.family.default_size(),
                strict=True,
            )
        )
        latent_shape, keep = self.family.latent_shape(*sizes)
        if latents is not None:
            latents = _channels_last(
                latents, (len(prompts), *latent_shape), self.family.latent_axes
            )
        seeds = sampling.seeds_of(seed, len(prompts))
        guided = chosen.guidance_scale > 1
        scales = sampling.guidance_scales(
            self.family.scheduler.timesteps(chosen.steps),
            chosen.guidance_scale,
            chosen.use_dynamic_cfg,
        )
        return Asked(
            self._tokenize(prompts),
            self._negative_ids(negative_prompt, len(prompts)) if guided else None,
            latents,
            seeds,
            scales,
            chosen,
            sizes,
            latent_shape,
            keep,
            step_schedule.planned(chosen),
        )

    def texts(
        self, asked: "Asked", rows: list[int]
    ) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."] | None]:
        """The embeddings that the denoiser reads for those rows: the prompts', and the other
        branch's where there is guidance."""
        text, negative = self.programs.texts(self.params, asked.ids[rows], len(rows)), None
        if asked.negative_ids is not None and asked.chosen.zero_uncond:
            negative = jnp.zeros_like(text)
        elif asked.negative_ids is not None:
            negative = self.programs.texts(self.params, asked.negative_ids[rows], len(rows))
        return text, negative

    def denoised(self, asked: "Asked", rows: list[int]) -> Float[Array, "B t h w C"]:
        """Clean latents of those rows, perhaps still being computed."""
        return self.programs.denoise(
            self.params,
            *self.texts(asked, rows),
            None if asked.latents is None else asked.latents[rows],
            sampling.video_keys([asked.seeds[i] for i in rows]),
            asked.scales,
            asked.latent_shape,
            asked.keep,
            asked.shortcuts,
        )

    def _start(self, asked: "Asked", rows: list[int], wanted: int) -> Callable:
        frames, finite = self.programs.decode(
            self.params, self.denoised(asked, rows), asked.chosen.vae_tiling
        )
        return lambda: (np.asarray(frames)[:wanted], np.asarray(finite)[:wanted])

    def _tokenize(self, prompts: Sequence[str]) -> np.ndarray:
        if not prompts:
            return np.zeros((0, self.family.text_tokens), np.int32)
        ids, cut = self.family.tokenize(prompts)
        if cut and not self._warned_of_cut:
            self._warned_of_cut = True
            start = prompts[cut[0]][:40]
            warnings.warn(
                f"{len(cut)} of {len(prompts)} prompts are longer than the"
                f" {self.family.text_tokens} tokens this model reads and were cut; the first one is"
                f" {start!r}...",
                stacklevel=3,
            )
        return ids

    def _negative_ids(self, negative_prompt: str | Sequence[str], count: int) -> np.ndarray:
        if isinstance(negative_prompt, str):
            return np.repeat(self._tokenize([negative_prompt]), count, axis=0)
        if len(negative_prompt) != count:
            raise BadInput(
                f"negative_prompt: {len(negative_prompt)} texts for {count} prompts; give one, or"
                " one per prompt"
            )
        return self._tokenize(list(negative_prompt))


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request to `generate`; ids, negative ids, latents and seeds have a row for each
    prompt."""

    ids: np.ndarray
    negative_ids: np.ndarray | None
    latents: np.ndarray | None
    seeds: list[int]
    scales: np.ndarray
    chosen: Generation
    sizes: tuple[int, int, int]
    latent_shape: tuple[int, int, int, int]
    keep: int
    shortcuts: step_schedule.Shortcuts | None


def _back_end(path: str) -> Any:
    """The class behind a path that `backends` names; torch is imported for the one that needs it
    only."""
    if path.startswith(backends.DIFFUSERS):
        from pav_jax.video.diffusers_pipeline import DiffusersPipeline as BackEnd
    else:
        from pav_jax.video.endpoint import Endpoint as BackEnd
    return BackEnd


def family_of(folder: Path) -> type[Family]:
    """The family that model_index.json names.

    Raises:
      BadInput: it is none of ours.
    """
    name = read_json(folder / "model_index.json").get("_class_name")
    if name not in FAMILIES:
        raise BadInput(
            f"{folder / 'model_index.json'}: _class_name is {name!r}; supported:"
            f" {', '.join(FAMILIES)}; any other pipeline of diffusers runs on torch as"
            f" diffusers:{folder} (pip install 'pav-jax[torch]')"
        )
    return FAMILIES[name]


def saved_defaults(kind: type[Family], folder: Path) -> Generation:
    """What the folder's pav_generation.json says, over the family's own defaults."""
    path = folder / generation.FILE
    return (
        kind.generation.replace(str(path), **read_json(path)) if path.exists() else kind.generation
    )


def _channels_last(
    latents: Any, shape: tuple[int, ...], axes: tuple[str, ...]
) -> Float[np.ndarray, "B T H W C"]:
    """Initial noise with diffusers' `axes` to ours, checked against `shape` (ours)."""
    ours = ("videos", "frames", "height", "width", "channels")
    latents, expected = np.asarray(latents, np.float32), [shape[ours.index(axis)] for axis in axes]
    if list(latents.shape) != expected:
        raise BadInput(
            f"latents: shape {list(latents.shape)}; ({', '.join(axes)}) = {expected} was expected"
        )
    return latents.transpose([axes.index(axis) for axis in ours])


def _digest(folder: Path) -> str:
    """Hash of a pipeline's weights, configurations and tokenizer, whatever else lies beside
    them."""
    digest = hashlib.sha256()
    folders = ("tokenizer", "text_encoder", "transformer", "vae")
    for path in sorted(
        p for name in folders for p in (folder / name).iterdir() if p.suffix in HASHED
    ):
        digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}".encode())
        add_file(digest, path)
    return digest.hexdigest()


def _digest_of_arrays(params: Mapping) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
