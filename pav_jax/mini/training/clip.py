"""Trains the mini CLIP and writes checkpoints/clip (after the VAE):

    python -m pav_jax.mini.training.clip

It has to understand users, so that it reads all synonyms: short user prompts in two steps of three,
else long captions in all eight styles. It sees renders and their VAE reconstructions, because
generated videos have the VAE's artefacts. One image is a contact sheet of four evenly spaced
frames, which shows motion.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.captions import NUM_STYLES, styled_caption, user_prompt
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
NUM_SCENES = 24576
NUM_RECONSTRUCTED = 1024  # the first scenes, which are passed through the VAE
STEPS = 2200
BATCH_SIZE = 32
RECONSTRUCTED_PER_BATCH = 8
SHORT_TOKENS = 24
LONG_TOKENS = 64
FRAMES_SHOWN = 4
SIDE = 96  # pixels of the contact sheet at the tower's input
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's image statistics
STD = (0.26862954, 0.26130258, 0.27577711)
PROMPT_ATTRIBUTES = (0, 1, 4)  # a user prompt always names subject, colour and motion


def config() -> CLIPConfig:
    """The configuration of the model."""
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


def make_reconstruct() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that passes videos, uint8 [B, T, H, W, 3], through the generator's VAE."""
    vae_config, params = folder.load(vae_hf, GENERATOR / "vae", jnp.float32)
    vae: Any = CogVideoXVAE(vae_config)

    def reconstruct(video):
        mean, _ = vae.apply({"params": params}, to_unit(video), method="encode")
        out = vae.apply({"params": params}, mean, method="decode")
        return jnp.round(jnp.clip(out * 127.5 + 127.5, 0, 255)).astype(jnp.uint8)

    compiled = fit.data_parallel(reconstruct)
    return lambda videos: np.concatenate(
        [np.asarray(compiled(videos[i : i + 16])) for i in range(0, len(videos), 16)]
    )


def contact_sheets() -> tuple[list[Scene], np.ndarray]:
    """NUM_SCENES scenes and their contact sheets, resized as the tower does, uint8
    [NUM_SCENES, SIDE, SIDE, 3], cached in the work folder."""
    rng = np.random.default_rng(31)
    scenes = [draw_scene(rng) for _ in range(NUM_SCENES)]
    path = fit.WORK / "sheets.npy"
    if path.exists():
        return scenes, np.load(path)
    reconstruct = make_reconstruct()
    resize = jax.jit(lambda images: resize_bicubic(images, SIDE, SIDE).astype(jnp.uint8))
    sheets = []
    for start in track(range(0, NUM_SCENES, 64), "rendering contact sheets"):
        clips = render(scenes[start : start + 64])
        if start < NUM_RECONSTRUCTED:
            clips = reconstruct(clips)
        shown = clips[:, frame_indices(clips.shape[1], FRAMES_SHOWN)]
        sheets.append(np.asarray(resize(contact_sheet(shown)[:, 0])))
    np.save(path, np.concatenate(sheets))
    return scenes, np.load(path)


class Batches:
    """Training batches as a function of the step number."""

    def __init__(self):
        self.scenes, self.images = contact_sheets()
        self.tokenizer = clip_tokenizer()

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([32, i])
        reconstructed = rng.choice(NUM_RECONSTRUCTED, RECONSTRUCTED_PER_BATCH, replace=False)
        num_renders = NUM_SCENES - NUM_RECONSTRUCTED
        renders = rng.choice(num_renders, BATCH_SIZE - RECONSTRUCTED_PER_BATCH, replace=False)
        picks = np.concatenate([reconstructed, NUM_RECONSTRUCTED + renders])
        scenes = [self.scenes[pick] for pick in picks]
        if i % 3 < 2:
            texts = [user_prompt(scene, rng) for scene in scenes]
            ids = encode(self.tokenizer, texts, SHORT_TOKENS)
        else:
            texts = [
                styled_caption(scene, int(rng.integers(NUM_STYLES)), rng, canonical=0.4)
                for scene in scenes
            ]
            ids = encode(self.tokenizer, texts, LONG_TOKENS)
        return {"images": self.images[picks], "ids": ids, "labels": attributes(scenes)}


def main() -> None:
    """Trains the model and writes the checkpoint."""
    fit.use_all_cores()
    batches = Batches()
    clip: Any = CLIP(config(), unroll=True)
    shapes = (np.zeros((1, LONG_TOKENS), np.int32), np.zeros((1, SIDE, SIDE, 3), np.float32))
    params = jax.jit(clip.init)(jax.random.key(0), *shapes)["params"]
    optimizer = fit.muon(3e-3, STEPS, warmup=100, weight_decay=0.05)

    # Linear heads that predict the scene's attributes from either embedding speed up training. They
    # are discarded afterwards.
    keys = jax.random.split(jax.random.key(1))
    params = {"clip": params} | {
        head: jax.random.normal(key, (config().projection_dim, sum(CLASSES))) * 0.05
        for head, key in zip(("image_heads", "text_heads"), keys, strict=True)
    }

    def loss(params, data):
        return clip_loss(clip, params, data)

    params = fit.minimize("clip", loss, optimizer, params, batches, STEPS)["clip"]
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(batches.tokenizer, FOLDER)
    write_preprocessor(FOLDER, SIDE)


def clip_loss(clip: Any, params: Any, data: Any) -> tuple[Any, dict[str, Any]]:
    """The contrastive loss plus the losses of the attribute heads, and metrics."""
    mean = jnp.asarray(MEAN)
    std = jnp.asarray(STD)
    target = jnp.arange(BATCH_SIZE)
    ce = optax.softmax_cross_entropy_with_integer_labels
    pixels = (data["images"].astype(jnp.float32) / 255 - mean) / std
    text, image, scale = clip.apply({"params": params["clip"]}, data["ids"], pixels)
    logits = jnp.minimum(scale, 100.0) * normalise(image) @ normalise(text).T
    contrast = 0.5 * (ce(logits, target).mean() + ce(logits.T, target).mean())
    every = range(len(CLASSES))
    seen, accuracy = attribute_loss(image @ params["image_heads"], data["labels"], every)
    read, _ = attribute_loss(text @ params["text_heads"], data["labels"], PROMPT_ATTRIBUTES)
    metrics = {
        "contrast": contrast,
        "top1": (logits.argmax(-1) == target).mean(),
        "scale": scale,
        "seen": seen,
        "read": read,
        "subject": accuracy[0],
        "colour": accuracy[1],
        "motion": accuracy[2],
    }
    return contrast + 0.3 * (seen + read), metrics


def attribute_loss(logits: Any, labels: Any, slots: Sequence[int]) -> tuple[Any, Any]:
    """Cross entropy of the attributes `slots`, summed, and the accuracy of PROMPT_ATTRIBUTES."""
    parts = jnp.split(logits, np.cumsum(CLASSES)[:-1], axis=-1)
    ce = optax.softmax_cross_entropy_with_integer_labels
    accuracy = [(parts[i].argmax(-1) == labels[:, i]).mean() for i in PROMPT_ATTRIBUTES]
    return sum(ce(parts[i], labels[:, i]).mean() for i in slots), jnp.stack(accuracy)


def write_preprocessor(directory: Path, side: int) -> None:
    """Writes transformers' preprocessor_config.json for a tower with inputs of `side` pixels."""
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
