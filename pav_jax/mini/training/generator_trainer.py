"""Trains a mini generator of any architecture; its VAE is trained before.

First the T5 encoder learns to classify the attributes that a caption names. Then scenes are encoded
once, and the denoiser is trained on (caption, latent) pairs with a frozen T5. One caption in ten is
empty, for classifier-free guidance. Both see only long captions in the generator's own style.

Every output token of the T5 has to predict every attribute, so that the denoiser finds them at any
position. Latents that show the subject have a higher weight in the denoiser's loss, because they
are few and are what a prompt is about.

The denoiser is trained in phases. Each starts from the weights that the previous one would have
published, with a fresh optimizer state, its own learning rate schedule and its own scenes.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
from jaxtyping import Array, Bool
from rich.progress import track

from pav_jax.checkpoints import folder
from pav_jax.mini import world as w
from pav_jax.mini.render import render_with_masks, to_unit
from pav_jax.mini.tokenizers import encode, save, t5_tokenizer
from pav_jax.mini.training import fit
from pav_jax.models.t5 import T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.storage.json_files import write_json

TEXT_TOKENS = 64
LATENTS = ((w.FRAMES - 1) // 4 + 1, w.HEIGHT // 4, w.WIDTH // 4)
NUM_SCENES = 8192  # of each phase
T5_STEPS = 150
T5_BATCH_SIZE = 64
BATCH_SIZE = 16
EMPTY_CAPTION_SHARE = 0.1
# Loss weight of latents that show the subject, or lie within a phase's margin of it; others have 1.
SUBJECT_WEIGHT = 3.0
EMA_DECAY = 0.998


@dataclasses.dataclass(frozen=True)
class TrainingPhase:
    """One phase of the denoiser's training.

    Attributes:
      steps: optimizer steps.
      learning_rate: peak of the schedule.
      margin: latents around the subject that have its loss weight too, because an outline depends
        on both of its sides.
    """

    steps: int
    learning_rate: float
    margin: int


class GeneratorTrainer(abc.ABC):
    """The training of a generator. Subclasses define what depends on the architecture.

    Attributes:
      prefix: of its state and cache files in the work folder.
      folder: of the checkpoint.
      phases: of the denoiser's training.
      denoiser_layout, vae_layout: the `hf.py` modules.
      vae: makes the VAE from its configuration.
      scheduler, generation, index: contents of scheduler_config.json, pav_generation.json and
        model_index.json.
      t5: the text encoder.
      denoiser: the denoiser.
    """

    prefix: ClassVar[str]
    folder: ClassVar[Path]
    phases: ClassVar[Sequence[TrainingPhase]]
    denoiser_layout: ClassVar[Any]
    vae_layout: ClassVar[Any]
    vae: ClassVar[Callable[[Any], Any]]
    scheduler: ClassVar[Mapping[str, Any]]
    generation: ClassVar[Mapping[str, Any]]
    index: ClassVar[Mapping[str, Any]]

    t5: T5Encoder
    denoiser: Any

    @abc.abstractmethod
    def caption(self, scene: w.Scene, rng: np.random.Generator) -> str:
        """A long caption in the generator's style."""

    @abc.abstractmethod
    def encode_text(self, t5_params: dict, ids_BxS: Array) -> tuple[Array, Array | None]:
        """The denoiser's text input [B, S, U], and the mask of its tokens, bool [B, S]; None: all
        tokens."""

    @abc.abstractmethod
    def add_noise(self, clean: Array, noise: Array, level_B: Array) -> tuple[Array, Array, Array]:
        """Noisy latents, timesteps [B] and the denoiser's target, for noise levels in [0, 1)."""

    def train(self) -> None:
        """Trains everything but the VAE, and writes the checkpoint."""
        fit.use_all_cores()
        ids = np.zeros((1, TEXT_TOKENS), np.int32)
        t5_params = jax.jit(self.t5.init)(jax.random.key(0), ids)["params"]
        t5_params = fit.round_to_bf16(self.train_t5(t5_params))
        params = self.init_denoiser()
        for phase in range(len(self.phases)):
            params = self.train_denoiser(t5_params, params, phase)
        self.write_checkpoint(t5_params, params)

    def train_t5(self, params: dict) -> dict:
        """Trains the T5 with one softmax per attribute on each token's output. The heads are
        discarded."""
        tokenizer = t5_tokenizer()
        width = self.t5.config.width
        heads = jax.random.normal(jax.random.key(1), (width, sum(w.CLASSES))) * width**-0.5
        optimizer = fit.adamw(2e-3, T5_STEPS)
        edges = np.cumsum(w.CLASSES)[:-1]

        def loss(p, data):
            tokens_BxSxU, mask_BxS = self.encode_text(p["t5"], data["ids"])
            logits = jnp.split(tokens_BxSxU @ p["heads"], edges, axis=-1)
            labels_BxSxA = jnp.broadcast_to(
                data["labels"][:, None], (*tokens_BxSxU.shape[:2], len(w.CLASSES))
            )
            losses = []
            accuracies = []
            for i, logits_BxSxC in enumerate(logits):
                labels = labels_BxSxA[..., i]
                ce = optax.softmax_cross_entropy_with_integer_labels(logits_BxSxC, labels)
                losses.append(ce.mean(where=mask_BxS))
                accuracies.append((logits_BxSxC.argmax(-1) == labels).mean(where=mask_BxS))
            total = sum(losses)
            return total, {"loss": total, "accuracy": jnp.stack(accuracies).mean()}

        def make_batch(i):
            rng = np.random.default_rng([21, i])
            scenes = [w.draw_scene(rng) for _ in range(T5_BATCH_SIZE)]
            return {
                "ids": encode(tokenizer, [self.caption(s, rng) for s in scenes], TEXT_TOKENS),
                "labels": w.attributes(scenes),
            }

        trained = fit.minimize(
            f"{self.prefix}t5_reader",
            loss,
            optimizer,
            {"t5": params, "heads": heads},
            make_batch,
            T5_STEPS,
        )
        return trained["t5"]

    def encoded_scenes(self, phase: int) -> tuple[list[w.Scene], np.ndarray, np.ndarray]:
        """The scenes of a phase and their latents, cached in the work folder.

        Returns:
          NUM_SCENES scenes; their scaled latents, float16 [NUM_SCENES, 3, 16, 16, 16]; which of
          these show the subject or its margin, bool [NUM_SCENES, 3, 16, 16].
        """
        rng = np.random.default_rng([22, phase])
        scenes = [w.draw_scene(rng) for _ in range(NUM_SCENES)]
        path = fit.WORK / f"{self.prefix}latents_{phase}.npz"
        if not path.exists():
            encode_latents = self._make_encoder()
            compiled = fit.data_parallel(lambda video: encode_latents(to_unit(video)))
            latents = []
            masks = []
            for start in track(range(0, NUM_SCENES, 16), "encoding scenes"):
                videos, video_masks = render_with_masks(scenes[start : start + 16], batch=16)
                latents.append(np.asarray(compiled(videos), np.float16))
                masks.append(latent_masks(video_masks, self.phases[phase].margin))
            np.savez(path, latents=np.concatenate(latents), shown=np.concatenate(masks))
        cached = np.load(path)
        return scenes, cached["latents"], cached["shown"]

    def _make_encoder(self) -> Callable[[Array], Array]:
        """The trained VAE's encoder: videos in [-1, 1], [B, 9, 64, 64, 3], to scaled latents."""
        config, params = folder.load(self.vae_layout, self.folder / "vae", jnp.float32)
        vae = type(self).vae(config)
        return lambda video: config.scale(vae.apply({"params": params}, video, method="encode")[0])

    def init_denoiser(self) -> dict:
        """Random parameters of the denoiser."""
        latents = np.zeros((1, *LATENTS, self.denoiser.config.in_channels), np.float32)
        text = np.zeros((1, TEXT_TOKENS, self.t5.config.width), np.float32)
        init = jax.jit(self.denoiser.clone(unroll=1).init)
        params = init(jax.random.key(2), latents, text, np.zeros(1))["params"]
        print(f"denoiser: {sum(x.size for x in jax.tree.leaves(params)):,} parameters", flush=True)
        return params

    def train_denoiser(self, t5_params: dict, params: dict, phase: int) -> dict:
        """Runs one phase of the denoiser's training.

        Returns:
          The moving average of the parameters, rounded to bfloat16.
        """
        steps = self.phases[phase].steps
        optimizer = fit.muon(self.phases[phase].learning_rate, steps, warmup=100)

        def step(state, data, key):
            def loss(params):
                return self._denoiser_loss(params, t5_params, data, key)

            (value, plain), gradient = jax.value_and_grad(loss, has_aux=True)(state["params"])
            updates, opt = optimizer.update(gradient, state["opt"], state["params"])
            params = optax.apply_updates(state["params"], updates)
            average = fit.update_ema(state["average"], params, EMA_DECAY, state["step"])
            state = {"params": params, "opt": opt, "average": average, "step": state["step"] + 1}
            return state, {"loss": value, "plain": plain}

        state = {
            "params": params,
            "opt": optimizer.init(params),
            "average": jax.tree.map(jnp.copy, params),
            "step": jnp.zeros((), jnp.int32),
        }
        make_batch = self._make_batch_function(phase)
        state = fit.fit(
            f"{self.prefix}denoiser_{phase}", step, state, make_batch, steps, seed=phase
        )
        return fit.round_to_bf16(state["average"])

    def _denoiser_loss(self, params, t5_params, data, key):
        """The weighted mean square error, and the unweighted one."""
        k_time, k_noise = jax.random.split(key)
        clean = data["latents"].astype(jnp.float32)
        # Stratified: one level per equal part of the range, so that a batch covers all noise
        # levels.
        level = (jax.random.uniform(k_time) + jnp.arange(BATCH_SIZE)) / BATCH_SIZE % 1.0
        noisy, t, target = self.add_noise(clean, jax.random.normal(k_noise, clean.shape), level)
        text, _ = self.encode_text(t5_params, data["ids"])
        prediction = self.denoiser.apply({"params": params}, noisy, text, t)
        error = jnp.square(prediction - target).mean(-1)
        weight = 1 + (SUBJECT_WEIGHT - 1) * data["shown"]
        return (error * weight).sum() / weight.sum(), error.mean()

    def _make_batch_function(self, phase: int) -> Callable[[int], dict[str, np.ndarray]]:
        tokenizer = t5_tokenizer()
        scenes, latents, shown = self.encoded_scenes(phase)

        def draw_caption(scene: w.Scene, rng: np.random.Generator) -> str:
            return "" if rng.random() < EMPTY_CAPTION_SHARE else self.caption(scene, rng)

        def make_batch(i: int) -> dict[str, np.ndarray]:
            rng = np.random.default_rng([23, *range(1, phase + 1), i])
            picks = rng.integers(NUM_SCENES, size=BATCH_SIZE)
            texts = [draw_caption(scenes[pick], rng) for pick in picks]
            return {
                "latents": latents[picks],
                "shown": shown[picks],
                "ids": encode(tokenizer, texts, TEXT_TOKENS),
            }

        return make_batch

    def write_checkpoint(self, t5_params: dict, params: dict) -> None:
        """Writes the diffusers folder, which contains the VAE already."""
        path = self.folder
        denoiser_params = fit.to_bf16(params)
        folder.save(
            self.denoiser_layout, path / "transformer", self.denoiser.config, denoiser_params
        )
        folder.save(t5_hf, path / "text_encoder", self.t5.config, fit.to_bf16(t5_params))
        save(t5_tokenizer(), path / "tokenizer")
        write_json(path / "scheduler" / "scheduler_config.json", dict(self.scheduler))
        write_json(path / "pav_generation.json", dict(self.generation))
        write_json(path / "model_index.json", dict(self.index))


def model_index(
    pipeline: str, scheduler: str, text_encoder: str, transformer: str, vae: str
) -> dict[str, Any]:
    """The content of `model_index.json`, from class names."""
    return {
        "_class_name": pipeline,
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", text_encoder],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", transformer],
        "vae": ["diffusers", vae],
    }


def latent_masks(
    masks_BxTxHxW: Bool[np.ndarray, "B T H W"], margin: int
) -> Bool[np.ndarray, "B t h w"]:
    """Reduces pixel masks to latents: frames 0, 1-4 and 5-8, and 4 x 4 pixels, with any().

    Args:
      margin: latents by which the mask is widened on each side.
    """
    B, T, H, W = masks_BxTxHxW.shape
    frames = np.any(masks_BxTxHxW.reshape(B, T, H // 4, 4, W // 4, 4), axis=(3, 5))
    later = np.any(frames[:, 1:].reshape(B, T // 4, 4, H // 4, W // 4), axis=2)
    latents = np.concatenate([frames[:, :1], later], axis=1)
    size = (1, 1, 2 * margin + 1, 2 * margin + 1)
    return scipy.ndimage.maximum_filter(latents, size=size)
