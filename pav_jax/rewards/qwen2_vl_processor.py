"""Frames and texts as Qwen2-VL takes them: transformers' processor and qwen-vl-utils without torch.

Frames keep their aspect ratio nearly: both sides become multiples of 28 pixels (the side of the
square of patches that becomes one vector), and their product lies within two limits. They are
resized by Pillow's bicubic filter.

Shapes: T frames, H, W height and width in pixels, L tokens.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from pav_jax.checkpoints.tokenizers import load_tokenizer
from pav_jax.errors import BadInput
from pav_jax.models.qwen2_vl.config import Qwen2VLConfig
from pav_jax.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, Mean, Std
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import Positive, check_object, read_fields

VIDEO = "<|video_pad|>"
IMAGE = "<|image_pad|>"
# Qwen2-VL's chat format with its default system message; {vision} and {text} are filled in
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{vision}<|vision_end|>{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
# the only supported values of these fields of preprocessor_config.json
SUPPORTED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
# our field -> that of preprocessor_config.json
FIELDS = {"scale": "rescale_factor", "mean": "image_mean", "std": "image_std"}
MAX_FRAMES = 768  # of a video: FPS_MAX_FRAMES of qwen-vl-utils
MIN_FRAMES = 4  # FPS_MIN_FRAMES of qwen-vl-utils
FRAME_FACTOR = 2  # the number of frames is a multiple of it, where the video has as many


@dataclasses.dataclass(frozen=True)
class PixelSettings:
    """How grey levels are normalized; the defaults are those of transformers.

    Attributes:
      scale: factor that brings grey levels to 0..1.
      mean, std: per channel, of the normalization.
    """

    scale: Positive = 1 / 255
    mean: Mean = OPENAI_MEAN
    std: Std = OPENAI_STD

    @classmethod
    def from_folder(cls, folder: str | Path, config: Qwen2VLConfig) -> "PixelSettings":
        """Reads preprocessor_config.json, or processor_config.json as transformers 5 writes it.

        Without either, the defaults are used.

        Raises:
          BadInput: the file needs steps that are not supported, or belongs to another model.
        """
        path = Path(folder) / "preprocessor_config.json"
        if path.exists():
            return cls.from_json(read_json(path), config, str(path))
        path = Path(folder) / "processor_config.json"
        raw = read_json(path).get("image_processor") if path.exists() else None
        fields = check_object(raw or {}, str(path), "image_processor")
        return cls.from_json(fields, config, str(path))

    @classmethod
    def from_json(
        cls, raw: Mapping[str, Any], config: Qwen2VLConfig, source: str
    ) -> "PixelSettings":
        """Checks the fields of a preprocessor_config.json; arguments as `from_folder`."""
        vision = config.vision
        expected = SUPPORTED | {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.merge_size,
        }
        for field, value in expected.items():
            if raw.get(field) not in (None, value):
                raise BadInput(
                    f"{source}: {field} is {str(raw[field])[:60]}; the model needs {value}",
                    source,
                    field,
                )
        values = {name: raw[name] for name in FIELDS.values() if raw.get(name)}
        return read_fields(cls, values, source, names=FIELDS)


def target_size(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width) after the resize, as `smart_resize` of qwen-vl-utils.

    Args:
      factor: both sides are multiples of it.
      min_pixels, max_pixels: limits of their product; a side is never less than `factor`.
    """
    target_height = max(factor, round(height / factor) * factor)
    target_width = max(factor, round(width / factor) * factor)
    if target_height * target_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        target_height = max(factor, math.floor(height / shrink / factor) * factor)
        target_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif target_height * target_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        target_height = math.ceil(height * grow / factor) * factor
        target_width = math.ceil(width * grow / factor) * factor
    return target_height, target_width


def resize(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The image with the (height, width) of `size`; itself where it has them."""
    if image.shape[:2] == size:
        return image
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def sampled_frames(num_frames: int, rate: float, fps: float) -> Int[np.ndarray, "T"]:
    """Indices of the frames that the published judges read, `smart_nframes` of qwen-vl-utils.

    They are evenly spaced and include the first and the last one.

    Args:
      num_frames, rate: of the video; frames, and frames per second.
      fps: frames per second that are read.
    """
    most = min(MAX_FRAMES, num_frames) // FRAME_FACTOR * FRAME_FACTOR
    count = min(max(num_frames / rate * fps, MIN_FRAMES), most)
    count = round(count / FRAME_FACTOR) * FRAME_FACTOR
    return spaced_frames(num_frames, count)


def spaced_frames(num_frames: int, count: int) -> Int[np.ndarray, "T"]:
    """`count` evenly spaced frames with the first and the last one, at most all of them."""
    count = max(1, min(count, num_frames))
    return np.linspace(0, num_frames - 1, count).round().astype(int)


class Qwen2VLProcessor:
    """The tokenizer of a Qwen2-VL, and its normalization.

    Attributes:
      special: the texts of all tokens that are not parts of words.
    """

    def __init__(self, tokenizer: Any, settings: PixelSettings):
        self.tokenizer = tokenizer
        self.settings = settings
        self.special = tuple(tokenizer.get_added_vocab())

    @classmethod
    def from_folder(
        cls, folder: str | Path, config: Qwen2VLConfig, tokens: Sequence[str] = ()
    ) -> "Qwen2VLProcessor":
        """Loads the tokenizer and the settings in the folder of a checkpoint.

        Args:
          tokens: that the tokenizer must have besides those of pictures.

        Raises:
          BadInput: they are missing, or belong to another model.
        """
        folder = Path(folder)
        tokenizer = load_tokenizer(
            folder,
            ("tokenizer.json", "vocab.json"),
            "put the tokenizer of the checkpoint there",
        )
        vocabulary = tokenizer.get_vocab()
        for token in (VIDEO, IMAGE, *tokens):
            if token not in vocabulary:
                raise BadInput(
                    f"{folder}: the tokenizer has no token {token}; use that of the checkpoint, or"
                    " convert the checkpoint with pav export --to=pav",
                    folder,
                    token,
                )
        for token, token_id, field in (
            (VIDEO, config.video_token_id, "video_token_id"),
            (IMAGE, config.image_token_id, "image_token_id"),
        ):
            if vocabulary[token] != token_id:
                raise BadInput(
                    f"{folder}: {token} is token {vocabulary[token]} of the tokenizer, but {field}"
                    f" in config.json is {token_id}; use the tokenizer and model of one checkpoint",
                    folder,
                    field,
                )
        if len(tokenizer) > config.text.vocab_size:
            raise BadInput(
                f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model only"
                f" {config.text.vocab_size}; use the tokenizer and model of one checkpoint",
                folder,
                "vocab_size",
            )
        return cls(tokenizer, PixelSettings.from_folder(folder, config))

    def check_prompt(self, prompt: str) -> None:
        """Refuse a prompt with a token that is no part of words, such as one for a frame.

        Raises:
          BadInput: it has one.
        """
        for token in self.special:
            if token in prompt:
                raise BadInput(
                    f"prompt {prompt!r}: remove {token}, which has a meaning for the judge",
                    "prompts",
                )

    def tokens(
        self, texts: Sequence[str], token: str, count: int, multiple: int
    ) -> list[tuple[Int[np.ndarray, "L"], Bool[np.ndarray, "L"]]]:
        """Tokens of user turns that start with a picture or video.

        Args:
          texts: of the turns, after the picture.
          token: VIDEO or IMAGE; `count` of them stand for the picture.
          multiple: rows are padded on the right to a multiple of it.

        Returns:
          Token ids of each row, and a mask that is False for padding.
        """
        turns = [CHAT.replace("{vision}", token * count).replace("{text}", text) for text in texts]
        rows = []
        for ids in self.tokenizer(turns)["input_ids"]:
            length = -(-len(ids) // multiple) * multiple
            padded = np.zeros(length, np.int32)
            padded[: len(ids)] = ids
            rows.append((padded, np.arange(length) < len(ids)))
        return rows
