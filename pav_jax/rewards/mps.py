"""MPS: a model of people's choices between two pictures for one prompt, averaged over frames.

Source: Zhang et al. 2024 (CVPR), "Learning Multi-dimensional Human Preference for Text-to-Image
Generation"; the checkpoint is `MPS_overall_checkpoint` of Kwai-Kolors/MPS, converted with
`pav export --to=pav`. With it, scores are about 5 to 15. The condition, a list of words, tells the
model what to look at (see `models.mps`); the default is the published one for overall preference.

Shapes: V videos in one program, F frames of each, T text tokens, M tokens of the condition, P width
of CLIP's projection.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from pav_jax.checkpoints.folder import check_finite, load
from pav_jax.checkpoints.hub import local_file, local_folder
from pav_jax.checkpoints.tokenizers import load_tokenizer
from pav_jax.errors import BadInput
from pav_jax.models.mps import MPSModel, hf
from pav_jax.models.mps.model import condition_mask
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import batch_mesh, batch_shards, local_mesh, replicate, shard_batch_axis
from pav_jax.rewards.clip_tower import FILES, Dtype, check_token_ids, in_batches
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import MPSOptions
from pav_jax.rewards.preprocess import Preprocess, clip_pixels, frame_indices
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos
from pav_jax.storage.folders import local_copy

CONDITION = Path(__file__).parent / "mps_condition.txt"
VIDEOS = 8  # smallest batch size of the program; a mesh rounds it up to its rows


class MPS(PretrainedReward):
    """The reward MPS.

    Attributes:
      mesh: the mesh that weights and batches are sharded over; None: one device.
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
        sharding = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
        self.config, params = load(hf, folder, jnp.dtype(dtype), sharding)
        check_finite(params, folder)
        self.settings = Preprocess.from_folder(folder, self.config.clip.vision.image_size)
        self.tokenizer = _load_tokenizer(folder)
        self.folder = folder
        self.frames = frames
        self.condition = condition
        self.dtype = dtype
        self.mesh = mesh
        self._mesh = mesh
        self._params = jax.device_put(params) if mesh is None else params
        self._batch_size = VIDEOS if mesh is None else batch_size_on(mesh)
        self._model = MPSModel(self.config, dtype=jnp.dtype(dtype))

        def encode(params, ids):
            return self._model.apply({"params": params}, ids, method="encode_text")[0][0]

        condition_ids = self.tokens([condition_text(condition)])
        self._condition_MxP = replicate(jax.jit(encode)(self._params, condition_ids), mesh)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        frames: int = 4,
        condition: str | Path | None = None,
        dtype: Dtype = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
    ) -> "MPS":
        """Loads an MPS checkpoint.

        Args:
          path: a folder or a Hub repository with the model and its tokenizer.
          frames: number of evenly spaced frames of a video that are scored.
          condition: a text file with one word per line; None: the published list.
          dtype: of the parameters and activations.
          mesh: shards the weights; a mesh, or axis sizes on this host, as in dict(fsdp=4).

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model, the condition is
            empty, or the mesh does not fit the devices.
        """
        mesh = local_mesh(mesh, "mps.mesh")
        condition_file = local_copy(local_file(condition or CONDITION))
        return cls(local_folder(path, FILES), frames, condition_file, dtype, mesh)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint(
            "mps",
            folder=self.folder,
            condition=self.condition,
            frames=self.frames,
            dtype=self.dtype,
        )

    def use_local_devices(self) -> None:
        """Shards later batches over this host's devices; see `ClipTower.use_local_devices`.

        A reward with a mesh stays on its mesh.
        """
        if self.mesh is None:
            self._mesh = batch_mesh(VIDEOS)
            self._params, self._condition_MxP = replicate(
                (self._params, self._condition_MxP), self._mesh
            )

    def frames_read(self, num_frames: int) -> np.ndarray:
        """Evenly spaced frames."""
        return frame_indices(num_frames, self.frames)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3] by their prompts; returns MPS [B]."""
        frames = np.ascontiguousarray(videos[:, frame_indices(videos.shape[1], self.frames)])
        ids_BxT = self.tokens(prompts)
        shard = functools.partial(shard_batch_axis, mesh=self._mesh)

        def run(rows):
            return self._program(
                self._params, self._condition_MxP, shard(frames[rows]), shard(ids_BxT[rows])
            )

        scores_BxF = in_batches(run, np.arange(len(videos)), self._batch_size)
        return {"MPS": scores_BxF.mean(1)}

    def tokens(self, texts: Sequence[str]) -> Int[np.ndarray, "B T"]:
        """Token ids, padded with the tokenizer's own padding, which the model attends to.

        Texts that are too long are truncated before their end-of-text token.

        Raises:
          BadInput: the tokenizer does not belong to the model.
        """
        text = self.config.clip.text
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=text.positions, padding="max_length"
        )
        ids = np.array(encoded["input_ids"], np.int32)
        check_token_ids(ids, text.vocab_size, text.eos_id, self.folder)
        return ids

    @functools.cached_property
    def _program(self):
        return program(self._model, self.settings)


def batch_size_on(mesh: Mesh) -> int:
    """Videos in one program: the smallest multiple of the mesh's rows from VIDEOS on."""
    return -(-VIDEOS // batch_shards(mesh)) * batch_shards(mesh)


def program(model: MPSModel, settings: Preprocess) -> Callable:
    """Makes the jitted function that scores frames.

    Returns:
      (params, condition [M, P], frames [V, F, H, W, 3], ids [V, T]) -> scores [V, F]
    """

    def score(params, condition_MxP, frames_VxFxHxWx3, ids_VxT):
        def call(*args: Array, method: str) -> Any:
            return model.apply({"params": params}, *args, method=method)

        V, F = frames_VxFxHxWx3.shape[:2]
        text, end = call(ids_VxT, method="encode_text")
        mask = condition_mask(text, condition_MxP)
        per_frame = [jnp.repeat(x, F, axis=0) for x in (text, end, mask)]
        frames_NxHxWx3 = frames_VxFxHxWx3.reshape(V * F, *frames_VxFxHxWx3.shape[2:])
        images = call(clip_pixels(frames_NxHxWx3, settings), method="encode_image")
        return call(images, *per_frame, method="compare").reshape(V, F)

    return jax.jit(score)


def condition_text(path: str | Path) -> str:
    """The words of a file as the text that the model was trained with: "light, color, ..., things."

    Raises:
      BadInput: there is no such file, or it holds no word.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: the condition cannot be read ({type(error).__name__}); give a text file with"
            " one word per line",
            path,
            "condition",
        ) from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise BadInput(f"{path}: the condition is empty; write one word per line", path)
    return ", ".join(words) + "."


def _load_tokenizer(folder: Path) -> Any:
    from transformers import CLIPConfig

    # the config keeps transformers from warning about the model type in config.json
    tokenizer = load_tokenizer(
        folder,
        ("tokenizer.json", "vocab.json"),
        "put the tokenizer of CLIP ViT-H/14 there",
        config=CLIPConfig(),
    )
    if tokenizer.pad_token_id is None:
        raise BadInput(
            f"{folder}: the tokenizer has no pad_token, which MPS attends to", folder, "pad_token"
        )
    return tokenizer
