"""Any text-to-video model behind one class: load a diffusers folder, make videos from prompts, save it again."""

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
from jaxtyping import Bool, Float, UInt8

from pav_jax.checkpoints.digest import add_file
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.safetensors import read_json, write_json
from pav_jax.errors import BadInput
from pav_jax.parallel import mesh as meshes
from pav_jax.parallel import rules
from pav_jax.parallel.attention import video_attention
from pav_jax.video import backends, generation, sampling
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.generation import Generation
from pav_jax.video.opensora import OpenSora
from pav_jax.video.wan import Wan

# `_class_name` of model_index.json -> family: load, save, axes, default_size, latent_shape, tokenize, sample; outline
# and param_shapes (the model without its weights); generation (what `generate` uses unless told otherwise) and
# latent_axes (of initial noise in diffusers); where there are any, conditions (what else the model is told)
FAMILIES = {"CogVideoXPipeline": CogVideoX, "OpenSoraPipeline": OpenSora, "WanPipeline": Wan}
Family = CogVideoX | OpenSora | Wan
HASHED = (".json", ".safetensors", ".model")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class VideoModel:
    """A text-to-video generator.

    Attributes:
      family: the parts and how they sample (`pav_jax.video.cogvideox.CogVideoX` and the others of `FAMILIES`).
      params: nested dict of arrays, one entry per part.
      defaults: what `generate` uses where a call gives None.
    """

    def __init__(self, family: Family, params: Mapping, defaults: Generation | None = None, mesh=None,
                 weights_digest: str | None = None):
        self.family = for_devices(family, mesh)
        self.defaults = defaults or family.generation
        self.mesh = mesh
        if mesh is None:
            self.params = jax.tree.map(jnp.asarray, dict(params))
        else:
            meshes.check_batch(mesh, self.defaults.batch, "generator.batch")
            self.params = rules.shard(dict(params), family.axes(), mesh)
        self._weights_digest = weights_digest
        self._warned_of_cut = False

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path, dtype: str = "bfloat16", mesh=None,
        scheduler: Mapping[str, Any] | str | None = None, **defaults: Any,
    ) -> "backends.Generator":
        """Loads a diffusers folder, or fetches one from the hub; model_index.json names the family.

        `diffusers:FOLDER` and addresses of endpoints give a generator of the back end they name, see `backends`, with
        the same `generate`.

        Args:
          dtype: of the weights and the matrix products; "float32" is the fast one on a CPU.
          mesh: a mesh of `pav_jax.parallel.mesh` to spread weights and batch over.
          scheduler: replaces the folder's: a class name (settings stay), or a whole configuration.
          defaults: fields of `Generation` that replace the folder's pav_generation.json.

        Raises:
          BadInput: what is there is not a whole pipeline of a known family.
        """
        if (load := backends.back_end(path_or_repo)) is not None:
            return load(path_or_repo, dtype=dtype, **defaults)
        folder = local_folder(path_or_repo, [f"*{kind}" for kind in HASHED])
        if dtype not in DTYPES:
            raise BadInput(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        kind = family_of(folder)
        saved = saved_defaults(kind, folder)
        family, params = kind.load(folder, DTYPES[dtype], scheduler)
        return cls(family, params, saved.replace("generator", **defaults), mesh, _digest(folder))

    def save_pretrained(self, folder: str | Path, max_shard_size: str = "5GB") -> None:
        """Writes a diffusers folder that this class and diffusers load."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.family.save(folder, jax.device_get(self.params), max_shard_size)
        settings = self.defaults.sampling_settings() | {"fps": self.defaults.fps, "batch": self.defaults.batch}
        write_json(folder / generation.FILE, {name: value for name, value in settings.items() if value is not None})

    def with_defaults(self, **fields: Any) -> "VideoModel":
        """The same model with other fields of `Generation`, as for drafts; weights and programs are shared."""
        other = copy.copy(self)
        other.defaults = self.defaults.replace("generator", **fields)
        other.__dict__.pop("fingerprint", None)  # it names the settings
        return other

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names what the same prompt and seed would give again: weights, configurations, scheduler, sampling settings.

        It does not change with the folder's place, the batch size or the frame rate of files.
        """
        weights = self._weights_digest or _digest_of_arrays(self.params)
        settings = [weights, self.defaults.sampling_settings(), dict(self.family.scheduler.config),
                    jnp.dtype(self.family.transformer.dtype).name]
        if (conditions := getattr(self.family, "conditions", None)) is not None:
            settings.append(dataclasses.asdict(conditions))
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]

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
        return_finite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> UInt8[np.ndarray, "B T H W 3"] | tuple[UInt8[np.ndarray, "B T H W 3"], Bool[np.ndarray, "B"]]:
        """One video per prompt; a video depends on its prompt, seed and the settings, not on its neighbours.

        Args:
          negative_prompt: what guidance moves away from: one text, or one per prompt.
          guidance_scale: 1 or less switches guidance off.
          seed: one int for all videos, or one per prompt.
          latents: initial noise in diffusers' axis order, instead of the seed's.
          return_finite: also return which videos met no NaN or infinity on the way; the others are not to be trusted.
          progress: called after every batch with the videos made and the videos asked for.

        Raises:
          BadInput: a size or number of steps the model cannot make, or arguments that do not fit each other.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if bad := [p for p in prompts if not isinstance(p, str)]:
            raise BadInput(f"prompts: {bad[0]!r} is not a text")
        chosen = self.defaults.replace(
            "generate", num_frames=num_frames, height=height, width=width, steps=steps, guidance_scale=guidance_scale,
            use_dynamic_cfg=use_dynamic_cfg, zero_uncond=zero_uncond)
        sizes = [given or default for given, default in
                 zip((chosen.num_frames, chosen.height, chosen.width), self.family.default_size(), strict=True)]
        latent_shape, keep = self.family.latent_shape(*sizes)
        if latents is not None:
            latents = _channels_last(latents, (len(prompts), *latent_shape), self.family.latent_axes)
        seeds = sampling.seeds_of(seed, len(prompts))
        negatives = self._negative_ids(negative_prompt, len(prompts)) if chosen.guidance_scale > 1 else None
        scales = sampling.guidance_scales(
            self.family.scheduler.timesteps(chosen.steps), chosen.guidance_scale, chosen.use_dynamic_cfg)
        ids = self._tokenize(prompts)

        frames, finite = [np.zeros((0, *sizes, 3), np.uint8)], [np.zeros(0, bool)]
        for rows, wanted in sampling.batches(len(prompts), self.defaults.batch):
            batch_frames, batch_finite = self._sample(
                self.params,
                self._placed(ids[rows]),
                None if negatives is None else self._placed(negatives[rows] if len(negatives) > 1 else negatives),
                None if latents is None else self._placed(latents[rows]),
                sampling.video_keys([seeds[i] for i in rows]),
                scales,
                latent_shape=latent_shape, keep=keep, zero_uncond=chosen.zero_uncond,
            )
            frames.append(np.asarray(batch_frames)[:wanted])
            finite.append(np.asarray(batch_finite)[:wanted])
            if progress is not None:
                progress(sum(map(len, finite)), len(prompts))
        videos = np.concatenate(frames)
        return (videos, np.concatenate(finite)) if return_finite else videos

    @functools.cached_property
    def _sample(self) -> Callable:
        """The compiled program; one per combination of shapes."""
        return jax.jit(self.family.sample, static_argnames=("latent_shape", "keep", "zero_uncond"))

    def _placed(self, rows: np.ndarray) -> Any:
        """Rows on the mesh, cut along the batch where the mesh divides it."""
        if self.mesh is None:
            return rows
        spec = rules.partition_spec(("batch",) + (None,) * (rows.ndim - 1), rows.shape, self.mesh)
        return jax.device_put(rows, jax.sharding.NamedSharding(self.mesh, spec))

    def _tokenize(self, prompts: Sequence[str]) -> np.ndarray:
        if not prompts:
            return np.zeros((0, self.family.text_tokens), np.int32)
        ids, cut = self.family.tokenize(prompts)
        if cut and not self._warned_of_cut:
            self._warned_of_cut = True
            start = prompts[cut[0]][:40]
            warnings.warn(
                f"{len(cut)} of {len(prompts)} prompts are longer than the {self.family.text_tokens} tokens this model"
                f" reads and were cut; the first one is {start!r}...", stacklevel=3)
        return ids

    def _negative_ids(self, negative_prompt: str | Sequence[str], count: int) -> np.ndarray:
        """[1, S] where all share one negative prompt (encoded once), else [B, S]."""
        if isinstance(negative_prompt, str):
            return self._tokenize([negative_prompt])
        if len(negative_prompt) != count:
            raise BadInput(
                f"negative_prompt: {len(negative_prompt)} texts for {count} prompts; give one, or one per prompt")
        return self._tokenize(list(negative_prompt))


def for_devices(family: Family, mesh: Any) -> Family:
    """The family with the denoiser's attention that the devices of `mesh` (None: this process's first) are good at."""
    return dataclasses.replace(family, transformer=family.transformer.clone(attention_fn=video_attention(mesh)))


def family_of(folder: Path) -> type[Family]:
    """The family that model_index.json names.

    Raises:
      BadInput: it is none of ours.
    """
    name = read_json(folder / "model_index.json").get("_class_name")
    if name not in FAMILIES:
        raise BadInput(f"{folder / 'model_index.json'}: _class_name is {name!r}; supported: {', '.join(FAMILIES)};"
                       f" any other pipeline of diffusers runs on torch as diffusers:{folder} (pip install"
                       " 'pav-jax[torch]')")
    return FAMILIES[name]


def saved_defaults(kind: type[Family], folder: Path) -> Generation:
    """What the folder's pav_generation.json says, over the family's own defaults."""
    path = folder / generation.FILE
    return kind.generation.replace(str(path), **read_json(path)) if path.exists() else kind.generation


def _channels_last(latents: Any, shape: tuple[int, ...], axes: tuple[str, ...]) -> Float[np.ndarray, "B T H W C"]:
    """Initial noise with diffusers' `axes` to ours, checked against `shape` (ours)."""
    ours = ("videos", "frames", "height", "width", "channels")
    latents, expected = np.asarray(latents, np.float32), [shape[ours.index(axis)] for axis in axes]
    if list(latents.shape) != expected:
        raise BadInput(f"latents: shape {list(latents.shape)}; ({', '.join(axes)}) = {expected} was expected")
    return latents.transpose([axes.index(axis) for axis in ours])


def _digest(folder: Path) -> str:
    """Hash of a pipeline's weights, configurations and tokenizer, whatever else lies beside them."""
    digest = hashlib.sha256()
    parts = ("tokenizer", "text_encoder", "transformer", "vae")
    for path in sorted(p for part in parts for p in (folder / part).iterdir() if p.suffix in HASHED):
        digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}".encode())
        add_file(digest, path)
    return digest.hexdigest()


def _digest_of_arrays(params: Mapping) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
