"""A Qwen2-VL with a reward head, and the programs that run it: what VideoReward, HPSv3 and
VideoScore-Qwen2-VL share.

Programs have fixed shapes, so that a score does not depend on what else is scored: PAIRS pairs of
frames for each video of a batch, and `batch_size` videos of one padded length. A model that does
not fit one device is sharded over a mesh; a program then takes `batch_size` videos for each row of
the mesh.

Shapes: B videos, T frames, N pairs of frames, t frames of a pair (2), L tokens, I vision tokens, R
tokens to read, O scores of a token.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from pav_jax.checkpoints.folder import check_finite, load
from pav_jax.checkpoints.hub import local_file, local_folder
from pav_jax.errors import BadInput
from pav_jax.models.qwen2_vl import hf
from pav_jax.models.qwen2_vl.config import Qwen2VLConfig
from pav_jax.models.qwen2_vl.model import Qwen2VL
from pav_jax.models.qwen2_vl.positions import mrope_positions, sequential_positions
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.attention import make_judge_attention_fn
from pav_jax.parallel.mesh import batch_mesh, batch_shards, local_mesh, replicate, shard_batch_axis
from pav_jax.rewards.clip_tower import in_batches
from pav_jax.rewards.qwen2_vl_processor import (
    VIDEO,
    PixelSettings,
    Qwen2VLProcessor,
    resize,
    sampled_frames,
    spaced_frames,
    target_size,
)
from pav_jax.storage.folders import local_copy

PAIRS = 2  # pairs of frames in one program for each video: attention of 1,000 patches is large
TOKENS = 64  # texts are padded to a multiple of it, so that few lengths are compiled
FILES = ("*.json", "*.safetensors", "*.jinja", "vocab.json", "merges.txt")
SLOT = "{text_prompt}"
VISION_PARTS = ("vision",)  # parts of the model that encode frames
DEFAULT_RATE = 8.0  # frames per second of a video without time stamps, as in `motion`
LAST = "last"  # reads the last token of a row instead of special tokens

Dtype = Literal["float32", "bfloat16"]
# How tokens are numbered. The published judges call transformers' text model without positions,
# which then counts tokens one by one; Qwen2-VL itself numbers frames by time, row and column.
Positions = Literal["sequential", "mrope"]


class Qwen2VLJudge:
    """Scores videos or pictures with texts about them.

    Attributes:
      folder: of the checkpoint.
      min_pixels, max_pixels: of a frame after the resize.
      tokens: special tokens whose hidden vectors are read; (LAST,): the last token of the row.
      mesh: the mesh that weights and batches are sharded over; None: one device.
    """

    def __init__(
        self,
        model: Qwen2VL,
        params: Mapping,
        processor: Qwen2VLProcessor,
        pixels: tuple[int, int],
        tokens: Sequence[str],
        positions: Positions = "sequential",
        folder: Path | None = None,
        mesh: Mesh | None = None,
        batch_size: int = 1,
    ):
        self.model = model
        self.processor = processor
        self.min_pixels, self.max_pixels = pixels
        self.tokens = tuple(tokens)
        self.positions = positions
        self.folder = folder
        self.mesh = mesh
        self._params = jax.device_put(params) if mesh is None else params
        self._vision_params = {part: self._params[part] for part in VISION_PARTS}
        self._batch_size = batch_size if mesh is None else batch_size * batch_shards(mesh)
        self._vision_mesh = mesh
        self._decoder_mesh = mesh

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        kind: str,
        pixels: tuple[int, int],
        tokens: Sequence[str],
        outputs: int,
        positions: Positions = "sequential",
        dtype: str = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
        batch_size: int = 1,
    ) -> "Qwen2VLJudge":
        """Loads a checkpoint.

        Args:
          path: a folder or a Hub repository.
          kind: of reward, named in errors.
          pixels: limits of a frame's pixels after the resize.
          outputs: scores that the head gives for a token.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model, or the mesh does not
            fit the devices.
        """
        if dtype not in get_args(Dtype):
            raise BadInput(
                f"{kind}: dtype is {dtype!r}; use one of {', '.join(get_args(Dtype))}",
                kind,
                "dtype",
            )
        if batch_size < 1:
            raise BadInput(
                f"{kind}: batch_size is {batch_size}; it must be at least 1", kind, "batch_size"
            )
        mesh = local_mesh(mesh, f"{kind}.mesh")
        folder = local_folder(path, FILES)
        sharding = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
        config, params = load(hf, folder, jnp.dtype(dtype), sharding)
        check_finite(params, folder)
        if (width := config.head.widths[-1]) != outputs:
            raise BadInput(
                f"{folder}: the head has {width} outputs; that of {kind} has {outputs}",
                folder,
                config.head.tensors[-1],
            )
        special = () if tokens == (LAST,) else tokens
        processor = Qwen2VLProcessor.from_folder(folder, config, special)
        model = make_model(config, dtype, mesh)
        return cls(model, params, processor, pixels, tokens, positions, folder, mesh, batch_size)

    @property
    def dependencies(self) -> dict[str, Any]:
        """What scores depend on, for `fingerprint`."""
        return dict(
            weights=self.folder or self._params,
            pixels=[self.min_pixels, self.max_pixels],
            positions=self.positions,
            dtype=jnp.dtype(self.model.dtype).name,
        )

    def use_local_devices(self) -> None:
        """Shards later batches over this host's devices; see `ClipTower.use_local_devices`.

        A judge with a mesh stays on its mesh.
        """
        if self.mesh is None:
            self._vision_mesh = batch_mesh(PAIRS * self._batch_size)
            self._decoder_mesh = batch_mesh(self._batch_size)
            self._vision_params = replicate(self._vision_params, self._vision_mesh)
            self._params = replicate(self._params, self._decoder_mesh)

    def reduce_frame(self, frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The frame in the size that the model reads, if a second resize would keep that size.

        It would not where the limits of pixels are close together.
        """
        size = self._target_size(*frame.shape[:2])
        return resize(frame, size) if self._target_size(*size) == size else frame

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        vision = self.model.config.vision
        factor = vision.patch_size * vision.merge_size
        return target_size(height, width, factor, self.min_pixels, self.max_pixels)

    def scores_over_time(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        texts: Sequence[str],
        fps: float,
        frames: int | None = None,
        times: Float[np.ndarray, "B T"] | None = None,
    ) -> Float[np.ndarray, "B R O"]:
        """`scores` of some frames of each video.

        Args:
          fps: frames that are read, per second.
          frames: how many are read instead; None: as `fps` says.
          times: when frames are shown, in seconds; None: at DEFAULT_RATE per second.

        Raises:
          BadInput: videos without frames.
        """
        check_videos(videos)
        num_frames = videos.shape[1]
        chosen = []
        for row in range(len(videos)):
            duration = 0.0 if times is None else float(times[row, -1] - times[row, 0])
            rate = (num_frames - 1) / duration if duration > 0 else DEFAULT_RATE
            if frames is None:
                chosen.append(sampled_frames(num_frames, rate, fps))
            else:
                chosen.append(spaced_frames(num_frames, frames))
        width = self.model.config.head.widths[-1]
        scores_BxRxO = np.zeros((len(videos), len(self.tokens), width), np.float32)
        # videos of one number of frames are scored together
        for count in {len(indices) for indices in chosen}:
            rows = [row for row, indices in enumerate(chosen) if len(indices) == count]
            clips = np.stack([videos[row, chosen[row]] for row in rows])
            scores_BxRxO[rows] = self.scores(clips, [texts[row] for row in rows])
        return scores_BxRxO

    def scores(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        texts: Sequence[str],
        token: str = VIDEO,
    ) -> Float[np.ndarray, "B R O"]:
        """The head's outputs at the tokens of `tokens`, for each video with its text.

        Args:
          texts: of the user's turn, after the video; they contain `tokens`.
          token: that stands for the video: VIDEO, or IMAGE with one frame.
        """
        vision = self.model.config.vision
        size = self._target_size(*videos.shape[2:4])
        frames = np.stack([[resize(frame, size) for frame in video] for video in videos])
        missing = -frames.shape[1] % vision.temporal_patch_size
        frames = np.concatenate([frames, np.repeat(frames[:, -1:], missing, axis=1)], axis=1)
        factor = vision.patch_size * vision.merge_size
        grid = (
            frames.shape[1] // vision.temporal_patch_size,
            frames.shape[2] // factor,
            frames.shape[3] // factor,
        )
        rows = self.processor.tokens(texts, token, int(np.prod(grid)), TOKENS)
        lengths = np.array([len(ids) for ids, _ in rows])
        head = self.model.config.head
        scores_BxRxO = np.zeros((len(videos), len(self.tokens), head.widths[-1]), np.float32)
        for length in np.unique(lengths):

            def run(batch):
                ids_BxL = np.stack([rows[row][0] for row in batch])
                mask_BxL = np.stack([rows[row][1] for row in batch])
                return self._score_batch(frames[batch], ids_BxL, mask_BxL, grid)

            same_length = np.flatnonzero(lengths == length)
            scores_BxRxO[same_length] = in_batches(run, same_length, self._batch_size)
        return scores_BxRxO

    def _score_batch(
        self,
        frames_BxTxHxWx3: np.ndarray,
        ids_BxL: np.ndarray,
        mask_BxL: np.ndarray,
        grid: tuple[int, int, int],
    ) -> Float[np.ndarray, "B R O"]:
        b, _, height, width, _ = frames_BxTxHxWx3.shape
        pair = self.model.config.vision.temporal_patch_size
        vectors_NxMxD = in_batches(
            lambda frames: self._encode_frames(self._vision_params, frames),
            frames_BxTxHxWx3.reshape(-1, pair, height, width, 3),
            PAIRS * self._batch_size,
            self._vision_mesh,
        )
        vision_BxIxD = vectors_NxMxD.reshape(b, -1, vectors_NxMxD.shape[-1])
        positions_BxLx3 = self._positions(ids_BxL, mask_BxL, grid)
        read_at_BxR = self._read_at(ids_BxL, mask_BxL)
        inputs = (ids_BxL, mask_BxL, positions_BxLx3, vision_BxIxD, read_at_BxR)
        return np.asarray(self._decode(self._params, *shard_batch_axis(inputs, self._decoder_mesh)))

    def _positions(
        self, ids_BxL: np.ndarray, mask_BxL: np.ndarray, grid: tuple[int, int, int]
    ) -> Int[np.ndarray, "B L 3"]:
        positions_BxLx3 = np.array(sequential_positions(*ids_BxL.shape))
        if self.positions == "mrope":
            config = self.model.config
            is_vision_BxL = np.isin(ids_BxL, (config.image_token_id, config.video_token_id))
            for row, mask_L in enumerate(mask_BxL):
                positions = mrope_positions(is_vision_BxL[row][mask_L], [grid])
                positions_BxLx3[row, mask_L] = positions
        return positions_BxLx3

    def _read_at(self, ids_BxL: np.ndarray, mask_BxL: np.ndarray) -> Int[np.ndarray, "B R"]:
        """Where the tokens to read are, each of which every row has once."""
        if self.tokens == (LAST,):
            return mask_BxL.sum(axis=1, keepdims=True).astype(np.int32) - 1
        token_ids_R = self.processor.tokenizer.convert_tokens_to_ids(list(self.tokens))
        is_token_BxRxL = ids_BxL[:, None] == np.array(token_ids_R)[:, None]
        assert (is_token_BxRxL.sum(-1) == 1).all()
        return is_token_BxRxL.argmax(-1).astype(np.int32)

    @functools.cached_property
    def _encode_frames(self):
        return encode_program(self._model_on(self._vision_mesh), self.processor.settings)

    @functools.cached_property
    def _decode(self):
        return decode_program(self._model_on(self._decoder_mesh))

    def _model_on(self, mesh: Mesh | None) -> Qwen2VL:
        return self.model.clone(attention_fn=make_judge_attention_fn(mesh))


def check_videos(videos: np.ndarray) -> None:
    """Check the shape of videos to score, [B, T, H, W, 3].

    Raises:
      BadInput: they have another shape, or no frames.
    """
    if videos.ndim != 5 or not videos.shape[1]:
        raise BadInput(
            f"videos to score: their shape is {list(videos.shape)}; expected [B, T, H, W, 3]"
            " with at least one frame",
            "videos",
        )


def make_model(config: Qwen2VLConfig, dtype: str, mesh: Mesh | None) -> Qwen2VL:
    """The model; on a mesh, its activations are sharded by rows."""
    model = Qwen2VL(config, jnp.dtype(dtype))
    return model if mesh is None else model.clone(constrain=sharding_rules.ShardingConstraint(mesh))


def encode_program(model: Qwen2VL, settings: PixelSettings) -> Callable:
    """The jitted function (params, frames uint8 [N, t, H, W, 3]) -> vectors [N, M, D]."""

    def encode(params, frames_NxtxHxWx3):
        x = frames_NxtxHxWx3.astype(jnp.float32) * jnp.float32(settings.scale)
        x = (x - jnp.asarray(settings.mean)) / jnp.asarray(settings.std)
        return model.apply({"params": params}, x, method="encode_frames")

    return jax.jit(encode)


def decode_program(model: Qwen2VL) -> Callable:
    """The jitted function (params, *arguments of `Qwen2VL.score`) -> scores [B, R, O]."""
    return jax.jit(lambda params, *args: model.apply({"params": params}, *args, method="score"))


def read_template(path: str | Path, kind: str, tokens: Sequence[str] = ()) -> str:
    """The text of a template file.

    Args:
      tokens: that it holds once each besides SLOT, the place of the prompt.

    Raises:
      BadInput: it cannot be read, or does not hold each of these once.
    """
    try:
        text = local_copy(local_file(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: the {kind} template cannot be read ({type(error).__name__}); give a text"
            " file",
            path,
            "template",
        ) from error
    for token in (SLOT, *tokens):
        if (count := text.count(token)) != 1:
            raise BadInput(
                f"{path}: the {kind} template holds {token} {count} times; write it once",
                path,
                token,
            )
    return text
