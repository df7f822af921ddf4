"""Trains the mini MPS: `python -m pav_jax.mini.training.mps` writes checkpoints/mps (after the CLIP).

The published shape in small: the mini CLIP's two towers, two cross layers, and the published loss:
which of two pictures for one prompt is preferred? A picture is one frame of a video, as large as
one frame of the CLIP's sheet, so that what the towers know still holds. Preferences are declared:
the picture with the higher sum of visual quality and alignment by `damage.py`, or neither where
they are close.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.tokenizers import clip_tokenizer, encode, save
from pav_jax.mini.training import clips, fit
from pav_jax.mini.training.clip import FOLDER as CLIP_FOLDER
from pav_jax.mini.training.clip import MEAN, STD, write_preprocessor
from pav_jax.mini.training.damage import ask, damaged, labels, truth
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.mps import CrossConfig, MPSConfig, MPSModel, hf
from pav_jax.models.mps.model import condition_mask
from pav_jax.rewards.mps import condition_text
from pav_jax.rewards.preprocess import resize_bicubic
from pav_jax.rewards.videoscore import NAMES
from pav_jax.trust.corruptions import NUM_SEVERITIES

FOLDER = CHECKPOINTS / "mps"
CONDITION = FOLDER / "condition.txt"
WORDS = (
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
)  # the condition, of words that are tokens
SIDE, POSITIONS = 48, 32
STEPS, BATCH = 800, 32  # pairs
RENDERS, REBUILT = 3072, 512
SEEN = ("subject", "colour")  # of what every user says: a frame shows no motion
KINDS = ("noise", "blur", "darkness", "occlusion")  # of damage to single frames
SAME, NEIGHBOURS = (
    0.45,
    0.2,
)  # how often both pictures are of one video, or of one scene in two qualities
GENERATED_SHARE = 0.35
WRONG_CLOSE = (
    0.25  # how often, of one video, the prompt is wrong in a slot: preferences hold for any prompt
)
CLOSE = 0.3  # a difference that is none
VQ, TVA = NAMES.index("VQ"), NAMES.index("TVA")


def config() -> MPSConfig:
    clip, _ = folder.load(clip_hf, CLIP_FOLDER)
    clip = dataclasses.replace(
        clip,
        text=dataclasses.replace(clip.text, positions=POSITIONS),
        vision=dataclasses.replace(clip.vision, image_size=SIDE),
    )
    return MPSConfig(clip, CrossConfig(layers=2, heads=4, head_dim=32, ff_width=256))


def start() -> dict:
    """The CLIP's towers, cut to a frame of the sheet and to short texts, and random cross
    layers."""
    ids, pixels = np.zeros((1, POSITIONS), np.int32), np.zeros((1, SIDE, SIDE, 3), np.float32)
    params = jax.tree.map(
        np.array, jax.jit(MPSModel(config()).init)(jax.random.key(0), ids, pixels, ids)["params"]
    )
    clip = jax.tree.map(np.array, folder.load(clip_hf, CLIP_FOLDER, jnp.float32)[1])
    clip.pop("vision_norm")
    side = SIDE // config().clip.vision.patch_size
    positions = clip["vision"]["position_embedding"]
    grid = positions[1:].reshape(2 * side, 2 * side, -1)[:side, :side].reshape(side * side, -1)
    clip["vision"]["position_embedding"] = np.concatenate([positions[:1], grid])
    clip["text"]["position_embedding"] = clip["text"]["position_embedding"][:POSITIONS]
    params["clip"] = clip
    return params


class Pairs:
    """Batches of (prompt, two frames, which is preferred), pure functions of the step."""

    def __init__(self):
        self.tokenizer = clip_tokenizer()
        self.sets = [clips.rendered(RENDERS, REBUILT), clips.generated()]

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([86, i])
        first, second, prompts, preferred = zip(*(self.one(rng) for _ in range(BATCH)), strict=True)
        return {
            "first": np.stack(first),
            "second": np.stack(second),
            "preferred": np.array(preferred, np.float32),
            "ids": encode(self.tokenizer, list(prompts), POSITIONS),
        }

    def one(self, rng: np.random.Generator):
        generated = rng.random() < GENERATED_SHARE
        scenes, videos = self.sets[int(generated)]
        how, pick = rng.random(), int(rng.integers(len(scenes)))
        if how < SAME:
            other = pick
        elif generated and how < SAME + 2 * NEIGHBOURS:
            other = pick ^ 1
        else:
            other = int(rng.integers(len(scenes)))
        frame = int(rng.integers(videos.shape[1]))
        wrong = [str(rng.choice(SEEN))] if rng.random() < WRONG_CLOSE else []
        prompt, asked, _ = ask(scenes[pick], wrong, rng)
        kind = str(rng.choice(KINDS))
        grades = (
            rng.permutation(NUM_SEVERITIES)[:2]
            if other == pick
            else rng.choice(NUM_SEVERITIES, 2, p=(0.6, *[0.1] * 4))
        )
        pictures, worth, seed = [], [], int(rng.integers(2**31))
        for number, severity in zip((pick, other), grades, strict=True):
            scene = scenes[number]
            true = truth(
                prompt, scene, {slot: getattr(asked, slot) == getattr(scene, slot) for slot in SEEN}
            )
            value = labels(scene, true, [(kind, int(severity))])
            worth.append(value[VQ] + value[TVA])
            pictures.append(
                damaged(np.array(videos[number, frame : frame + 1]), kind, int(severity), seed)[0]
            )
        gap = worth[0] - worth[1]
        preferred = 0.5 if abs(gap) < CLOSE else float(gap > 0)
        return pictures[0], pictures[1], prompt, preferred


def main() -> None:
    fit.use_every_core()
    pairs, model = Pairs(), MPSModel(config())
    optimizer = fit.muon(2e-3, STEPS, warmup=60, weight_decay=0.02)
    FOLDER.mkdir(parents=True, exist_ok=True)
    CONDITION.write_text("\n".join(WORDS) + "\n")
    asked_1xM = encode(clip_tokenizer(), [condition_text(CONDITION)], POSITIONS)
    mean, std = jnp.asarray(MEAN), jnp.asarray(STD)

    def loss(p, data):
        apply = lambda *args, method: model.apply({"params": p}, *args, method=method)  # noqa: E731
        pixels = resize_bicubic(jnp.concatenate([data["first"], data["second"]]), SIDE, SIDE)
        image = apply((pixels / 255 - mean) / std, method="encode_image")
        text, end = apply(data["ids"], method="encode_text")
        mask = condition_mask(text, apply(asked_1xM, method="encode_text")[0][0])
        twice = [jnp.concatenate([x, x]) for x in (text, end, mask)]
        first, second = jnp.split(apply(image, *twice, method="compare"), 2)
        # log of the softmax over the two pictures (section 4.3 of the paper)
        loss_B = optax.sigmoid_binary_cross_entropy(first - second, data["preferred"])
        sure = data["preferred"] != 0.5
        right = jnp.where(sure, (first > second) == (data["preferred"] > 0.5), 0).sum() / sure.sum()
        return loss_B.mean(), {
            "loss": loss_B.mean(),
            "right": right,
            "read": mask.mean(),
            "score": first.mean(),
            "scale": jnp.exp(p["clip"]["logit_scale"]),
        }

    params = fit.descend("mps", loss, optimizer, start(), pairs, STEPS)
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(clip_tokenizer(), FOLDER)
    write_preprocessor(FOLDER, SIDE)


if __name__ == "__main__":
    main()
