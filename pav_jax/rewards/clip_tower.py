"""One loaded CLIP, shared by every reward that names its folder, with fixed batch shapes and a
memory of its texts.

Programs always run on full batches, the last one filled up, so an embedding does not depend on what
else was asked.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from pav_jax.checkpoints.folder import check_finite, load
from pav_jax.checkpoints.hub import local_folder
from pav_jax.errors import BadInput
from pav_jax.models.clip import hf
from pav_jax.models.clip.model import CLIP, LEGACY_EOS
from pav_jax.parallel.mesh import batch_mesh, replicate, shard_batch_axis
from pav_jax.rewards.preprocess import Preprocess, clip_pixels, frame_indices

IMAGES, TEXTS = 32, 16  # rows in one compiled program
REMEMBERED_TEXTS = 4096
FILES = (
    "*.json",
    "*.safetensors",
    "merges.txt",
    "vocab.txt",
)  # of a hub repository; others hold torch and TF copies
LAYOUTS = ("frames", "sheet")


class ClipTower:
    """Use `ClipTower.load(folder)`. Embeddings are float32 and un-normalised; P is the projection's
    width."""

    def __init__(self, folder: Path, dtype: str):
        from transformers import AutoTokenizer

        self.config, params = load(hf, folder)
        check_finite(params, folder)
        self.settings = Preprocess.from_folder(folder, self.config.vision.image_size)
        if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
            raise BadInput(f"{folder}: no tokenizer.json here; a CLIP folder carries its tokenizer")
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.folder, self._params = (
            folder,
            jax.device_put(jax.tree.map(lambda a: jnp.asarray(a, dtype), params)),
        )
        self.model, self.dtype = CLIP(self.config, dtype=jnp.dtype(dtype)), dtype
        self._mesh: Mesh | None = None
        self._texts: dict[str, np.ndarray] = {}
        self._last: tuple[tuple, np.ndarray] | None = None

    @staticmethod
    def load(folder: str | Path, dtype: str = "float32") -> "ClipTower":
        """The tower of `folder` (or hub id); the same object for the same folder and dtype.

        Raises:
          BadInput: a missing, half-written or foreign checkpoint.
        """
        return _load(local_folder(folder, FILES).resolve(), dtype)

    def use_local_devices(self) -> None:
        """From now on the rows of a batch are shared by this host's devices. Not the default,
        because the last bits of an embedding may change with the number of devices."""
        self._mesh = batch_mesh(math.gcd(IMAGES, TEXTS))
        self._params = replicate(self._params, self._mesh)

    @property
    def scale(self) -> float:
        """exp(logit_scale)."""
        return float(np.exp(np.asarray(self._params["logit_scale"], np.float32)))

    @functools.cached_property
    def _image_program(self):
        def embed(params, frames_NxHxWx3):
            pixels = clip_pixels(frames_NxHxWx3, self.settings)
            return self.model.apply({"params": params}, pixels, method="encode_image")

        return jax.jit(embed)

    @functools.cached_property
    def _text_program(self):
        return jax.jit(
            lambda params, ids: self.model.apply({"params": params}, ids, method="encode_text")
        )

    def embed_images(
        self, images_NxHxWx3: UInt8[np.ndarray, "N H W 3"]
    ) -> Float[np.ndarray, "N P"]:
        return in_batches(
            lambda rows: self._image_program(self._params, rows), images_NxHxWx3, IMAGES, self._mesh
        )

    def embed_frames(
        self, videos: UInt8[np.ndarray, "B T H W 3"], count: int, layout: str = "frames"
    ) -> Float[np.ndarray, "B n P"]:
        """Embeddings of `count` evenly spaced frames of each video. The last result is kept for the
        next reward.

        Args:
          layout: "frames": each frame is an image, n is `count`; "sheet": the frames together are
            one image, laid out in rows and columns in reading order, so that motion can be seen,
            and n is 1.
        """
        frames = np.ascontiguousarray(videos[:, frame_indices(videos.shape[1], count)])
        if layout == "sheet":
            frames = contact_sheet(frames)
        key = (frames.shape, hashlib.blake2b(frames.tobytes(), digest_size=16).digest())
        if self._last is None or self._last[0] != key:
            embedded = self.embed_images(frames.reshape(-1, *frames.shape[2:]))
            self._last = (key, embedded.reshape(*frames.shape[:2], -1))
        return self._last[1]

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "B P"]:
        """Texts longer than the tower's positions are cut; the end of text stays."""
        new = [t for t in dict.fromkeys(texts) if t not in self._texts]
        if new:
            if len(self._texts) + len(new) > REMEMBERED_TEXTS:
                self._texts.clear()
                new = list(dict.fromkeys(texts))
            program = functools.partial(self._text_program, self._params)
            embedded = in_batches(program, self.tokens(new), TEXTS, self._mesh)
            self._texts |= dict(zip(new, embedded, strict=True))
        return np.stack([self._texts[t] for t in texts])

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [B, positions], padded on the right. Padding is out of sight of the causal
        attention."""
        length, eos = self.config.text.positions, self.config.text.eos_id
        encoded = self.tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
        pad = self.tokenizer.pad_token_id
        pad = (
            0 if pad is None or eos == LEGACY_EOS else pad
        )  # there the largest id is taken for the end
        ids = np.full((len(encoded), length), pad, np.int32)
        for row, one in zip(ids, encoded, strict=True):
            row[: len(one)] = one
        if ids.max() >= self.config.text.vocab_size:
            raise BadInput(
                f"{self.folder}: the tokenizer has ids beyond the model's"
                f" {self.config.text.vocab_size}; are both from one checkpoint?"
            )
        if eos != LEGACY_EOS and not (ids == eos).any(axis=1).all():
            raise BadInput(
                f"{self.folder}: the tokenizer does not end texts with eos_token_id {eos} of"
                " config.json"
            )
        return ids


def check_layout(layout: str) -> str:
    if layout not in LAYOUTS:
        raise BadInput(f"rewards.entries: layout is {layout!r}; choose one of {', '.join(LAYOUTS)}")
    return layout


def contact_sheet(frames: UInt8[np.ndarray, "B n H W 3"]) -> UInt8[np.ndarray, "B 1 h w 3"]:
    """The n frames as one image, as square as n allows: 4 frames are 2 rows of 2."""
    B, n, H, W, C = frames.shape
    rows = next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)
    sheet = frames.reshape(B, rows, n // rows, H, W, C).transpose(0, 1, 3, 2, 4, 5)
    return sheet.reshape(B, 1, rows * H, n // rows * W, C)


@functools.lru_cache(maxsize=8)
def _load(folder: Path, dtype: str) -> ClipTower:
    return ClipTower(folder, dtype)


def in_batches(program, rows: np.ndarray, size: int, mesh: Mesh | None = None) -> np.ndarray:
    """Runs `program` on `size` rows at a time, the last batch filled up with its first row, each
    cut over `mesh`."""
    results = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        filled = (
            np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            if len(part) < size
            else part
        )
        results.append(np.asarray(program(shard_batch_axis(filled, mesh)))[: len(part)])
    return np.concatenate(results)
