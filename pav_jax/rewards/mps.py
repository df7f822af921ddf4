"""MPS: a preference learned from people's choices between pictures for one prompt, averaged over
frames.

Source: Zhang et al. 2024 (CVPR), "Learning Multi-dimensional Human Preference for Text-to-Image
Generation"; the checkpoint `MPS_overall_checkpoint` of Kwai-Kolors/MPS, made a folder by
`pav export --to=pav`. With it scores lie at about 5 to 15. What the judge looks at is a word list,
the condition (see `models.mps`); the default is the published one for the overall preference.

Shapes: V videos in one program, F frames of each, T text tokens, M those of the condition, P CLIP's
space.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from pav_jax.checkpoints.folder import check_finite, load
from pav_jax.checkpoints.hub import local_file, local_folder
from pav_jax.errors import BadInput
from pav_jax.models.clip.model import LEGACY_EOS
from pav_jax.models.mps import MPSModel, hf
from pav_jax.models.mps.model import condition_mask
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import batch_mesh, batch_shards, local_mesh, replicate, shard_batch_axis
from pav_jax.rewards.clip_tower import FILES, in_batches
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import MPSOptions
from pav_jax.rewards.preprocess import Preprocess, clip_pixels, frame_indices
from pav_jax.rewards.reward import PretrainedReward

CONDITION = Path(__file__).parent / "mps_condition.txt"
VIDEOS = 8  # in one compiled program, at least: a mesh fills all its rows


class MPS(PretrainedReward):
    """MPS behind the suite's protocol.

    Attributes:
      mesh: over which the weights are laid out by their logical axes, and a batch by its rows;
        None: one device.
    """

    names = ("MPS",)
    options = MPSOptions

    def __init__(
        self,
        folder: Path,
        frames: int = 4,
        condition: Path = CONDITION,
        dtype: str = "float32",
        mesh: Mesh | None = None,
    ):
        from transformers import AutoTokenizer, CLIPConfig

        where = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
        self.config, params = load(hf, folder, jnp.dtype(dtype), where)
        check_finite(params, folder)
        self.settings = Preprocess.from_folder(folder, self.config.clip.vision.image_size)
        if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
            raise BadInput(
                f"{folder}: no tokenizer.json here; put the tokenizer of CLIP ViT-H/14 beside the"
                " weights"
            )
        # transformers knows no model of config.json's type and would say so
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder), config=CLIPConfig())
        if self.tokenizer.pad_token_id is None:
            raise BadInput(f"{folder}: the tokenizer names no pad_token, and MPS reads the padding")
        self.folder, self.frames, self.condition, self.dtype = folder, frames, condition, dtype
        self.mesh, self._mesh, self._params = (
            mesh,
            mesh,
            params if mesh is not None else jax.device_put(params),
        )
        self._rows = VIDEOS if mesh is None else rows_of(mesh)
        self._model = MPSModel(self.config, dtype=jnp.dtype(dtype))
        encode = jax.jit(
            lambda params, ids: self._model.apply({"params": params}, ids, method="encode_text")[0][
                0
            ]
        )
        condition_MxP = encode(self._params, self.tokens([condition_text(condition)]))
        self._condition_MxP = replicate(condition_MxP, mesh)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        frames: int = 4,
        condition: str | Path | None = None,
        dtype: str = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
    ) -> "MPS":
        """`path`: an MPS with its tokenizer; `condition`: a file with one word a line, None for
        the published list;
        `mesh`: see above, or its sizes on this host, as in dict(fsdp=4).

        Raises:
          BadInput: a missing, half-written or foreign checkpoint, an empty list, or a mesh that
            does not fit the devices.
        """
        mesh = local_mesh(mesh, "rewards.entries: mps's mesh")
        return cls(
            local_folder(path, FILES),
            frames,
            Path(local_file(condition or CONDITION)),
            dtype,
            mesh,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            "mps",
            folder=self.folder,
            condition=self.condition,
            frames=self.frames,
            dtype=self.dtype,
        )

    def use_local_devices(self) -> None:
        """See `ClipTower.use_local_devices`. On a mesh all is spread already."""
        if self.mesh is None:
            self._mesh = batch_mesh(VIDEOS)
            self._params, self._condition_MxP = replicate(
                (self._params, self._condition_MxP), self._mesh
            )

    def score(
        self, videos: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], refined=None
    ) -> dict[str, Float[np.ndarray, "B"]]:
        frames = np.ascontiguousarray(videos[:, frame_indices(videos.shape[1], self.frames)])
        ids_BxT = self.tokens(prompts)
        place = functools.partial(shard_batch_axis, mesh=self._mesh)

        def run(rows):
            return self._program(
                self._params, self._condition_MxP, place(frames[rows]), place(ids_BxT[rows])
            )

        return {"MPS": in_batches(run, np.arange(len(videos)), self._rows).mean(1)}

    def tokens(self, texts: Sequence[str]) -> Int[np.ndarray, "B T"]:
        """Every position filled with the tokenizer's own padding, which the model was trained to
        read. Longer texts are cut; the end of text stays."""
        text = self.config.clip.text
        ids = self.tokenizer(
            list(texts), truncation=True, max_length=text.positions, padding="max_length"
        )["input_ids"]
        ids = np.array(ids, np.int32)
        if ids.max() >= text.vocab_size:
            raise BadInput(
                f"{self.folder}: the tokenizer has ids beyond the model's {text.vocab_size}; are"
                " both from one checkpoint?"
            )
        if text.eos_id != LEGACY_EOS and not (ids == text.eos_id).any(axis=1).all():
            raise BadInput(
                f"{self.folder}: the tokenizer does not end texts with eos_token_id {text.eos_id}"
                " of config.json"
            )
        return ids

    @functools.cached_property
    def _program(self):
        return program(self._model, self.settings)


def rows_of(mesh: Mesh) -> int:
    """Videos in one program on `mesh`: the least multiple of its rows from VIDEOS on."""
    return -(-VIDEOS // batch_shards(mesh)) * batch_shards(mesh)


def program(model: MPSModel, settings: Preprocess) -> Callable:
    """(parameters, condition [M, P], frames [V, F, H, W, 3], ids [V, T]) -> scores [V, F]."""

    def score(params, condition_MxP, frames_VxFxHxWx3, ids_VxT):
        call = functools.partial(model.apply, {"params": params})
        v, f = frames_VxFxHxWx3.shape[:2]
        text, end = call(ids_VxT, method="encode_text")
        per_frame = (
            jnp.repeat(x, f, axis=0) for x in (text, end, condition_mask(text, condition_MxP))
        )
        pixels = clip_pixels(frames_VxFxHxWx3.reshape(v * f, *frames_VxFxHxWx3.shape[2:]), settings)
        return call(call(pixels, method="encode_image"), *per_frame, method="compare").reshape(v, f)

    return jax.jit(score)


def condition_text(path: str | Path) -> str:
    """The list in `path` as the text the model was trained with: "light, color, ..., things."

    Raises:
      BadInput: no such file, or no word in it.
    """
    try:
        words = Path(path).read_text().split("\n")
    except OSError:
        raise BadInput(
            f"{path}: no such file; condition names a list with one word a line"
        ) from None
    words = [word.strip() for word in words if word.strip()]
    if not words:
        raise BadInput(f"{path}: the list is empty; write one word a line")
    return ", ".join(words) + "."
