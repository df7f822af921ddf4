"""Texts and pictures as Idefics2 takes them: what transformers' `Idefics2Processor` does, without
torch.

A picture keeps its shape: its longer side is brought down to a limit, and a side below another
limit is brought up to that, by Pillow's own bilinear resize. In a text an image stands as
`<image>`; it is written out as a fence token, one image token per vector of the resampler, and a
fence token. Neighbours share a fence.

Shapes: B rows, T tokens, N images of a row, H W pixels.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json

IMAGE, FENCE = "<image>", "<fake_token_around_image>"
EXPECTED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_image_splitting": False,
}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """Sides in pixels; `scale` brings grey levels to 0..1. Defaults: the original processor's."""

    shortest: int = 378
    longest: int = 980
    resample: int = Image.Resampling.BILINEAR
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ImageSettings":
        """Reads preprocessor_config.json, or processor_config.json as transformers 5 writes it;
        else the defaults.

        Raises:
          BadInput: the file asks for steps that are not done here.
        """
        path, raw = Path(folder) / "preprocessor_config.json", {}
        if path.exists():
            raw = read_json(path)
        elif (path := Path(folder) / "processor_config.json").exists():
            raw = read_json(path).get("image_processor") or {}
        return cls.from_json(raw, str(path))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], source: str) -> "ImageSettings":
        for field, value in EXPECTED.items():
            if raw.get(field) not in (None, value):
                raise BadInput(f"{source}: {field} is {raw[field]}; only {value} is supported")
        size = raw.get("size") or {}
        if size and not {"shortest_edge", "longest_edge"} <= set(size):
            raise BadInput(
                f"{source}: size has {', '.join(size)}; shortest_edge and longest_edge are needed"
            )
        fields = {
            "shortest": size.get("shortest_edge"),
            "longest": size.get("longest_edge"),
            "resample": raw.get("resample"),
            "scale": raw.get("rescale_factor"),
        }
        fields |= {
            ours: tuple(raw[theirs])
            for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))
            if raw.get(theirs)
        }
        return cls(**{name: value for name, value in fields.items() if value is not None})

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize. The original's order of float operations, which decides
        the rounding."""
        aspect, longest = width / height, self.longest
        if width >= height and width > longest:
            height, width = int(longest / aspect), longest
        elif height > width and height > longest:
            height, width = longest, int(longest * aspect)
        return max(height, self.shortest), max(width, self.shortest)


class Idefics2Processor:
    """`image_tokens`: how many of them stand for one image, the resampler's latents."""

    def __init__(self, tokenizer: Any, settings: ImageSettings, image_tokens: int):
        self.tokenizer, self.settings, self.image_tokens = tokenizer, settings, image_tokens

    @classmethod
    def from_folder(
        cls, folder: str | Path, image_tokens: int, image_token_id: int
    ) -> "Idefics2Processor":
        """The tokenizer and the settings beside a checkpoint.

        Raises:
          BadInput: they are missing, or belong to another model than `image_tokens` and
            `image_token_id`.
        """
        from transformers import AutoTokenizer

        folder = Path(folder)
        if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
            raise BadInput(
                f"{folder}: no tokenizer.json here; an Idefics2 folder carries its tokenizer"
            )
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        known = tokenizer.get_vocab()
        if missing := [token for token in (IMAGE, FENCE) if token not in known]:
            raise BadInput(
                f"{folder}: the tokenizer has no {missing[0]} token; take the one of this"
                " checkpoint"
            )
        if known[IMAGE] != image_token_id:
            raise BadInput(
                f"{folder}: {IMAGE} is token {known[IMAGE]} here, but config.json's image_token_id"
                f" is {image_token_id}; take both from one checkpoint"
            )
        path = folder / "processor_config.json"
        written = (
            read_json(path).get("image_seq_len", image_tokens) if path.exists() else image_tokens
        )
        if written != image_tokens:
            raise BadInput(
                f"{path}: image_seq_len is {written}, but the model's resampler gives"
                f" {image_tokens} tokens"
            )
        return cls(tokenizer, ImageSettings.from_folder(folder), image_tokens)

    def write_out(self, text: str) -> str:
        """`text` with every `<image>` as the tokens it stands for."""
        text = text.replace(IMAGE, FENCE + IMAGE * self.image_tokens + FENCE).replace(
            FENCE + FENCE, FENCE
        )
        return re.sub(
            re.escape(FENCE) + r"(?=[^\s<])", FENCE + " ", text
        )  # a word right behind stays a word

    def texts(
        self, texts: Sequence[str], multiple: int = 1, side: str | None = None
    ) -> tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """Token ids and where they are real. Padded to the longest text, or beyond it to a multiple
        of `multiple`.

        Args:
          side: of the padding, "left" or "right"; the tokenizer's own where None.
        """
        encoded = self.tokenizer([self.write_out(text) for text in texts])["input_ids"]
        length = -(-max(map(len, encoded)) // multiple) * multiple
        ids = np.full((len(encoded), length), self.tokenizer.pad_token_id or 0, np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, one in enumerate(encoded):
            start = length - len(one) if (side or self.tokenizer.padding_side) == "left" else 0
            ids[i, start : start + len(one)] = one
            mask[i, start : start + len(one)] = True
        return ids, mask

    def images(
        self, rows: Sequence[Sequence[UInt8[np.ndarray, "H W 3"]]]
    ) -> tuple[Float[np.ndarray, "B N h w 3"], Bool[np.ndarray, "B N h w"]]:
        """Normalised pixels and where they are picture. Each row's pictures come first; pictures
        stand at the top left.

        Padding is zero, whole missing pictures too.
        """
        resized = [[self._resize(image) for image in row] for row in rows]
        height, width = (
            max(image.shape[axis] for row in resized for image in row) for axis in (0, 1)
        )
        shape = (len(rows), max(map(len, rows)), height, width)
        pixels, mask = np.zeros((*shape, 3), np.float32), np.zeros(shape, bool)
        mean, std = (np.asarray(x, np.float32) for x in (self.settings.mean, self.settings.std))
        for i, row in enumerate(resized):
            for j, image in enumerate(row):
                h, w = image.shape[:2]
                pixels[i, j, :h, :w] = (image * np.float32(self.settings.scale) - mean) / std
                mask[i, j, :h, :w] = True
        return pixels, mask

    def _resize(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        height, width = self.settings.target(*image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling(self.settings.resample))
        )
