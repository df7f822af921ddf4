"""Trains the mini generator: `python -m pav_jax.mini.train_generator` writes checkpoints/generator (its vae is first).

Three stages: the T5 learns to read captions (which attributes does this text name?), scenes are encoded once, then the
CogVideoX denoiser learns to draw, on (caption, latent) pairs with the v-prediction objective and a frozen T5, the
caption left empty one time in ten for guidance. Both only ever read long captions in the generator's own dialect.

Every token of the T5's output must name every attribute, so the denoiser finds them wherever it looks; and the places
where the subject is weigh more in its loss, since they are few and are what a prompt is about.

The denoiser trains in legs: each starts from the weights the one before would have shipped, with fresh moments, a
learning rate that rises and falls again, and scenes of its own. `--continue` runs the last leg alone, from the weights
in the folder.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
from rich.progress import track

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.safetensors import write_json
from pav_jax.embedded import CHECKPOINTS
from pav_jax.mini import fit
from pav_jax.mini import world as w
from pav_jax.mini.captions import caption
from pav_jax.mini.render import render_with_masks, to_unit
from pav_jax.mini.tokenizers import encode, save, t5_tokenizer
from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.video.schedulers.schedule import NoiseSchedule

TEXT_TOKENS = 64
DENOISER = CogVideoXConfig(
    num_attention_heads=4, attention_head_dim=48, in_channels=16, out_channels=16, num_layers=4, time_embed_dim=128,
    text_embed_dim=128, sample_width=16, sample_height=16, sample_frames=w.FRAMES, patch_size=2,
    max_text_seq_length=TEXT_TOKENS, spatial_interpolation_scale=1.0,
)  # fmt: skip
SCHEDULER = {
    "_class_name": "CogVideoXDDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0, "timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False,
}  # fmt: skip
GENERATION = {
    "num_frames": w.FRAMES, "height": w.HEIGHT, "width": w.WIDTH, "steps": 8, "guidance_scale": 3.0,
    "use_dynamic_cfg": False, "fps": 8, "batch": 16,
}  # fmt: skip
FOLDER = CHECKPOINTS / "generator"
SCENES = 8192  # of each leg
READ_STEPS, READ_BATCH = 150, 64
BATCH, EMPTY = 16, 0.1
SUBJECT_WEIGHT = 3.0  # of latents that show the subject, or lie within a leg's margin of it; the others have 1
EMA = 0.998


@dataclasses.dataclass(frozen=True)
class Leg:
    steps: int
    learning_rate: float  # the highest
    margin: int  # latents around the subject that weigh as much: an outline is as much what lies outside of it


LEGS = (Leg(4000, 3e-3, 0), Leg(7000, 2e-3, 1))


def t5_config() -> T5Config:
    return T5Config(vocab_size=len(t5_tokenizer()), width=128, head_size=32, heads=4, layers=3, ff_width=256)


def labels(scenes: list[w.Scene]) -> np.ndarray:
    """int32 [B, 12]: every attribute of each scene, the five qualities included."""
    fields = ("subject", "colour", "size", "material", "motion", "background", "camera")
    return np.array([[*(getattr(s, f) for f in fields), *s.quality] for s in scenes], np.int32)


CLASSES = (len(w.SUBJECTS), len(w.COLOURS), 3, 3, len(w.MOTIONS), len(w.BACKGROUNDS), 3, 3, 3, 3, 3, 3)


def train_reader(t5: T5Encoder, params: dict) -> dict:
    """Stage 1: each token's T5 output -> one softmax per attribute. The heads are thrown away afterwards."""
    tokenizer, width = t5_tokenizer(), t5.config.width
    heads = jax.random.normal(jax.random.key(1), (width, sum(CLASSES))) * width**-0.5
    optimizer = fit.adamw(2e-3, READ_STEPS)
    edges = np.cumsum(CLASSES)[:-1]

    def loss(p, data):
        tokens_BxSxU = t5.apply({"params": p["t5"]}, data["ids"])
        parts = jnp.split(tokens_BxSxU @ p["heads"], edges, axis=-1)
        truth_BxSxA = jnp.broadcast_to(data["labels"][:, None], (*tokens_BxSxU.shape[:2], len(CLASSES)))
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(part, truth_BxSxA[..., i]).mean()
            for i, part in enumerate(parts)
        ]
        right = jnp.stack([(part.argmax(-1) == truth_BxSxA[..., i]).mean() for i, part in enumerate(parts)])
        return sum(losses), {"loss": sum(losses), "accuracy": right.mean()}

    def batch(i):
        rng = np.random.default_rng([21, i])
        scenes = [w.draw_scene(rng) for _ in range(READ_BATCH)]
        return {"ids": encode(tokenizer, [caption(s, rng) for s in scenes], TEXT_TOKENS), "labels": labels(scenes)}

    return fit.descend("t5_reader", loss, optimizer, {"t5": params, "heads": heads}, batch, READ_STEPS)["t5"]


def encoded_scenes(leg: int) -> tuple[list[w.Scene], np.ndarray, np.ndarray]:
    """Stage 2: SCENES scenes, their scaled latents, float16 [SCENES, 3, 16, 16, 16], and which of these show the
    subject or its margin, bool [SCENES, 3, 16, 16]; cached in the work folder."""
    rng = np.random.default_rng([22, leg])
    scenes = [w.draw_scene(rng) for _ in range(SCENES)]
    path = fit.WORK / f"latents_{leg}.npz"
    if not path.exists():
        config, params = folder.load(vae_hf, FOLDER / "vae", jnp.float32)
        vae = CogVideoXVAE(config)
        encode = fit.data_parallel(
            lambda video: config.scale(vae.apply({"params": params}, to_unit(video), method="encode")[0]))
        parts = []
        for start in track(range(0, SCENES, 16), "encoding scenes"):
            videos, masks = render_with_masks(scenes[start : start + 16], batch=16)
            parts.append((np.asarray(encode(videos), np.float16), latent_masks(masks, LEGS[leg].margin)))
        latents, shown = (np.concatenate(column) for column in zip(*parts, strict=True))
        np.savez(path, latents=latents, shown=shown)
    cached = np.load(path)
    return scenes, cached["latents"], cached["shown"]


def latent_masks(masks_BxTxHxW: np.ndarray, margin: int) -> np.ndarray:
    """Pixels to latents, bool [B, 3, 16, 16]: frames 0, 1-4 and 5-8, and 4 x 4 pixels, any of them; then `margin`
    latents wider on each side."""
    B, T, H, W = masks_BxTxHxW.shape
    small = masks_BxTxHxW.reshape(B, T, H // 4, 4, W // 4, 4).any((3, 5))
    small = np.concatenate([small[:, :1], small[:, 1:].reshape(B, T // 4, 4, H // 4, W // 4).any(2)], axis=1)
    return scipy.ndimage.maximum_filter(small, size=(1, 1, 2 * margin + 1, 2 * margin + 1))


def fresh_denoiser(text_width: int) -> dict:
    latents = np.zeros((1, (w.FRAMES - 1) // 4 + 1, w.HEIGHT // 4, w.WIDTH // 4, DENOISER.in_channels), np.float32)
    text = np.zeros((1, TEXT_TOKENS, text_width), np.float32)
    params = jax.jit(CogVideoXTransformer(DENOISER).init)(jax.random.key(2), latents, text, np.zeros(1))["params"]
    print(f"denoiser: {sum(x.size for x in jax.tree.leaves(params)):,} parameters", flush=True)
    return params


def train_denoiser(t5: T5Encoder, t5_params: dict, params: dict, leg: int) -> dict:
    """Stage 3, one leg of it: returns the moving average of the denoiser's parameters, as it is shipped."""
    tokenizer = t5_tokenizer()
    scenes, latents, shown = encoded_scenes(leg)
    dit = CogVideoXTransformer(DENOISER, unroll=DENOISER.num_layers)
    noise_schedule = NoiseSchedule.from_config(SCHEDULER)
    optimizer = fit.muon(LEGS[leg].learning_rate, LEGS[leg].steps, warmup=100)

    def loss(p, data, key):
        k_time, k_noise = jax.random.split(key)
        clean = data["latents"].astype(jnp.float32)
        # One timestep per slice of the range: the batch covers all noise levels evenly.
        t = (jax.random.uniform(k_time) + jnp.arange(BATCH)) / BATCH % 1.0
        t = jnp.clip((t * 1000).astype(jnp.int32), 0, 999)
        noise = jax.random.normal(k_noise, clean.shape)
        text = t5.apply({"params": t5_params}, data["ids"])
        out = dit.apply({"params": p}, noise_schedule.add_noise(clean, noise, t), text, t)
        error = jnp.square(out - noise_schedule.velocity(clean, noise, t)).mean(-1)
        weight = 1 + (SUBJECT_WEIGHT - 1) * data["shown"]
        return (error * weight).sum() / weight.sum(), error.mean()

    def step(state, data, key):
        (value, plain), gradient = jax.value_and_grad(loss, has_aux=True)(state["params"], data, key)
        updates, opt = optimizer.update(gradient, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        average = fit.ema(state["average"], params, EMA, state["step"])
        return {"params": params, "opt": opt, "average": average, "step": state["step"] + 1}, {
            "loss": value, "plain": plain}

    def batch(i):
        rng = np.random.default_rng([23, *range(1, leg + 1), i])
        picks = rng.integers(SCENES, size=BATCH)
        texts = ["" if rng.random() < EMPTY else caption(scenes[s], rng) for s in picks]
        return {"latents": latents[picks], "shown": shown[picks], "ids": encode(tokenizer, texts, TEXT_TOKENS)}

    state = {"params": params, "opt": optimizer.init(params), "average": jax.tree.map(jnp.copy, params),
             "step": jnp.zeros((), jnp.int32)}  # fmt: skip
    return shipped(fit.fit(f"denoiser_{leg}", step, state, batch, LEGS[leg].steps, seed=leg)["average"])


def shipped(params: dict) -> dict:
    """What bfloat16 leaves of `params`, float32: what comes after learns from what users will have."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), fit.to_bf16(params))


def write_folder(t5: dict, dit: dict) -> None:
    """The diffusers folder; its vae is there already."""
    folder.save(transformer_hf, FOLDER / "transformer", DENOISER, fit.to_bf16(dit))
    folder.save(t5_hf, FOLDER / "text_encoder", t5_config(), fit.to_bf16(t5))
    save(t5_tokenizer(), FOLDER / "tokenizer")
    write_json(FOLDER / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(FOLDER / "pav_generation.json", GENERATION)
    write_json(FOLDER / "model_index.json", {
        "_class_name": "CogVideoXPipeline", "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"], "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--continue", dest="go_on", action="store_true",
                        help="only the last leg, from the weights in the folder")
    fit.use_every_core()
    t5 = T5Encoder(t5_config(), unroll=3)
    if parser.parse_args().go_on:
        _, t5_params = folder.load(t5_hf, FOLDER / "text_encoder", jnp.float32)
        _, params = folder.load(transformer_hf, FOLDER / "transformer", jnp.float32)
        legs = [len(LEGS) - 1]
    else:
        t5_params = jax.jit(t5.init)(jax.random.key(0), np.zeros((1, TEXT_TOKENS), np.int32))["params"]
        t5_params = shipped(train_reader(t5, t5_params))
        params = fresh_denoiser(t5.config.width)
        legs = range(len(LEGS))
    for leg in legs:
        params = train_denoiser(t5, t5_params, params, leg)
    write_folder(t5_params, params)


if __name__ == "__main__":
    main()
