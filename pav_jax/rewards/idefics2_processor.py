"""Texts and images as Idefics2 takes them: transformers' `Idefics2Processor` without torch.

An image keeps its aspect ratio: its longer side is reduced to a limit, then a side below a second
limit is enlarged to that, by Pillow's bilinear resize. In a text, `<image>` stands for an image; it
is expanded to a fence token, one image token per latent of the resampler, and a fence token.
Neighbouring images share a fence.

Shapes: B rows, T tokens, N images of a row, H, W height and width in pixels.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from pav_jax.checkpoints.tokenizers import load_tokenizer
from pav_jax.errors import BadInput
from pav_jax.rewards.preprocess import Mean, Side, Std
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import Positive, Range, check_object, read_fields

IMAGE = "<image>"
FENCE = "<fake_token_around_image>"
# the only supported values of these fields of preprocessor_config.json
SUPPORTED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_image_splitting": False,
}
# our field -> that of preprocessor_config.json
FIELDS = {
    "shortest": "size.shortest_edge",
    "longest": "size.longest_edge",
    "resample": "resample",
    "scale": "rescale_factor",
    "mean": "image_mean",
    "std": "image_std",
}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """Settings of the image preprocessing; the defaults are those of transformers.

    Attributes:
      shortest, longest: limits of the sides, in pixels.
      resample: Pillow's number of the resize filter.
      scale: factor that brings grey levels to 0..1.
      mean, std: per channel, of the normalisation.
    """

    shortest: Side = 378
    longest: Side = 980
    resample: Annotated[int, Range(0, 5)] = Image.Resampling.BILINEAR
    scale: Positive = 1 / 255
    mean: Mean = (0.5, 0.5, 0.5)
    std: Std = (0.5, 0.5, 0.5)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ImageSettings":
        """Reads preprocessor_config.json, or processor_config.json as transformers 5 writes it.

        Without either, the defaults are used.

        Raises:
          BadInput: the file requires steps that are not supported.
        """
        path = Path(folder) / "preprocessor_config.json"
        if path.exists():
            return cls.from_json(read_json(path), str(path))
        path = Path(folder) / "processor_config.json"
        raw = read_json(path).get("image_processor") if path.exists() else None
        return cls.from_json(check_object(raw or {}, str(path), "image_processor"), str(path))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str) -> "ImageSettings":
        """Checks the fields of a preprocessor_config.json.

        Args:
          source: the path of the file, for error messages.

        Raises:
          BadInput: they require steps that are not supported.
        """
        for field, value in SUPPORTED.items():
            if raw.get(field) not in (None, value):
                raise BadInput(
                    f"{source}: {field} is {raw[field]}; only {value} is supported", source, field
                )
        size = check_object(raw.get("size") or {}, source, "size")
        if size and not {"shortest_edge", "longest_edge"} <= set(size):
            raise BadInput(
                f"{source}: size has {', '.join(size)}; it needs shortest_edge and longest_edge",
                source,
                "size",
            )
        values = {
            "size.shortest_edge": size.get("shortest_edge"),
            "size.longest_edge": size.get("longest_edge"),
            "resample": raw.get("resample"),
            "rescale_factor": raw.get("rescale_factor"),
            "image_mean": raw.get("image_mean") or None,
            "image_std": raw.get("image_std") or None,
        }
        values = {name: value for name, value in values.items() if value is not None}
        return read_fields(cls, values, source, names=FIELDS)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize.

        The order of float operations is that of transformers, because it decides the rounding.
        """
        aspect = width / height
        if width >= height and width > self.longest:
            height = int(self.longest / aspect)
            width = self.longest
        elif height > width and height > self.longest:
            height = self.longest
            width = int(self.longest * aspect)
        return max(height, self.shortest), max(width, self.shortest)


class Idefics2Processor:
    """The tokenizer and image preprocessing of an Idefics2.

    Attributes:
      image_tokens: number of image tokens per image, the resampler's latents.
    """

    def __init__(self, tokenizer: Any, settings: ImageSettings, image_tokens: int):
        self.tokenizer = tokenizer
        self.settings = settings
        self.image_tokens = image_tokens

    @classmethod
    def from_folder(
        cls, folder: str | Path, image_tokens: int, image_token_id: int
    ) -> "Idefics2Processor":
        """Loads the tokenizer and the settings in the folder of a checkpoint.

        Args:
          image_tokens, image_token_id: from the model's config.json.

        Raises:
          BadInput: they are missing, or belong to another model.
        """
        folder = Path(folder)
        tokenizer = load_tokenizer(
            folder,
            ("tokenizer.json", "tokenizer.model"),
            "put the tokenizer of the checkpoint there",
        )
        _check_image_tokens(tokenizer.get_vocab(), image_token_id, folder)
        path = folder / "processor_config.json"
        if path.exists():
            length = read_json(path).get("image_seq_len", image_tokens)
            if length != image_tokens:
                raise BadInput(
                    f"{path}: image_seq_len is {length}, but the model's resampler has"
                    f" {image_tokens} latents",
                    path,
                    "image_seq_len",
                )
        return cls(tokenizer, ImageSettings.from_folder(folder), image_tokens)

    def expand_images(self, text: str) -> str:
        """`text` with every `<image>` expanded to the tokens that stand for it."""
        image = FENCE + IMAGE * self.image_tokens + FENCE
        text = text.replace(IMAGE, image).replace(FENCE + FENCE, FENCE)
        # a space keeps a word right after an image a word of its own
        return re.sub(re.escape(FENCE) + r"(?=[^\s<])", FENCE + " ", text)

    def texts(
        self, texts: Sequence[str], multiple: int = 1, side: str | None = None
    ) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """Tokenizes texts.

        Args:
          multiple: texts are padded to the longest one, rounded up to a multiple of this.
          side: of the padding, "left" or "right"; None: the tokenizer's.

        Returns:
          Token ids, and a mask that is False for padding.
        """
        encoded = self.tokenizer([self.expand_images(text) for text in texts])["input_ids"]
        length = -(-max(map(len, encoded)) // multiple) * multiple
        ids = np.full((len(encoded), length), self.tokenizer.pad_token_id or 0, np.int32)
        mask = np.zeros(ids.shape, bool)
        pad_left = (side or self.tokenizer.padding_side) == "left"
        for row, text_ids in enumerate(encoded):
            start = length - len(text_ids) if pad_left else 0
            ids[row, start : start + len(text_ids)] = text_ids
            mask[row, start : start + len(text_ids)] = True
        return ids, mask

    def images(
        self, rows: Sequence[Sequence[UInt8[np.ndarray, "H W 3"]]]
    ) -> tuple[Float[np.ndarray, "B N h w 3"], Bool[np.ndarray, "B N h w"]]:
        """Resizes and normalises images.

        Images are at the top left of their padding, and missing images at the end of their row.
        Padding and missing images are zero.

        Args:
          rows: the images of each text.

        Returns:
          Pixels, and a mask that is False for padding and missing images.
        """
        resized = [[self._resize(image) for image in row] for row in rows]
        height = max(image.shape[0] for row in resized for image in row)
        width = max(image.shape[1] for row in resized for image in row)
        shape = (len(rows), max(map(len, rows)), height, width)
        pixels = np.zeros((*shape, 3), np.float32)
        mask = np.zeros(shape, bool)
        scale = np.float32(self.settings.scale)
        mean = np.asarray(self.settings.mean, np.float32)
        std = np.asarray(self.settings.std, np.float32)
        for i, row in enumerate(resized):
            for j, image in enumerate(row):
                h, w = image.shape[:2]
                pixels[i, j, :h, :w] = (image * scale - mean) / std
                mask[i, j, :h, :w] = True
        return pixels, mask

    def _resize(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        height, width = self.settings.target(image.shape[0], image.shape[1])
        if (height, width) == image.shape[:2]:
            return image
        resample = Image.Resampling(self.settings.resample)
        return np.asarray(Image.fromarray(image).resize((width, height), resample))


def _check_image_tokens(vocab: Mapping[str, int], image_token_id: int, folder: Path) -> None:
    for token in (IMAGE, FENCE):
        if token not in vocab:
            raise BadInput(
                f"{folder}: the tokenizer has no token {token}; use that of the checkpoint",
                folder,
                token,
            )
    if vocab[IMAGE] != image_token_id:
        raise BadInput(
            f"{folder}: {IMAGE} is token {vocab[IMAGE]} of the tokenizer, but image_token_id in"
            f" config.json is {image_token_id}; use the tokenizer and model of one checkpoint",
            folder,
            "image_token_id",
        )
