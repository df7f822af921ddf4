"""Trains the mini CLIP: `python -m pav_jax.mini.training.clip` writes checkpoints/clip (after the
VAE).

It learns what users mean, so it reads every synonym: users' short prompts two steps in three, long
captions in all eight dialects otherwise; and it looks at renders as well as at their VAE
reconstructions, since generated videos carry the VAE's touch. One image is a contact sheet of four
evenly spaced frames, so motion can be seen.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.captions import DIALECTS, dialect, user_prompt
from pav_jax.mini.render import render, to_unit
from pav_jax.mini.tokenizers import BOS, EOS, PAD, clip_tokenizer, encode, save
from pav_jax.mini.training import fit
from pav_jax.mini.training.generator import FOLDER as GENERATOR
from pav_jax.mini.world import CLASSES, Scene, attributes, draw_scene
from pav_jax.models.clip import hf
from pav_jax.models.clip.model import CLIP, CLIPConfig, TextConfig, VisionConfig, normalise
from pav_jax.models.cogvideox import vae_hf
from pav_jax.models.cogvideox.vae import CogVideoXVAE
from pav_jax.rewards.clip_tower import contact_sheet
from pav_jax.rewards.preprocess import frame_indices, resize_bicubic
from pav_jax.storage.json_files import write_json

FOLDER = CHECKPOINTS / "clip"
SCENES, RECONSTRUCTED = 24576, 1024
STEPS, BATCH = 2200, 32
REBUILT_SHARE = 8  # of every batch
SHORT_TOKENS, LONG_TOKENS = 24, 64
FRAMES_SHOWN = 4
SIDE = 96  # pixels of the sheet as the tower sees it
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's image statistics
STD = (0.26862954, 0.26130258, 0.27577711)


def config() -> CLIPConfig:
    text = TextConfig(
        vocab_size=len(clip_tokenizer()),
        width=128,
        ff_width=512,
        layers=3,
        heads=4,
        positions=LONG_TOKENS,
        eos_id=EOS,
        pad_id=PAD,
        bos_id=BOS,
    )
    vision = VisionConfig(width=128, ff_width=512, layers=3, heads=4, image_size=SIDE, patch_size=8)
    return CLIPConfig(text=text, vision=vision, projection_dim=128)


def rebuilder() -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [B, T, H, W, 3] -> the same through the generator's VAE."""
    vae_config, params = folder.load(vae_hf, GENERATOR / "vae", jnp.float32)
    vae = CogVideoXVAE(vae_config)

    def rebuild(video):
        mean, _ = vae.apply({"params": params}, to_unit(video), method="encode")
        out = vae.apply({"params": params}, mean, method="decode")
        return jnp.round(jnp.clip(out * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)

    compiled = fit.data_parallel(rebuild)
    return lambda videos: np.concatenate(
        [np.asarray(compiled(videos[i : i + 16])) for i in range(0, len(videos), 16)]
    )


def sheets() -> tuple[list[Scene], np.ndarray]:
    """SCENES scenes as contact sheets, resized as the tower does, [SCENES, SIDE, SIDE, 3]; the
    first RECONSTRUCTED of them have been through the VAE."""
    rng = np.random.default_rng(31)
    scenes = [draw_scene(rng) for _ in range(SCENES)]
    path = fit.WORK / "sheets.npy"
    if path.exists():
        return scenes, np.load(path)
    rebuild, resize = (
        rebuilder(),
        jax.jit(lambda images: resize_bicubic(images, SIDE, SIDE).astype(jnp.uint8)),
    )
    parts = []
    for start in track(range(0, SCENES, 64), "drawing contact sheets"):
        clips = render(scenes[start : start + 64])
        clips = rebuild(clips) if start < RECONSTRUCTED else clips
        parts.append(
            np.asarray(
                resize(contact_sheet(clips[:, frame_indices(clips.shape[1], FRAMES_SHOWN)])[:, 0])
            )
        )
    np.save(path, np.concatenate(parts))
    return scenes, np.load(path)


def main() -> None:
    fit.use_every_core()
    scenes, images = sheets()
    tokenizer = clip_tokenizer()
    clip = CLIP(config(), unroll=True)
    mean, std = jnp.asarray(MEAN), jnp.asarray(STD)
    shapes = (np.zeros((1, LONG_TOKENS), np.int32), np.zeros((1, SIDE, SIDE, 3), np.float32))
    params = jax.jit(clip.init)(jax.random.key(0), *shapes)["params"]
    optimizer = fit.muon(3e-3, STEPS, warmup=100, weight_decay=0.05)
    target = jnp.arange(BATCH)

    # Linear heads that name a scene's attributes from either embedding: they speed the towers up
    # and are thrown away.
    edges, said = (
        np.cumsum(CLASSES)[:-1],
        [0, 1, 4],
    )  # a user always says subject, colour and motion
    keys = jax.random.split(jax.random.key(1))
    params = {"clip": params} | {
        tower: jax.random.normal(k, (config().projection_dim, sum(CLASSES))) * 0.05
        for tower, k in zip(("image_heads", "text_heads"), keys, strict=True)
    }
    ce = optax.softmax_cross_entropy_with_integer_labels

    def naming(logits, labels, slots):
        parts = jnp.split(logits, edges, axis=-1)
        right = jnp.stack([(parts[i].argmax(-1) == labels[:, i]).mean() for i in (0, 1, 4)])
        return sum(ce(parts[i], labels[:, i]).mean() for i in slots), right

    def loss(p, data):
        pixels = (data["images"].astype(jnp.float32) / 255 - mean) / std
        text, image, scale = clip.apply({"params": p["clip"]}, data["ids"], pixels)
        logits = jnp.minimum(scale, 100.0) * normalise(image) @ normalise(text).T
        contrast = 0.5 * (ce(logits, target).mean() + ce(logits.T, target).mean())
        seen, right = naming(image @ p["image_heads"], data["labels"], range(len(CLASSES)))
        read, _ = naming(text @ p["text_heads"], data["labels"], said)
        metrics = {
            "contrast": contrast,
            "top1": (logits.argmax(-1) == target).mean(),
            "scale": scale,
            "seen": seen,
            "read": read,
            "subject": right[0],
            "colour": right[1],
            "motion": right[2],
        }
        return contrast + 0.3 * (seen + read), metrics

    def batch(i):
        rng = np.random.default_rng([32, i])
        picks = np.concatenate(
            [
                rng.choice(RECONSTRUCTED, REBUILT_SHARE, replace=False),
                RECONSTRUCTED
                + rng.choice(SCENES - RECONSTRUCTED, BATCH - REBUILT_SHARE, replace=False),
            ]
        )
        if i % 3 < 2:
            ids = encode(tokenizer, [user_prompt(scenes[s], rng) for s in picks], SHORT_TOKENS)
        else:
            texts = [
                dialect(scenes[s], int(rng.integers(DIALECTS)), rng, canonical=0.4) for s in picks
            ]
            ids = encode(tokenizer, texts, LONG_TOKENS)
        return {
            "images": images[picks],
            "ids": ids,
            "labels": attributes([scenes[s] for s in picks]),
        }

    params = fit.descend("clip", loss, optimizer, params, batch, STEPS)["clip"]
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(tokenizer, FOLDER)
    write_preprocessor(FOLDER, SIDE)


def write_preprocessor(directory: Path, side: int) -> None:
    """How pictures become a tower's input of `side` x `side` pixels, in transformers' layout."""
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        },
    )


if __name__ == "__main__":
    main()
