"""Trains the mini VideoScore: `python -m pav_jax.mini.training.videoscore` writes
checkpoints/videoscore (after the CLIP).

An Idefics2 of the published shape, a thousandth of the size. Its vision tower and its words start
from the mini CLIP's; it is taught by regression on the declared labels of `damage.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.tokenizers import EOS, PAD, rewriter_tokenizer, save
from pav_jax.mini.training import clips, fit
from pav_jax.mini.training.clip import FOLDER as CLIP_FOLDER
from pav_jax.mini.training.clip import MEAN, STD
from pav_jax.mini.training.damage import SAID
from pav_jax.mini.training.videoscore_examples import (
    FRAMES_SHOWN,
    NAMED_KINDS,
    QUERY_TEXT,
    TOKENS,
    TURNING,
    Examples,
)
from pav_jax.mini.world import ATTRIBUTES, CLASSES
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.idefics2 import hf
from pav_jax.models.idefics2.model import Idefics2, Idefics2Config
from pav_jax.models.idefics2.perceiver import PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig
from pav_jax.models.llama.model import LlamaConfig
from pav_jax.rewards.idefics2_processor import FENCE, IMAGE, Idefics2Processor, ImageSettings
from pav_jax.rewards.preprocess import resize_bicubic
from pav_jax.rewards.videoscore import FRAME, NAMES
from pav_jax.storage.json_files import write_json

FOLDER = CHECKPOINTS / "videoscore"
QUERY = FOLDER / "query.txt"
SIDE, LATENTS = 48, 3  # pixels of a frame as the tower sees it: a quarter of the CLIP's sheet
BATCH, STEPS, LEARNING_RATE = 32, 2200, 4e-3
FRAME_TOKENS = (FENCE, FENCE, FRAME[-1])  # beside a frame's latents
SAID_SLOTS = tuple(ATTRIBUTES.index(slot) for slot in SAID)
OF_A_FRAME = tuple(i for i, name in enumerate(ATTRIBUTES) if name != "motion")
# Weights of what it is told besides, each a mean square.
TOLD = {"where": 5.0, "moved": 10.0, "changed": 10.0, "passed": 5.0, "hurt": 20.0}


def tokenizer():
    """The mini models' words and the two tokens of a picture."""
    made = rewriter_tokenizer()
    made.chat_template = None
    made.add_special_tokens({"additional_special_tokens": [IMAGE, FENCE]})
    made.eos_token = "</s>"
    return made


def config() -> Idefics2Config:
    words = tokenizer()
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    vision = VisionConfig(
        width=128,
        ff_width=512,
        layers=3,
        heads=4,
        image_size=SIDE,
        patch_size=8,
        activation="quick_gelu",
        norm_epsilon=1e-5,
    )
    return Idefics2Config(
        text=text,
        vision=vision,
        labels=len(NAMES),
        sliding_window=None,
        perceiver=PerceiverConfig(latents=LATENTS, depth=2, heads=4, kv_heads=4, head_dim=32),
        image_token_id=words.convert_tokens_to_ids(IMAGE),
    )


def processor() -> Idefics2Processor:
    return Idefics2Processor(tokenizer(), ImageSettings(SIDE, SIDE, 3, 1 / 255, MEAN, STD), LATENTS)


def start() -> dict:
    """Random parameters, with the CLIP's vision layers and its words where both have them.

    The CLIP normalises patches before its first layer, which Idefics2 does not: the norm's gain and
    a typical deviation go into the patch embedding.
    """
    model, (_, clip) = Idefics2(config()), folder.load(clip_hf, CLIP_FOLDER, jnp.float32)
    shapes = (
        np.zeros((1, TOKENS), np.int32),
        np.ones((1, TOKENS), bool),
        np.zeros((1, FRAMES_SHOWN, SIDE, SIDE, 3), np.float32),
    )
    params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0), *shapes)["params"])
    seen, ours = clip["vision"], params["vision"]
    n, side = config().vision.layers, SIDE // config().vision.patch_size
    ours["layers"] = jax.tree.map(lambda a: np.array(a[:n]), seen["layers"])
    grid = np.array(seen["position_embedding"])[1:].reshape(2 * side, 2 * side, -1)
    positions = grid[:side, :side].reshape(side * side, -1)  # of the sheet's first frame
    videos = clips.rendered()[1][:64, 0]
    pixels = np.array(resize_bicubic(jnp.asarray(videos), SIDE, SIDE)) / 255
    pixels = ((pixels - MEAN) / STD).reshape(64, side, 8, side, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    kernel = np.array(seen["patch_embedding"])
    tokens = pixels.reshape(64, side * side, -1) @ kernel.reshape(-1, kernel.shape[-1]) + positions
    gain = np.array(seen["pre_norm"]["scale"]) / tokens.std(-1).mean()
    ours["patch_embedding"], ours["position_embedding"] = kernel * gain, positions * gain
    ours["patch_bias"] = np.array(seen["pre_norm"]["bias"]) - tokens.mean() * gain
    words = np.array(clip["text"]["token_embedding"]["embedding"])
    params["text"]["embed"][: len(words)] = words / words.std() * 0.5
    params["connector"]["latents"] = np.random.default_rng(1).normal(
        size=params["connector"]["latents"].shape
    )
    params["head"]["bias"] = np.full(len(NAMES), 2.5)
    return jax.tree.map(lambda a: np.asarray(a, np.float32), params)


def main() -> None:
    fit.use_every_core()
    write(train(start()))


def train(judge: dict) -> dict:
    """The judge's parameters after STEPS steps."""
    model, optimizer = Idefics2(config(), unroll=True), fit.muon(LEARNING_RATE, STEPS, 50, 0.02)
    width, seen_width = config().text.hidden_size, LATENTS * config().text.hidden_size
    # Linear heads that speed it up and are thrown away. From a frame's own tokens: what it shows
    # and where. Behind each frame: what has happened since the first. At the last token: what is
    # asked for, where that agrees, which damage.
    heads = {
        "attributes": (seen_width, sum(CLASSES)),
        "where": (seen_width, 3),
        "passed": (width, 1),
        "moved": (width, 5),
        "changed": (width, len(TURNING)),
        "asked": (width, sum(CLASSES)),
        "right": (width, len(SAID)),
        "hurt": (width, len(NAMED_KINDS)),
    }
    keys = jax.random.split(jax.random.key(1), len(heads))
    params = {"judge": judge} | {
        n: jax.random.normal(key, shape) * 0.05
        for key, (n, shape) in zip(keys, heads.items(), strict=True)
    }
    mean, std = jnp.asarray(MEAN), jnp.asarray(STD)
    behind_F = (LATENTS + len(FRAME_TOKENS)) * np.arange(
        FRAMES_SHOWN - 1, -1, -1
    )  # tokens from the last one back

    def loss(p, data):
        b, n = data["frames"].shape[:2]
        frames = resize_bicubic(
            data["frames"].reshape(b * n, *data["frames"].shape[2:]), SIDE, SIDE
        )
        apply = lambda *args, method: model.apply({"params": p["judge"]}, *args, method=method)  # noqa: E731
        images = apply((frames / 255 - mean) / std, method="encode_images")
        hidden = apply(
            data["ids"], data["mask"], images.reshape(b, n * LATENTS, -1), method="hidden"
        )
        seen_BxFxS = images.reshape(b, n, -1)
        at_BxF = (data["mask"].sum(1) - 1)[:, None] - behind_F
        passed_BxFxD = jnp.take_along_axis(hidden, at_BxF[..., None], axis=1)
        last = passed_BxFxD[:, -1]
        scores = last @ p["judge"]["head"]["kernel"] + p["judge"]["head"]["bias"]
        errors = jnp.square(scores - data["labels"]).mean(0)
        names = seen_BxFxS @ p["attributes"]
        named = naming(names, data["attributes"], OF_A_FRAME)
        shape = naming(names, data["attributes"], (0,))
        asked = naming(last @ p["asked"], data["asked"], SAID_SLOTS)
        matched = optax.sigmoid_binary_cross_entropy(last @ p["right"], data["right"]).mean(0)
        subject_BxFx3 = data["where"][
            ..., :3
        ]  # what a camera has done, a single frame does not show
        squares = {
            "where": jnp.square(seen_BxFxS @ p["where"] - subject_BxFx3),
            "moved": jnp.square(passed_BxFxD @ p["moved"] - data["moved"]),
            "changed": jnp.square(passed_BxFxD @ p["changed"] - data["changed"]),
            "passed": jnp.square((passed_BxFxD @ p["passed"])[..., 0] - data["passed"]),
            "hurt": jnp.square(last @ p["hurt"] - data["hurt"]),
        }
        told = sum(TOLD[key] * value.mean() for key, value in squares.items())
        metrics = dict(zip(NAMES, jnp.sqrt(errors), strict=True)) | dict(
            zip(SAID, matched, strict=True)
        )
        metrics |= {"named": named, "shape": shape, "asked": asked}
        metrics |= {key: jnp.sqrt(value.mean()) for key, value in squares.items()}
        return errors.sum() + 0.3 * (named + asked) + shape + matched.sum() + told, metrics

    examples = Examples(processor(), BATCH)
    return jax.device_get(fit.descend("videoscore", loss, optimizer, params, examples, STEPS))[
        "judge"
    ]


def naming(logits, wanted, slots) -> jax.Array:
    """Mean cross entropy of attributes `slots`, summed over these."""
    parts = jnp.split(logits, np.cumsum(CLASSES)[:-1], axis=-1)
    ce = optax.softmax_cross_entropy_with_integer_labels
    return sum(ce(parts[i], wanted[..., i]).mean() for i in slots)


def write(params: dict) -> None:
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(tokenizer(), FOLDER)
    QUERY.write_text(QUERY_TEXT, encoding="utf-8")
    write_json(
        FOLDER / "preprocessor_config.json",
        {
            "image_processor_type": "Idefics2ImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": 3,
            "size": {"shortest_edge": SIDE, "longest_edge": SIDE},
            "do_image_splitting": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
            "do_pad": True,
        },
    )


if __name__ == "__main__":
    main()
