"""How a mini generator learns to draw, whatever its architecture; its VAE is there first.

Three stages: the T5 learns to read captions (which attributes does this text name?), scenes are
encoded once, then the denoiser learns to draw, on (caption, latent) pairs with a frozen T5, the
caption left empty one time in ten for guidance. Both only ever read long captions in the
generator's own dialect.

Every token of the T5's output must name every attribute, so the denoiser finds them wherever it
looks; and the places where the subject is weigh more in its loss, since they are few and are what a
prompt is about.

The denoiser trains in legs: each starts from the weights the one before would have shipped, with
fresh moments, a learning rate that rises and falls again, and scenes of its own.
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
from jaxtyping import Array
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
SCENES = 8192  # of each leg
READ_STEPS, READ_BATCH = 150, 64
BATCH, EMPTY = 16, 0.1
SUBJECT_WEIGHT = (
    3.0  # of latents that show the subject, or lie within a leg's margin of it; the others have 1
)
EMA = 0.998


@dataclasses.dataclass(frozen=True)
class Leg:
    steps: int
    learning_rate: float  # the highest
    # latents around the subject that weigh as much: an outline is as much what lies outside of it
    margin: int


class Draughtsman(abc.ABC):
    """What the training of one generator has of its own."""

    prefix: ClassVar[str]  # of its states and caches in the work folder
    folder: ClassVar[Path]
    legs: ClassVar[Sequence[Leg]]
    denoiser_layout: ClassVar[Any]  # its `hf.py`
    vae_layout: ClassVar[Any]
    vae: ClassVar[Callable[[Any], Any]]  # configuration -> the module
    scheduler: ClassVar[Mapping[str, Any]]
    generation: ClassVar[Mapping[str, Any]]
    index: ClassVar[Mapping[str, Any]]  # model_index.json

    t5: T5Encoder
    dit: Any  # the denoiser

    @abc.abstractmethod
    def caption(self, scene: w.Scene, rng: np.random.Generator) -> str:
        """A long caption in the generator's dialect."""

    @abc.abstractmethod
    def read(self, t5_params: dict, ids_BxS: Array) -> tuple[Array, Array | None]:
        """What the denoiser is given, [B, S, U], and which of its tokens say something, bool [B,
        S]; None: all."""

    @abc.abstractmethod
    def noised(self, clean: Array, noise: Array, level_B: Array) -> tuple[Array, Array, Array]:
        """Noisy latents, timesteps [B] and what the denoiser should answer; levels are spread
        evenly over [0, 1)."""

    def encoder(self) -> Callable[[Array], Array]:
        """The trained VAE: videos in [-1, 1], [B, 9, 64, 64, 3], to latents as the denoiser sees
        them."""
        config, params = folder.load(self.vae_layout, self.folder / "vae", jnp.float32)
        vae = self.vae(config)
        return lambda video: config.scale(vae.apply({"params": params}, video, method="encode")[0])


def model_index(
    pipeline: str, scheduler: str, text_encoder: str, transformer: str, vae: str
) -> dict[str, Any]:
    """The content of `model_index.json`, from the names of classes."""
    return {
        "_class_name": pipeline,
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", text_encoder],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", transformer],
        "vae": ["diffusers", vae],
    }


def train_reader(who: Draughtsman, params: dict) -> dict:
    """Stage 1: each token's T5 output -> one softmax per attribute. The heads are thrown away
    afterwards."""
    tokenizer, width = t5_tokenizer(), who.t5.config.width
    heads = jax.random.normal(jax.random.key(1), (width, sum(w.CLASSES))) * width**-0.5
    optimizer = fit.adamw(2e-3, READ_STEPS)
    edges = np.cumsum(w.CLASSES)[:-1]

    def loss(p, data):
        tokens_BxSxU, said_BxS = who.read(p["t5"], data["ids"])
        parts = jnp.split(tokens_BxSxU @ p["heads"], edges, axis=-1)
        truth_BxSxA = jnp.broadcast_to(
            data["labels"][:, None], (*tokens_BxSxU.shape[:2], len(w.CLASSES))
        )
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(part, truth_BxSxA[..., i]).mean(
                where=said_BxS
            )
            for i, part in enumerate(parts)
        ]
        right = jnp.stack(
            [
                (part.argmax(-1) == truth_BxSxA[..., i]).mean(where=said_BxS)
                for i, part in enumerate(parts)
            ]
        )
        return sum(losses), {"loss": sum(losses), "accuracy": right.mean()}

    def batch(i):
        rng = np.random.default_rng([21, i])
        scenes = [w.draw_scene(rng) for _ in range(READ_BATCH)]
        return {
            "ids": encode(tokenizer, [who.caption(s, rng) for s in scenes], TEXT_TOKENS),
            "labels": w.attributes(scenes),
        }

    state = {"t5": params, "heads": heads}
    return fit.descend(f"{who.prefix}t5_reader", loss, optimizer, state, batch, READ_STEPS)["t5"]


def encoded_scenes(who: Draughtsman, leg: int) -> tuple[list[w.Scene], np.ndarray, np.ndarray]:
    """Stage 2: SCENES scenes, their scaled latents, float16 [SCENES, 3, 16, 16, 16], and which of
    these show the subject or its margin, bool [SCENES, 3, 16, 16]; cached in the work folder."""
    rng = np.random.default_rng([22, leg])
    scenes = [w.draw_scene(rng) for _ in range(SCENES)]
    path = fit.WORK / f"{who.prefix}latents_{leg}.npz"
    if not path.exists():
        scaled = who.encoder()
        encode = fit.data_parallel(lambda video: scaled(to_unit(video)))
        parts = []
        for start in track(range(0, SCENES, 16), "encoding scenes"):
            videos, masks = render_with_masks(scenes[start : start + 16], batch=16)
            parts.append(
                (np.asarray(encode(videos), np.float16), latent_masks(masks, who.legs[leg].margin))
            )
        latents, shown = (np.concatenate(column) for column in zip(*parts, strict=True))
        np.savez(path, latents=latents, shown=shown)
    cached = np.load(path)
    return scenes, cached["latents"], cached["shown"]


def latent_masks(masks_BxTxHxW: np.ndarray, margin: int) -> np.ndarray:
    """Pixels to latents, bool [B, 3, 16, 16]: frames 0, 1-4 and 5-8, and 4 x 4 pixels, any of them;
    then `margin` latents wider on each side."""
    B, T, H, W = masks_BxTxHxW.shape
    small = masks_BxTxHxW.reshape(B, T, H // 4, 4, W // 4, 4).any((3, 5))
    small = np.concatenate(
        [small[:, :1], small[:, 1:].reshape(B, T // 4, 4, H // 4, W // 4).any(2)], axis=1
    )
    return scipy.ndimage.maximum_filter(small, size=(1, 1, 2 * margin + 1, 2 * margin + 1))


def fresh_denoiser(who: Draughtsman) -> dict:
    latents = np.zeros((1, *LATENTS, who.dit.config.in_channels), np.float32)
    text = np.zeros((1, TEXT_TOKENS, who.t5.config.width), np.float32)
    params = jax.jit(who.dit.clone(unroll=1).init)(jax.random.key(2), latents, text, np.zeros(1))[
        "params"
    ]
    print(f"denoiser: {sum(x.size for x in jax.tree.leaves(params)):,} parameters", flush=True)
    return params


def train_denoiser(who: Draughtsman, t5_params: dict, params: dict, leg: int) -> dict:
    """Stage 3, one leg of it: returns the moving average of the denoiser's parameters, as it is
    shipped."""
    tokenizer = t5_tokenizer()
    scenes, latents, shown = encoded_scenes(who, leg)
    optimizer = fit.muon(who.legs[leg].learning_rate, who.legs[leg].steps, warmup=100)

    def loss(p, data, key):
        k_time, k_noise = jax.random.split(key)
        clean = data["latents"].astype(jnp.float32)
        # One level per slice of the range: the batch covers all noise levels evenly.
        level = (jax.random.uniform(k_time) + jnp.arange(BATCH)) / BATCH % 1.0
        noisy, t, target = who.noised(clean, jax.random.normal(k_noise, clean.shape), level)
        text, _ = who.read(t5_params, data["ids"])
        error = jnp.square(who.dit.apply({"params": p}, noisy, text, t) - target).mean(-1)
        weight = 1 + (SUBJECT_WEIGHT - 1) * data["shown"]
        return (error * weight).sum() / weight.sum(), error.mean()

    def step(state, data, key):
        (value, plain), gradient = jax.value_and_grad(loss, has_aux=True)(
            state["params"], data, key
        )
        updates, opt = optimizer.update(gradient, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        average = fit.ema(state["average"], params, EMA, state["step"])
        return {"params": params, "opt": opt, "average": average, "step": state["step"] + 1}, {
            "loss": value,
            "plain": plain,
        }

    def batch(i):
        rng = np.random.default_rng([23, *range(1, leg + 1), i])
        picks = rng.integers(SCENES, size=BATCH)
        texts = ["" if rng.random() < EMPTY else who.caption(scenes[s], rng) for s in picks]
        return {
            "latents": latents[picks],
            "shown": shown[picks],
            "ids": encode(tokenizer, texts, TEXT_TOKENS),
        }

    state = {
        "params": params,
        "opt": optimizer.init(params),
        "average": jax.tree.map(jnp.copy, params),
        "step": jnp.zeros((), jnp.int32),
    }
    return shipped(
        fit.fit(f"{who.prefix}denoiser_{leg}", step, state, batch, who.legs[leg].steps, seed=leg)[
            "average"
        ]
    )


def shipped(params: dict) -> dict:
    """What bfloat16 leaves of `params`, float32: what comes after learns from what users will
    have."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), fit.to_bf16(params))


def write_folder(who: Draughtsman, t5: dict, dit: dict) -> None:
    """The diffusers folder; its vae is there already."""
    folder.save(who.denoiser_layout, who.folder / "transformer", who.dit.config, fit.to_bf16(dit))
    folder.save(t5_hf, who.folder / "text_encoder", who.t5.config, fit.to_bf16(t5))
    save(t5_tokenizer(), who.folder / "tokenizer")
    write_json(who.folder / "scheduler" / "scheduler_config.json", dict(who.scheduler))
    write_json(who.folder / "pav_generation.json", dict(who.generation))
    write_json(who.folder / "model_index.json", dict(who.index))


def main(who: Callable[[], Draughtsman]) -> None:
    """The whole training of a generator, and its folder."""
    fit.use_every_core()
    who = who()
    t5_params = jax.jit(who.t5.init)(jax.random.key(0), np.zeros((1, TEXT_TOKENS), np.int32))[
        "params"
    ]
    t5_params = shipped(train_reader(who, t5_params))
    params = fresh_denoiser(who)
    for leg in range(len(who.legs)):
        params = train_denoiser(who, t5_params, params, leg)
    write_folder(who, t5_params, params)
