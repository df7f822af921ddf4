"""A loaded CLIP, shared by all rewards that use the same checkpoint.

Programs always run on full batches; the last one is padded. So an embedding does not depend on what
else is embedded. Embeddings of texts are cached.

Shapes: N images, B videos or texts, P width of CLIP's projection.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from pav_jax.checkpoints.folder import check_finite, load
from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.tokenizers import load_tokenizer
from pav_jax.errors import BadInput
from pav_jax.models.clip import hf
from pav_jax.models.clip.model import CLIP, LEGACY_EOS
from pav_jax.parallel.mesh import batch_mesh, replicate, shard_batch_axis
from pav_jax.rewards.preprocess import Preprocess, clip_pixels, frame_indices

IMAGES = 32  # batch size of the image program
MAX_BATCH_BYTES = 2**26  # of uint8 images in one program, whose resize needs ten times as much
TEXTS = 16  # batch size of the text program
MAX_CACHED_TEXTS = 4096
# files wanted from a Hub repository; others are copies for torch and TensorFlow
FILES = ("*.json", "*.safetensors", "merges.txt", "vocab.txt")

Layout = Literal["frames", "sheet"]
Dtype = Literal["float32", "bfloat16", "float16"]


class ClipTower:
    """A CLIP with its tokenizer and preprocessing; use `ClipTower.load(folder)`.

    Embeddings are float32 and not normalised.
    """

    def __init__(self, folder: Path, dtype: str):
        self.config, params = load(hf, folder)
        check_finite(params, folder)
        self.settings = Preprocess.from_folder(folder, self.config.vision.image_size)
        self.tokenizer = load_tokenizer(
            folder, ("tokenizer.json", "vocab.json"), "put the tokenizer of the CLIP there"
        )
        self.folder = folder
        self.dtype = dtype
        self.model = CLIP(self.config, dtype=jnp.dtype(dtype))
        self._params = jax.device_put(jax.tree.map(lambda a: jnp.asarray(a, dtype), params))
        self._mesh: Mesh | None = None
        self._text_cache: dict[str, np.ndarray] = {}
        # digest of the frames embedded last -> their embeddings
        self._last_frames: tuple[tuple, np.ndarray] | None = None

    @staticmethod
    def load(path: str | Path, dtype: str = "float32") -> "ClipTower":
        """Loads a checkpoint; the same folder and dtype give the same object.

        Args:
          path: a folder or a Hub repository.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model.
        """
        return _load(local_folder(path, FILES).resolve(), dtype)

    def use_local_devices(self) -> None:
        """Shards later batches over the devices of this host.

        This is not the default because the last bits of an embedding may change with the number of
        devices.
        """
        self._mesh = batch_mesh(math.gcd(IMAGES, TEXTS))
        self._params = replicate(self._params, self._mesh)

    @property
    def scale(self) -> float:
        """The factor exp(logit_scale) of cosines."""
        return float(np.exp(np.asarray(self._params["logit_scale"], np.float32)))

    def clear_cache(self) -> None:
        """Forget the cached embeddings of texts and of the last frames."""
        self._text_cache.clear()
        self._last_frames = None

    @functools.cached_property
    def _image_program(self):
        def embed(params, frames_NxHxWx3):
            pixels = clip_pixels(frames_NxHxWx3, self.settings)
            return self.model.apply({"params": params}, pixels, method="encode_image")

        return jax.jit(embed)

    @functools.cached_property
    def _text_program(self):
        def embed(params, ids_NxL):
            return self.model.apply({"params": params}, ids_NxL, method="encode_text")

        return jax.jit(embed)

    def embed_images(
        self, images_NxHxWx3: UInt8[np.ndarray, "N H W 3"]
    ) -> Float[np.ndarray, "N P"]:
        """Embeds images of one size."""
        return in_batches(
            lambda images: self._image_program(self._params, images),
            images_NxHxWx3,
            self._batch_size(images_NxHxWx3),
            self._mesh,
        )

    def _batch_size(self, images_NxHxWx3: UInt8[np.ndarray, "N H W 3"]) -> int:
        """IMAGES, halved while a batch of this size of image is larger than MAX_BATCH_BYTES."""
        batch_size = IMAGES
        smallest = 1 if self._mesh is None else self._mesh.size
        while batch_size > smallest and batch_size * images_NxHxWx3[0].nbytes > MAX_BATCH_BYTES:
            batch_size //= 2
        return batch_size

    def embed_frames(
        self, videos: UInt8[np.ndarray, "B T H W 3"], count: int, layout: Layout = "frames"
    ) -> Float[np.ndarray, "B n P"]:
        """Embeds `count` evenly spaced frames of each video.

        The last result is cached, so that rewards which look at the same frames share it.

        Args:
          layout: "frames": each frame is an image, and n is `count`. "sheet": the frames are tiled
            in reading order into one image, in which motion is visible, and n is 1.
        """
        frames = np.ascontiguousarray(videos[:, frame_indices(videos.shape[1], count)])
        if layout == "sheet":
            frames = contact_sheet(frames)
        key = (frames.shape, hashlib.blake2b(frames.tobytes(), digest_size=16).digest())
        if self._last_frames is None or self._last_frames[0] != key:
            embedded = self.embed_images(frames.reshape(-1, *frames.shape[2:]))
            self._last_frames = (key, embedded.reshape(*frames.shape[:2], -1))
        return self._last_frames[1]

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "B P"]:
        """Embeds texts. Texts that are too long are truncated before their end-of-text token."""
        new = [text for text in dict.fromkeys(texts) if text not in self._text_cache]
        if new:
            if len(self._text_cache) + len(new) > MAX_CACHED_TEXTS:
                self._text_cache.clear()
                new = list(dict.fromkeys(texts))
            program = functools.partial(self._text_program, self._params)
            embedded = in_batches(program, self.tokens(new), TEXTS, self._mesh)
            self._text_cache |= dict(zip(new, embedded, strict=True))
        return np.stack([self._text_cache[text] for text in texts])

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids, int32 [B, positions], padded on the right.

        The causal attention of the text encoder does not see the padding.

        Raises:
          BadInput: the tokenizer does not belong to the model.
        """
        length = self.config.text.positions
        eos = self.config.text.eos_id
        encoded = self.tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
        pad = self.tokenizer.pad_token_id
        if pad is None or eos == LEGACY_EOS:
            pad = 0  # with the legacy id, CLIP takes the largest id for the end of text
        ids = np.full((len(encoded), length), pad, np.int32)
        for row, text_ids in zip(ids, encoded, strict=True):
            row[: len(text_ids)] = text_ids
        check_token_ids(ids, self.config.text.vocab_size, eos, self.folder)
        return ids


def check_token_ids(ids: np.ndarray, vocab_size: int, eos: int, folder: Path) -> None:
    """Checks that a tokenizer belongs to a CLIP model.

    Args:
      ids: token ids of texts, [B, positions].
      eos: the model's id of the end of text.

    Raises:
      BadInput: ids are too large, or texts don't end with `eos`.
    """
    if ids.max() >= vocab_size:
        raise BadInput(
            f"{folder}: the tokenizer has ids above {vocab_size - 1}, the model's largest; use the"
            " tokenizer and model of one checkpoint",
            folder,
            "vocab_size",
        )
    if eos != LEGACY_EOS and not (ids == eos).any(axis=1).all():
        raise BadInput(
            f"{folder}: the tokenizer does not end texts with eos_token_id {eos} of config.json",
            folder,
            "eos_token_id",
        )


def check_layout(layout: Layout) -> Layout:
    """Returns `layout`.

    Raises:
      BadInput: there is no such layout.
    """
    if layout not in get_args(Layout):
        raise BadInput(
            f"layout is {layout!r}; use one of {', '.join(get_args(Layout))}",
            source="layout",
            field="layout",
        )
    return layout


def unit_length(x: Float[np.ndarray, "... P"]) -> Float[np.ndarray, "... P"]:
    """Scales the vectors on the last axis to length 1, in float64; zeros stay zeros."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def contact_sheet(frames: UInt8[np.ndarray, "B n H W 3"]) -> UInt8[np.ndarray, "B 1 h w 3"]:
    """Tiles n frames into one image, as square as n allows: 4 frames give 2 rows of 2."""
    B, n, H, W, C = frames.shape
    rows = next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)
    sheet = frames.reshape(B, rows, n // rows, H, W, C).transpose(0, 1, 3, 2, 4, 5)
    return sheet.reshape(B, 1, rows * H, n // rows * W, C)


@functools.lru_cache(maxsize=8)
def _load(folder: Path, dtype: str) -> ClipTower:
    return ClipTower(folder, dtype)


def in_batches(
    program: Callable, rows: np.ndarray, batch_size: int, mesh: Mesh | None = None
) -> np.ndarray:
    """Runs a program on `batch_size` rows at a time and concatenates the results.

    The last batch is padded with copies of its first row. Batches are sharded over `mesh`.
    """
    results = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        count = len(batch)
        if count < batch_size:
            padding = np.repeat(batch[:1], batch_size - count, axis=0)
            batch = np.concatenate([batch, padding])
        results.append(np.asarray(program(shard_batch_axis(batch, mesh)))[:count])
    return np.concatenate(results)
