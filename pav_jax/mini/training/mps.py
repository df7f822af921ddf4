"""Trains the mini MPS and writes checkpoints/mps (after the CLIP):

    python -m pav_jax.mini.training.mps

The published architecture at a small size: the mini CLIP's two towers and two cross-attention
layers, with the published loss: which of two images for one prompt is preferred? An image is one
frame of a video, as large as one frame of the CLIP's contact sheet, so that the towers' knowledge
transfers. The image with the higher sum of visual quality and alignment by `corruption_labels.py`
is preferred, or neither if they are close.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.tokenizers import clip_tokenizer, encode, save
from pav_jax.mini.training import fit, training_videos
from pav_jax.mini.training.clip import FOLDER as CLIP_FOLDER
from pav_jax.mini.training.clip import MEAN, STD, write_preprocessor
from pav_jax.mini.training.corruption_labels import (
    corrupt,
    corrupted_labels,
    draw_prompt,
    prompt_accuracy,
)
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.mps import CrossConfig, MPSConfig, MPSModel, hf
from pav_jax.models.mps.model import condition_mask
from pav_jax.rewards.mps import condition_text
from pav_jax.rewards.preprocess import resize_bicubic
from pav_jax.rewards.videoscore import NAMES
from pav_jax.trust.corruptions import NUM_SEVERITIES

FOLDER = CHECKPOINTS / "mps"
CONDITION = FOLDER / "condition.txt"
# The condition consists of words that are single tokens.
CONDITION_WORDS = (
    "light",
    "contrast",
    "film",
    "focus",
    "exposure",
    "tones",
    "detail",
    "subject",
    "look",
    "place",
    "red",
    "blue",
    "star",
    "ball",
)
SIDE = 48  # pixels at the tower's input
POSITIONS = 32  # text tokens
STEPS = 800
BATCH_SIZE = 32  # pairs
NUM_RENDERS = 3072
NUM_RECONSTRUCTED = 512
VISIBLE_SLOTS = ("subject", "colour")  # of a prompt's slots; a frame shows no motion
KINDS = ("noise", "blur", "darkness", "occlusion")  # corruptions of single frames
SAME_VIDEO_SHARE = 0.45  # pairs of one video in two severities
NEIGHBOUR_SHARE = 0.2  # pairs of one scene with two sets of picture qualities
GENERATED_SHARE = 0.35
WRONG_PROMPT_SHARE = 0.25  # prompts with a wrong slot: preferences hold for any prompt
MIN_DIFFERENCE = 0.3  # of the labels, below which neither image is preferred
VQ = NAMES.index("VQ")
TVA = NAMES.index("TVA")


def config() -> MPSConfig:
    """The configuration of the model."""
    clip, _ = folder.load(clip_hf, CLIP_FOLDER)
    clip = dataclasses.replace(
        clip,
        text=dataclasses.replace(clip.text, positions=POSITIONS),
        vision=dataclasses.replace(clip.vision, image_size=SIDE),
    )
    return MPSConfig(clip, CrossConfig(layers=2, heads=4, head_dim=32, ff_width=256))


def init_params() -> dict:
    """The CLIP's towers, cut to one frame of the contact sheet and to short texts, and random cross
    layers."""
    ids = np.zeros((1, POSITIONS), np.int32)
    pixels = np.zeros((1, SIDE, SIDE, 3), np.float32)
    init = jax.jit(MPSModel(config()).init)
    params = jax.tree.map(np.array, init(jax.random.key(0), ids, pixels, ids)["params"])
    clip = jax.tree.map(np.array, folder.load(clip_hf, CLIP_FOLDER, jnp.float32)[1])
    clip.pop("vision_norm")
    side = SIDE // config().clip.vision.patch_size
    positions = clip["vision"]["position_embedding"]
    grid = positions[1:].reshape(2 * side, 2 * side, -1)[:side, :side].reshape(side * side, -1)
    clip["vision"]["position_embedding"] = np.concatenate([positions[:1], grid])
    clip["text"]["position_embedding"] = clip["text"]["position_embedding"][:POSITIONS]
    params["clip"] = clip
    return params


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images for one prompt.

    Attributes:
      first, second: uint8 [H, W, 3].
      preferred: 1: the first, 0: the second, 0.5: neither.
    """

    first: np.ndarray
    second: np.ndarray
    prompt: str
    preferred: float


class PairBatches:
    """Batches of pairs as a function of the step number."""

    def __init__(self):
        self.tokenizer = clip_tokenizer()
        self.rendered = training_videos.rendered_videos(NUM_RENDERS, NUM_RECONSTRUCTED)
        self.generated = training_videos.generated_videos()

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([86, i])
        pairs = [self.draw_pair(rng) for _ in range(BATCH_SIZE)]
        return {
            "first": np.stack([pair.first for pair in pairs]),
            "second": np.stack([pair.second for pair in pairs]),
            "preferred": np.array([pair.preferred for pair in pairs], np.float32),
            "ids": encode(self.tokenizer, [pair.prompt for pair in pairs], POSITIONS),
        }

    def draw_pair(self, rng: np.random.Generator) -> Pair:
        """Draws two frames, a prompt and corruptions."""
        is_generated = rng.random() < GENERATED_SHARE
        scenes, videos = self.generated if is_generated else self.rendered
        draw = rng.random()
        pick = int(rng.integers(len(scenes)))
        if draw < SAME_VIDEO_SHARE:
            other = pick
        elif is_generated and draw < SAME_VIDEO_SHARE + 2 * NEIGHBOUR_SHARE:
            other = pick ^ 1
        else:
            other = int(rng.integers(len(scenes)))
        frame = int(rng.integers(videos.shape[1]))
        is_wrong = rng.random() < WRONG_PROMPT_SHARE
        wrong_slots = [str(rng.choice(VISIBLE_SLOTS))] if is_wrong else []
        prompt, described, _ = draw_prompt(scenes[pick], wrong_slots, rng)
        kind = str(rng.choice(KINDS))
        if other == pick:
            severities = rng.permutation(NUM_SEVERITIES)[:2]
        else:
            severities = rng.choice(NUM_SEVERITIES, 2, p=(0.6, *[0.1] * 4))
        seed = int(rng.integers(2**31))
        images = []
        values = []
        for index, severity in zip((pick, other), severities, strict=True):
            scene = scenes[index]
            is_right = {
                slot: getattr(described, slot) == getattr(scene, slot) for slot in VISIBLE_SLOTS
            }
            accuracy = prompt_accuracy(prompt, scene, is_right)
            labels = corrupted_labels(scene, accuracy, [(kind, int(severity))])
            values.append(labels[VQ] + labels[TVA])
            image = np.array(videos[index, frame : frame + 1])
            images.append(corrupt(image, kind, int(severity), seed)[0])
        difference = values[0] - values[1]
        preferred = 0.5 if abs(difference) < MIN_DIFFERENCE else float(difference > 0)
        return Pair(images[0], images[1], prompt, preferred)


def main() -> None:
    """Trains the model and writes the checkpoint."""
    fit.use_all_cores()
    batches = PairBatches()
    model = MPSModel(config())
    optimizer = fit.muon(2e-3, STEPS, warmup=60, weight_decay=0.02)
    FOLDER.mkdir(parents=True, exist_ok=True)
    CONDITION.write_text("\n".join(CONDITION_WORDS) + "\n")
    condition_ids = encode(clip_tokenizer(), [condition_text(CONDITION)], POSITIONS)

    def loss(params, data):
        return preference_loss(model, params, condition_ids, data)

    params = fit.minimize("mps", loss, optimizer, init_params(), batches, STEPS)
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(clip_tokenizer(), FOLDER)
    write_preprocessor(FOLDER, SIDE)


def preference_loss(
    model: MPSModel, params: Any, condition_ids: np.ndarray, data: Any
) -> tuple[Any, dict[str, Any]]:
    """Cross entropy of the softmax over both images' scores (section 4.3 of the MPS paper), and
    metrics.

    Args:
      condition_ids: tokens of the condition, int [1, M].
      data: a batch of `PairBatches`.
    """

    def apply(*args, method: str) -> Any:
        return model.apply({"params": params}, *args, method=method)

    mean = jnp.asarray(MEAN)
    std = jnp.asarray(STD)
    pixels = resize_bicubic(jnp.concatenate([data["first"], data["second"]]), SIDE, SIDE)
    image = apply((pixels / 255 - mean) / std, method="encode_image")
    text, end = apply(data["ids"], method="encode_text")
    mask = condition_mask(text, apply(condition_ids, method="encode_text")[0][0])
    doubled = [jnp.concatenate([x, x]) for x in (text, end, mask)]
    first, second = jnp.split(apply(image, *doubled, method="compare"), 2)
    loss_B = optax.sigmoid_binary_cross_entropy(first - second, data["preferred"])
    is_decided = data["preferred"] != 0.5
    is_correct = (first > second) == (data["preferred"] > 0.5)
    accuracy = jnp.where(is_decided, is_correct, 0).sum() / is_decided.sum()
    return loss_B.mean(), {
        "loss": loss_B.mean(),
        "right": accuracy,
        "read": mask.mean(),
        "score": first.mean(),
        "scale": jnp.exp(params["clip"]["logit_scale"]),
    }


if __name__ == "__main__":
    main()
