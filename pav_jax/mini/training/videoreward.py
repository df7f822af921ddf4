"""Trains the mini VideoReward and writes checkpoints/videoreward (after the CLIP):

    python -m pav_jax.mini.training.videoreward

A Qwen2-VL of the published architecture at a thousandth of the size. Its vision tower and its token
embeddings start from the mini CLIP's. As the published one it is trained with the Bradley-Terry
loss on pairs of videos (arXiv 2501.13918, section 3.2). Preferences come from the labels of
`corruption_labels.py`, and all pairs of a batch are compared: visual and motion quality do not
depend on the prompt, and alignment is comparable between prompts.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tokenizers import AddedToken

from pav_jax.checkpoints import folder
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.checkpoints.qwen2_vl_judges import VIDEOREWARD_SETTINGS, VIDEOREWARD_TOKENS
from pav_jax.mini.tokenizers import BOS, EOS, PAD, rewriter_tokenizer, save
from pav_jax.mini.training import fit
from pav_jax.mini.training.clip import FOLDER as CLIP_FOLDER
from pav_jax.mini.training.clip import MEAN, STD
from pav_jax.mini.training.corruption_labels import PROMPT_SLOTS
from pav_jax.mini.training.videoscore import (
    FRAME_ATTRIBUTES,
    PROMPT_SLOT_INDICES,
    attribute_loss,
    set_vision_params,
)
from pav_jax.mini.training.videoscore_examples import CHANGING_SLOTS, CORRUPTION_KINDS, Examples
from pav_jax.mini.world import CLASSES, FRAMES
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.decoder import DecoderConfig
from pav_jax.models.decoder.rotary import Rope
from pav_jax.models.qwen2_vl import hf
from pav_jax.models.qwen2_vl.config import HeadConfig, Qwen2VLConfig, VisionConfig
from pav_jax.models.qwen2_vl.model import Qwen2VL
from pav_jax.models.qwen2_vl.positions import mrope_positions
from pav_jax.rewards.preprocess import resize_bicubic
from pav_jax.rewards.qwen2_vl_judge import SLOT
from pav_jax.rewards.qwen2_vl_processor import (
    CHAT,
    IMAGE,
    VIDEO,
    PixelSettings,
    Qwen2VLProcessor,
    sampled_frames,
)
from pav_jax.rewards.videoreward import NAMES
from pav_jax.rewards.videoscore import NAMES as LABELS
from pav_jax.storage.json_files import write_json

FOLDER = CHECKPOINTS / "videoreward"
TEMPLATE = FOLDER / "template.txt"
VQ_TOKEN, MQ_TOKEN, TA_TOKEN = VIDEOREWARD_TOKENS
# The order of the published text: the marks of the video do not see the prompt.
TEMPLATE_TEXT = f"{VQ_TOKEN}{MQ_TOKEN}{SLOT}{TA_TOKEN}"
# The parts of the chat format that never change are one token each, because every token costs time.
CHAT_START, CHAT_END = CHAT.replace("{text}", "").split("{vision}<|vision_end|>")
QWEN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    IMAGE,
    VIDEO,
)
SIDE = 48  # pixels of a frame at the tower's input
RATE = 8.0  # frames per second of the embedded generators
FPS = 5.0  # frames that are read per second: 6 of a video's 9
SHOWN = sampled_frames(FRAMES, RATE, FPS)
PAIRS = len(SHOWN) // 2  # of frames
VECTORS = 9  # of a pair of frames
TOKENS = 52  # of a training example
BATCH_SIZE = 32
STEPS = 1000
LEARNING_RATE = 4e-3
# Log odds of a preference per unit of the label's difference; labels are 1 to 4.
SHARPNESS = 4.0
LOSS_WEIGHT = 3.0  # of each score's Bradley-Terry loss, against the auxiliary losses
# Weights of the auxiliary regression losses, each a mean square.
AUXILIARY_WEIGHTS = {"where": 5.0, "moved": 10.0, "changed": 10.0, "passed": 5.0, "hurt": 20.0}
# Auxiliary linear heads as those of the mini VideoScore; they predict from the vectors of a pair of
# frames, after each pair, after the prompt (asked, right) and before it (hurt).
_WIDTH = 128
_PAIR_WIDTH = VECTORS * _WIDTH
HEAD_SHAPES = {
    "attributes": (_PAIR_WIDTH, sum(CLASSES)),
    "where": (_PAIR_WIDTH, 6),
    "passed": (_WIDTH, 1),
    "moved": (_WIDTH, 5),
    "changed": (_WIDTH, len(CHANGING_SLOTS)),
    "asked": (_WIDTH, sum(CLASSES)),
    "right": (_WIDTH, len(PROMPT_SLOTS)),
    "hurt": (_WIDTH, len(CORRUPTION_KINDS)),
}
NUM_GENERATED = 128
NUM_NORMALIZED = 1024  # examples that the scores' means and deviations are measured on


def tokenizer():
    """The mini models' tokenizer with the tokens of Qwen2-VL and VideoReward."""
    base = rewriter_tokenizer()
    base.chat_template = None
    tokens = (*QWEN_TOKENS, *VIDEOREWARD_TOKENS, CHAT_START, CHAT_END)
    added: Any = [  # the stub of the next call takes no list of AddedToken
        AddedToken(token, special=True, normalized=False) for token in tokens
    ]
    base.add_special_tokens({"additional_special_tokens": added})
    base.eos_token = "</s>"
    return base


def config() -> Qwen2VLConfig:
    """The configuration of the model."""
    vocabulary: Any = tokenizer()
    text = DecoderConfig(
        vocab_size=len(vocabulary),
        hidden_size=_WIDTH,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        model_type="qwen2",
        max_position_embeddings=512,
        tie_word_embeddings=True,
        qkv_bias=True,
        # so that the slowest pair turns once in 50 tokens, about a text's length
        rope=Rope(10.0),
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    vision = VisionConfig(width=128, out_width=_WIDTH, layers=3, heads=4, patch_size=8)
    return Qwen2VLConfig(
        text=text,
        vision=vision,
        head=HeadConfig(),
        sections=(4, 6, 6),  # in the published proportions
        image_token_id=vocabulary.convert_tokens_to_ids(IMAGE),
        video_token_id=vocabulary.convert_tokens_to_ids(VIDEO),
    )


def processor() -> Qwen2VLProcessor:
    """Prepares prompts for the model."""
    return Qwen2VLProcessor(tokenizer(), PixelSettings(1 / 255, MEAN, STD))


class VideoRewardExamples(Examples):
    """Batches with VideoReward's tokens, and where its scores are read."""

    seed = 87
    # half as often as in VideoScore's examples, because there are few
    num_generated = NUM_GENERATED
    generated_share = 0.15
    shown = SHOWN

    def __init__(self, batch_size: int):
        super().__init__(batch_size)
        self.processor = processor()

    def tokens(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the videos and of the template with each prompt, padded to TOKENS."""
        return tokenize(self.processor, prompts)


def tokenize(
    judge_processor: Qwen2VLProcessor, prompts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, each [B, TOKENS]."""
    texts = [TEMPLATE_TEXT.replace(SLOT, prompt) for prompt in prompts]
    rows = judge_processor.tokens(texts, VIDEO, PAIRS * VECTORS, TOKENS)
    return np.stack([ids for ids, _ in rows]), np.stack([mask for _, mask in rows])


def init_params() -> dict:
    """Random parameters, with the CLIP's vision layers, and its embeddings of the tokens that both
    have.

    The tower has rotary instead of learned positions; a pair of equal frames gives the CLIP's
    patches.
    """
    _, clip = folder.load(clip_hf, CLIP_FOLDER, jnp.float32)
    ids = np.zeros((1, TOKENS), np.int32)
    inputs = (
        ids,
        np.ones((1, TOKENS), bool),
        np.zeros((1, TOKENS, 3), np.int32),
        np.zeros((1, PAIRS, 2, SIDE, SIDE, 3), np.float32),
        ids[:, :1],
    )
    init = jax.jit(Qwen2VL(config()).init)
    params = jax.tree.map(np.array, init(jax.random.key(0), *inputs)["params"])
    vision: dict = {}
    set_vision_params(vision, clip["vision"])
    params["vision"]["layers"] = vision["layers"]
    params["vision"]["patch_embedding"] = np.stack([vision["patch_embedding"]] * 2) / 2
    embedding = np.array(clip["text"]["token_embedding"]["embedding"])
    # the gain that the mini VideoScore's embeddings start with
    params["text"]["embed"] *= 0.5 / config().text.initializer_range
    params["text"]["embed"][: len(embedding)] = embedding / embedding.std() * 0.5
    return jax.tree.map(lambda a: np.asarray(a, np.float32), params)


def main() -> None:
    """Trains the model and writes the checkpoint."""
    fit.use_all_cores()
    write_checkpoint(train(init_params()))


def train(params: dict) -> dict:
    """The model's parameters after STEPS steps."""
    model = Qwen2VL(config(), unroll=True)
    loss = functools.partial(videoreward_loss, model)
    examples = VideoRewardExamples(BATCH_SIZE)
    return fit.minimize_judge(
        "videoreward", loss, params, HEAD_SHAPES, examples, LEARNING_RATE, STEPS
    )


def judge_labels(labels_Bx5: Any) -> Any:
    """VideoScore's labels as those of NAMES, [B, 3]: motion quality is the mean of consistency and
    degree of motion."""
    label = {name: labels_Bx5[:, i] for i, name in enumerate(LABELS)}
    return jnp.stack([label["VQ"], (label["TC"] + label["DD"]) / 2, label["TVA"]], 1)


def bradley_terry_loss(scores_BxR: Any, labels_BxR: Any) -> Any:
    """The Bradley-Terry loss of each score over all pairs of videos, above its minimum, [R].

    Annotators are noisy: they prefer the video with the higher label with a probability that grows
    with the difference. The loss is its expectation over their answers.
    """
    logits_BxBxR = scores_BxR[:, None] - scores_BxR[None]
    true_BxBxR = SHARPNESS * (labels_BxR[:, None] - labels_BxR[None])
    preferred_BxBxR = jax.nn.sigmoid(true_BxBxR)
    cross_entropy = optax.sigmoid_binary_cross_entropy
    excess = cross_entropy(logits_BxBxR, preferred_BxBxR)
    excess -= cross_entropy(true_BxBxR, preferred_BxBxR)
    return excess.mean((0, 1))


def forward(model: Qwen2VL, params: Any, data: Any) -> tuple[Any, Any, Any, Any]:
    """The tower's vectors [B, N, D], the hidden states [B, T, D], those at the tokens of the scores
    [B, 3, D], and the scores [B, 3] of a batch."""

    def apply(*args, method: str) -> Any:
        return model.apply({"params": params}, *args, method=method)

    b, f = data["frames"].shape[:2]
    frames = resize_bicubic(data["frames"].reshape(b * f, *data["frames"].shape[2:]), SIDE, SIDE)
    pixels = (frames / 255 - jnp.asarray(MEAN)) / jnp.asarray(STD)
    vectors = apply(pixels.reshape(b * PAIRS, 2, SIDE, SIDE, 3), method="encode_frames")
    vision = vectors.reshape(b, PAIRS * VECTORS, -1)
    # the video follows CHAT_START, one token
    is_vision = np.isin(np.arange(TOKENS), np.arange(1, 1 + PAIRS * VECTORS))
    side = SIDE // (config().vision.patch_size * config().vision.merge_size)
    positions = mrope_positions(is_vision, [(PAIRS, side, side)])
    positions = jnp.broadcast_to(positions, (b, *positions.shape))
    hidden = apply(data["ids"], data["mask"], positions, vision, method="hidden")
    token_ids: Any = tokenizer().convert_tokens_to_ids(list(VIDEOREWARD_TOKENS))
    read_at = jnp.stack([(data["ids"] == token).argmax(1) for token in token_ids], 1)
    at_tokens = jnp.take_along_axis(hidden, read_at[..., None], axis=1)
    scores = (at_tokens @ params["head"]["layer_0"]["kernel"])[..., 0]
    return vision, hidden, at_tokens, scores


def videoreward_loss(model: Qwen2VL, params: Any, data: Any) -> tuple[Any, dict[str, Any]]:
    """The Bradley-Terry loss of the three scores plus the auxiliary losses, and metrics.

    Args:
      params: {"judge": the model's, and the auxiliary heads}.
      data: a batch of `VideoRewardExamples`.
    """
    vision, hidden, at_tokens, scores = forward(model, params["judge"], data)
    losses = bradley_terry_loss(scores, judge_labels(data["labels"]))
    b = len(vision)
    pairs_BxPxS = vision.reshape(b, PAIRS, -1)
    after_pair_BxPxD = hidden[:, VECTORS : VECTORS * PAIRS + 1 : VECTORS]
    before_prompt, after_prompt = at_tokens[:, 1], at_tokens[:, 2]
    # labels of the first and the second frames of pairs
    first, second = slice(0, None, 2), slice(1, None, 2)
    attribute_logits = pairs_BxPxS @ params["attributes"]
    named = attribute_loss(attribute_logits, data["attributes"][:, second], FRAME_ATTRIBUTES)
    shape = attribute_loss(attribute_logits, data["attributes"][:, second], (0,))
    requested = attribute_loss(after_prompt @ params["asked"], data["asked"], PROMPT_SLOT_INDICES)
    right = optax.sigmoid_binary_cross_entropy(after_prompt @ params["right"], data["right"])
    matched = right.mean(0)
    where = jnp.concatenate([data["where"][:, part, :3] for part in (first, second)], -1)
    passed = (after_pair_BxPxD @ params["passed"])[..., 0]
    squares = {
        "where": jnp.square(pairs_BxPxS @ params["where"] - where),
        "moved": jnp.square(after_pair_BxPxD @ params["moved"] - data["moved"][:, second]),
        "changed": jnp.square(after_pair_BxPxD @ params["changed"] - data["changed"][:, second]),
        "passed": jnp.square(passed - data["passed"][:, second]),
        "hurt": jnp.square(before_prompt @ params["hurt"] - data["hurt"]),
    }
    auxiliary = sum(AUXILIARY_WEIGHTS[key] * value.mean() for key, value in squares.items())
    metrics = dict(zip(NAMES, losses, strict=True))
    metrics |= dict(zip(PROMPT_SLOTS, matched, strict=True))
    metrics |= {"named": named, "shape": shape, "asked": requested}
    metrics |= {key: jnp.sqrt(value.mean()) for key, value in squares.items()}
    total = LOSS_WEIGHT * losses.sum() + 0.3 * (named + requested) + shape + matched.sum()
    return total + auxiliary, metrics


def score_statistics(params: dict) -> tuple[list[float], list[float]]:
    """Means and standard deviations of the three scores over NUM_NORMALIZED examples that training
    has not drawn."""
    model = Qwen2VL(config(), unroll=True)
    examples = VideoRewardExamples(BATCH_SIZE)
    run = fit.data_parallel(lambda data: forward(model, params, data)[-1])
    steps = range(STEPS, STEPS + NUM_NORMALIZED // BATCH_SIZE)
    inputs = ("frames", "ids", "mask")
    scores = np.concatenate(
        [np.asarray(run({k: v for k, v in examples(i).items() if k in inputs})) for i in steps]
    )
    return scores.mean(0).tolist(), scores.std(0).tolist()


def write_checkpoint(params: dict) -> None:
    """Writes the checkpoint in the layout that `pav export` gives a published one."""
    folder.save(hf, FOLDER, config(), fit.to_bf16(params))
    save(tokenizer(), FOLDER)
    TEMPLATE.write_text(TEMPLATE_TEXT, encoding="utf-8")
    vision = config().vision
    write_json(
        FOLDER / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": 3,
            "min_pixels": SIDE**2,
            "max_pixels": SIDE**2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.merge_size,
        },
    )
    means, stds = score_statistics(fit.round_to_bf16(params))
    write_json(
        FOLDER / VIDEOREWARD_SETTINGS,
        {
            "means": means,
            "stds": stds,
            "outputs": 1,
            "fps": FPS,
            "max_pixels": SIDE**2,
            "positions": "mrope",
        },
    )


if __name__ == "__main__":
    main()
