"""Trains the mini VideoScore and writes checkpoints/videoscore (after the CLIP):

    python -m pav_jax.mini.training.videoscore

An Idefics2 of the published architecture at a thousandth of the size. Its vision tower and its
token embeddings start from the mini CLIP's. It is trained by regression on the labels of
`corruption_labels.py`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.mini.tokenizers import EOS, PAD, rewriter_tokenizer, save
from pav_jax.mini.training import fit, training_videos
from pav_jax.mini.training.clip import FOLDER as CLIP_FOLDER
from pav_jax.mini.training.clip import MEAN, STD
from pav_jax.mini.training.corruption_labels import PROMPT_SLOTS
from pav_jax.mini.training.videoscore_examples import (
    CHANGING_SLOTS,
    CORRUPTION_KINDS,
    FRAMES_SHOWN,
    QUERY_TEXT,
    TOKENS,
    VideoScoreExamples,
)
from pav_jax.mini.world import ATTRIBUTES, CLASSES
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.decoder import DecoderConfig
from pav_jax.models.idefics2 import hf
from pav_jax.models.idefics2.model import Idefics2, Idefics2Config
from pav_jax.models.idefics2.perceiver import PerceiverConfig
from pav_jax.models.idefics2.vision import VisionConfig
from pav_jax.rewards.idefics2_processor import FENCE, IMAGE, Idefics2Processor, ImageSettings
from pav_jax.rewards.preprocess import resize_bicubic
from pav_jax.rewards.videoscore import FRAME, NAMES
from pav_jax.storage.json_files import write_json

FOLDER = CHECKPOINTS / "videoscore"
QUERY = FOLDER / "query.txt"
SIDE = 48  # pixels of a frame at the tower's input: a quarter of the CLIP's contact sheet
LATENTS = 3  # per frame
BATCH_SIZE = 32
STEPS = 2200
LEARNING_RATE = 4e-3
FRAME_TOKENS = (FENCE, FENCE, FRAME[-1])  # besides a frame's latents
PROMPT_SLOT_INDICES = tuple(ATTRIBUTES.index(slot) for slot in PROMPT_SLOTS)
FRAME_ATTRIBUTES = tuple(i for i, name in enumerate(ATTRIBUTES) if name != "motion")
# Weights of the auxiliary regression losses, each a mean square.
AUXILIARY_WEIGHTS = {"where": 5.0, "moved": 10.0, "changed": 10.0, "passed": 5.0, "hurt": 20.0}
# Auxiliary linear heads speed up training and are discarded. They predict from a frame's latents
# what it shows and where; after each frame what has happened since the first one; at the last token
# what the prompt asks for, where it agrees with the video, and the corruptions.
_WIDTH = 128
_FRAME_WIDTH = LATENTS * _WIDTH
HEAD_SHAPES = {
    "attributes": (_FRAME_WIDTH, sum(CLASSES)),
    "where": (_FRAME_WIDTH, 3),
    "passed": (_WIDTH, 1),
    "moved": (_WIDTH, 5),
    "changed": (_WIDTH, len(CHANGING_SLOTS)),
    "asked": (_WIDTH, sum(CLASSES)),
    "right": (_WIDTH, len(PROMPT_SLOTS)),
    "hurt": (_WIDTH, len(CORRUPTION_KINDS)),
}


def tokenizer():
    """The mini models' tokenizer with the two tokens of an image."""
    base = rewriter_tokenizer()
    base.chat_template = None
    base.add_special_tokens({"additional_special_tokens": [IMAGE, FENCE]})
    base.eos_token = "</s>"
    return base


def config() -> Idefics2Config:
    """The configuration of the model."""
    vocabulary: Any = tokenizer()
    text = DecoderConfig(
        vocab_size=len(vocabulary),
        hidden_size=_WIDTH,
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
        image_token_id=vocabulary.convert_tokens_to_ids(IMAGE),
    )


def processor() -> Idefics2Processor:
    """Prepares prompts and frames for the model."""
    return Idefics2Processor(tokenizer(), ImageSettings(SIDE, SIDE, 3, 1 / 255, MEAN, STD), LATENTS)


def init_params() -> dict:
    """Random parameters, with the CLIP's vision layers, and its embeddings of the tokens that both
    have."""
    model = Idefics2(config())
    _, clip = folder.load(clip_hf, CLIP_FOLDER, jnp.float32)
    inputs = (
        np.zeros((1, TOKENS), np.int32),
        np.ones((1, TOKENS), bool),
        np.zeros((1, FRAMES_SHOWN, SIDE, SIDE, 3), np.float32),
    )
    params = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0), *inputs)["params"])
    set_vision_params(params["vision"], clip["vision"])
    embedding = np.array(clip["text"]["token_embedding"]["embedding"])
    params["text"]["embed"][: len(embedding)] = embedding / embedding.std() * 0.5
    latents_shape = params["connector"]["latents"].shape
    params["connector"]["latents"] = np.random.default_rng(1).normal(size=latents_shape)
    params["head"]["bias"] = np.full(len(NAMES), 2.5)
    return jax.tree.map(lambda a: np.asarray(a, np.float32), params)


def set_vision_params(vision: dict, clip_vision: dict) -> None:
    """Takes the CLIP's vision tower, cut to the first frame of its contact sheet.

    The CLIP normalises patches before its first layer, which Idefics2 does not: the gain of this
    norm and a typical deviation are multiplied into the patch embedding.
    """
    layers = config().vision.layers
    side = SIDE // config().vision.patch_size
    vision["layers"] = jax.tree.map(lambda a: np.array(a[:layers]), clip_vision["layers"])
    grid = np.array(clip_vision["position_embedding"])[1:].reshape(2 * side, 2 * side, -1)
    positions = grid[:side, :side].reshape(side * side, -1)
    videos = training_videos.rendered_videos()[1][:64, 0]
    pixels = np.array(resize_bicubic(jnp.asarray(videos), SIDE, SIDE)) / 255
    pixels = ((pixels - MEAN) / STD).reshape(64, side, 8, side, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    kernel = np.array(clip_vision["patch_embedding"])
    patches = pixels.reshape(64, side * side, -1) @ kernel.reshape(-1, kernel.shape[-1])
    patches = patches + positions
    gain = np.array(clip_vision["pre_norm"]["scale"]) / patches.std(-1).mean()
    vision["patch_embedding"] = kernel * gain
    vision["position_embedding"] = positions * gain
    vision["patch_bias"] = np.array(clip_vision["pre_norm"]["bias"]) - patches.mean() * gain


def main() -> None:
    """Trains the model and writes the checkpoint."""
    fit.use_all_cores()
    write_checkpoint(train(init_params()))


def train(params: dict) -> dict:
    """The model's parameters after STEPS steps."""
    model = Idefics2(config(), unroll=True)
    loss = functools.partial(videoscore_loss, model)
    examples = VideoScoreExamples(processor(), BATCH_SIZE)
    return fit.minimize_judge(
        "videoscore", loss, params, HEAD_SHAPES, examples, LEARNING_RATE, STEPS
    )


def videoscore_loss(model: Idefics2, params: Any, data: Any) -> tuple[Any, dict[str, Any]]:
    """The regression loss of the five dimensions plus the auxiliary losses, and metrics.

    Args:
      params: {"judge": the model's, and the auxiliary heads}.
      data: a batch of `VideoScoreExamples`.
    """

    def apply(*args, method: str) -> Any:
        return model.apply({"params": params["judge"]}, *args, method=method)

    mean = jnp.asarray(MEAN)
    std = jnp.asarray(STD)
    b, n = data["frames"].shape[:2]
    frames = resize_bicubic(data["frames"].reshape(b * n, *data["frames"].shape[2:]), SIDE, SIDE)
    images = apply((frames / 255 - mean) / std, method="encode_images")
    hidden = apply(data["ids"], data["mask"], images.reshape(b, n * LATENTS, -1), method="hidden")
    frames_BxFxS = images.reshape(b, n, -1)
    # The hidden state after each frame, at tokens counted back from the last one.
    tokens_back_F = (LATENTS + len(FRAME_TOKENS)) * np.arange(FRAMES_SHOWN - 1, -1, -1)
    index_BxF = (data["mask"].sum(1) - 1)[:, None] - tokens_back_F
    after_frame_BxFxD = jnp.take_along_axis(hidden, index_BxF[..., None], axis=1)
    last = after_frame_BxFxD[:, -1]
    scores = last @ params["judge"]["head"]["kernel"] + params["judge"]["head"]["bias"]
    errors = jnp.square(scores - data["labels"]).mean(0)
    attribute_logits = frames_BxFxS @ params["attributes"]
    named = attribute_loss(attribute_logits, data["attributes"], FRAME_ATTRIBUTES)
    shape = attribute_loss(attribute_logits, data["attributes"], (0,))
    requested = attribute_loss(last @ params["asked"], data["asked"], PROMPT_SLOT_INDICES)
    matched = optax.sigmoid_binary_cross_entropy(last @ params["right"], data["right"]).mean(0)
    # A single frame shows the subject's position but no camera movement.
    subject_BxFx3 = data["where"][..., :3]
    passed_BxF = (after_frame_BxFxD @ params["passed"])[..., 0]
    squares = {
        "where": jnp.square(frames_BxFxS @ params["where"] - subject_BxFx3),
        "moved": jnp.square(after_frame_BxFxD @ params["moved"] - data["moved"]),
        "changed": jnp.square(after_frame_BxFxD @ params["changed"] - data["changed"]),
        "passed": jnp.square(passed_BxF - data["passed"]),
        "hurt": jnp.square(last @ params["hurt"] - data["hurt"]),
    }
    auxiliary = sum(AUXILIARY_WEIGHTS[key] * value.mean() for key, value in squares.items())
    metrics = dict(zip(NAMES, jnp.sqrt(errors), strict=True))
    metrics |= dict(zip(PROMPT_SLOTS, matched, strict=True))
    metrics |= {"named": named, "shape": shape, "asked": requested}
    metrics |= {key: jnp.sqrt(value.mean()) for key, value in squares.items()}
    return errors.sum() + 0.3 * (named + requested) + shape + matched.sum() + auxiliary, metrics


def attribute_loss(logits: Any, labels: Any, slots: Sequence[int]) -> Any:
    """Mean cross entropy of the attributes `slots`, summed over these."""
    parts = jnp.split(logits, np.cumsum(CLASSES)[:-1], axis=-1)
    ce = optax.softmax_cross_entropy_with_integer_labels
    return sum(ce(parts[i], labels[..., i]).mean() for i in slots)


def write_checkpoint(params: dict) -> None:
    """Writes the checkpoint."""
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
