"""VideoScore: five scores of about 1 to 4, by an Idefics2 trained on human ratings.

Source: He et al. 2024, arXiv 2406.15252. It reads a query with the user's prompt, and the frames. A
linear head on the last token gives VQ visual quality, TC temporal consistency, DD dynamic degree,
TVA text-to-video alignment and FC factual consistency.

The query is a text file with `{text_prompt}` in place of the prompt; one image per frame follows
it. The default query is in our own words. To reproduce published scores, pass the query that the
checkpoint was trained with: the constant REGRESSION_QUERY_PROMPT in the examples of
TIGER-AI-Lab/VideoScore, saved to a file without changes.

VideoScore-v1.1 has the same network, query and scores. It reads up to 48 frames where version 1
reads 16, and is better at alignment according to its authors. As a held-out evaluator:

    --config.rewards.held_out="({'name': 'videoscore', 'path': 'TIGER-Lab/VideoScore-v1.1',
    'version': '1.1'},)"

Programs have fixed shapes, so that the score of a video does not depend on what else is scored:
`batch_size` videos of one padded length. A model that does not fit one device is sharded over a
mesh; a program then takes `batch_size` videos for each row of the mesh.

Shapes: B videos, T frames, L tokens, N images in a program, K scores.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from pav_jax.checkpoints.folder import check_finite, load
from pav_jax.checkpoints.hub import local_file, local_folder
from pav_jax.errors import BadInput
from pav_jax.models.idefics2 import hf
from pav_jax.models.idefics2.model import Idefics2, Idefics2Config
from pav_jax.parallel import sharding_rules
from pav_jax.parallel.mesh import batch_mesh, batch_shards, local_mesh, replicate, shard_batch_axis
from pav_jax.rewards.clip_tower import in_batches
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.idefics2_processor import FENCE, IMAGE, Idefics2Processor
from pav_jax.rewards.options import VideoScoreOptions
from pav_jax.rewards.preprocess import frames_at_most
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos
from pav_jax.storage.folders import local_copy

NAMES = ("VQ", "TC", "DD", "TVA", "FC")  # in the order of the head's outputs
TWO_FRAME_SCORES = ("TC", "DD")  # NaN for a single frame
QUERY = Path(__file__).parent / "templates" / "videoscore_query.txt"
SLOT = "{text_prompt}"
FRAME = IMAGE + " "  # the token after the last frame, which is scored, is that of the space
# images in one program per video: attention over the 1,700 patches of a 720 x 480 frame is large
IMAGES = 4
TOKENS = 64  # texts are padded to a multiple of it, so that few lengths are compiled
FILES = ("*.json", "*.safetensors", "tokenizer.model")
FRAMES = {"1": 16, "1.1": 48}  # version -> most frames it reads, from the model cards
VISION_PARTS = ("vision", "connector")  # parts of the model that encode frames

Dtype = Literal["float32", "bfloat16"]
Version = Literal["1", "1.1"]


class VideoScore(PretrainedReward):
    """The rewards VQ, TC, DD, TVA and FC.

    Attributes:
      frames: the most frames of a video that are read; of longer videos, evenly spaced ones.
      mesh: the mesh that weights and batches are sharded over; None: one device.
    """

    names = NAMES
    options = VideoScoreOptions

    def __init__(
        self,
        model: Idefics2,
        params: Mapping,
        processor: Idefics2Processor,
        query: str,
        frames: int = 16,
        folder: Path | None = None,
        mesh: Mesh | None = None,
        batch_size: int = 1,
    ):
        for name, value in (("frames", frames), ("batch_size", batch_size)):
            if value < 1:
                raise BadInput(
                    f"videoscore: {name} is {value}; it must be at least 1", "videoscore", name
                )
        self.model = model
        self.processor = processor
        self.query = query
        self.frames = frames
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
        query: str | Path | None = None,
        frames: int | None = None,
        dtype: Dtype = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
        version: Version = "1",
        batch_size: int = 1,
    ) -> "VideoScore":
        """Loads a VideoScore checkpoint.

        Args:
          path: a folder or a Hub repository in the layout of TIGER-Lab/VideoScore.
          query: a text file, see the module; None: the default query.
          frames: the most frames of a video that are read; None: those of the version.
          dtype: of the parameters and activations.
          mesh: shards the weights; a mesh, or axis sizes on this host, as in dict(fsdp=4).
          version: of the checkpoint.
          batch_size: videos in a program.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model, the query is
            unusable, or the mesh does not fit the devices.
        """
        for name, value, choices in (
            ("dtype", dtype, get_args(Dtype)),
            ("version", version, get_args(Version)),
        ):
            if value not in choices:
                raise BadInput(
                    f"videoscore: {name} is {value!r}; use one of {', '.join(choices)}",
                    "videoscore",
                    name,
                )
        text = read_query(QUERY if query is None else query)
        mesh = local_mesh(mesh, "videoscore.mesh")
        folder = local_folder(path, FILES)
        sharding = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
        config, params = load(hf, folder, jnp.dtype(dtype), sharding)
        check_finite(params, folder)
        processor = Idefics2Processor.from_folder(
            folder, config.perceiver.latents, config.image_token_id
        )
        _check_sizes(config, processor, folder)
        return cls(
            make_model(config, dtype, mesh),
            params,
            processor,
            text,
            FRAMES[version] if frames is None else frames,
            folder,
            mesh,
            batch_size,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint(
            "videoscore",
            weights=self.folder or self._params,
            query=self.query,
            frames=self.frames,
            dtype=jnp.dtype(self.model.dtype).name,
        )

    def use_local_devices(self) -> None:
        """Shards later batches over this host's devices; see `ClipTower.use_local_devices`.

        A reward with a mesh stays on its mesh.
        """
        if self.mesh is None:
            self._vision_mesh = batch_mesh(IMAGES * self._batch_size)
            self._decoder_mesh = batch_mesh(self._batch_size)
            self._vision_params = replicate(self._vision_params, self._vision_mesh)
            self._params = replicate(self._params, self._decoder_mesh)

    def frames_read(self, num_frames: int) -> np.ndarray | None:
        """At most `frames`, evenly spaced; all where a single frame would lack temporal scores."""
        return None if self.frames < 2 else frames_at_most(num_frames, self.frames)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3] by their prompts; returns the five scores, each [B]."""
        if videos.ndim != 5 or not videos.shape[1]:
            raise BadInput(
                f"videos to score: their shape is {list(videos.shape)}; expected [B, T, H, W, 3]"
                " with at least one frame",
                "videos",
            )
        T = videos.shape[1]
        indices = frames_at_most(T, self.frames)
        texts = [self.text(prompt, len(indices)) for prompt in prompts]
        encoded = [self.processor.texts([text], TOKENS, "right") for text in texts]
        lengths = np.array([ids.shape[1] for ids, _ in encoded], int)
        scores_BxK = np.zeros((len(videos), len(NAMES)), np.float32)
        for length in np.unique(lengths):

            def run(rows):
                ids_BxL = np.concatenate([encoded[row][0] for row in rows])
                mask_BxL = np.concatenate([encoded[row][1] for row in rows])
                return self._score_batch(videos[rows][:, indices], ids_BxL, mask_BxL)

            same_length = np.flatnonzero(lengths == length)
            scores_BxK[same_length] = in_batches(run, same_length, self._batch_size)
        if T < 2:
            scores_BxK[:, [NAMES.index(name) for name in TWO_FRAME_SCORES]] = np.nan
        return {name: scores_BxK[:, k] for k, name in enumerate(NAMES)}

    def text(self, prompt: str, num_frames: int) -> str:
        """The query about a video of `prompt`, followed by its frames.

        Raises:
          BadInput: the prompt holds a token that stands for an image.
        """
        for token in (IMAGE, FENCE):
            if token in prompt:
                raise BadInput(
                    f"prompt {prompt!r}: remove {token}, which stands for a frame", "prompts"
                )
        return self.query.replace(SLOT, prompt) + FRAME * num_frames

    @functools.cached_property
    def _encode_images(self):
        return program(self.model, "encode_images")

    @functools.cached_property
    def _decode(self):
        return program(self.model, "score")

    def _score_batch(
        self, frames_BxTxHxWx3: np.ndarray, ids_BxL: np.ndarray, mask_BxL: np.ndarray
    ) -> Float[np.ndarray, "B K"]:
        # all frames have one size, hence the images have no padding
        pixels_BxTxHxWx3, _ = self.processor.images(list(frames_BxTxHxWx3))
        pixels_NxHxWx3 = pixels_BxTxHxWx3.reshape(-1, *pixels_BxTxHxWx3.shape[2:])
        encoded_NxSxD = in_batches(
            lambda pixels: self._encode_images(self._vision_params, pixels),
            pixels_NxHxWx3,
            IMAGES * self._batch_size,
            self._vision_mesh,
        )
        images_BxIxD = encoded_NxSxD.reshape(len(ids_BxL), -1, encoded_NxSxD.shape[-1])
        inputs = shard_batch_axis((ids_BxL, mask_BxL, images_BxIxD), self._decoder_mesh)
        return np.asarray(self._decode(self._params, *inputs))


def make_model(config: Idefics2Config, dtype: str, mesh: Mesh | None) -> Idefics2:
    """The model; on a mesh, its activations are sharded by rows."""
    model = Idefics2(config, jnp.dtype(dtype))
    return model if mesh is None else model.clone(constrain=sharding_rules.ShardingConstraint(mesh))


def program(model: Idefics2, method: str) -> Callable:
    """The jitted function (params, *arguments) -> result of the model's `method`.

    "encode_images" needs only the parameters of VISION_PARTS.
    """
    return jax.jit(lambda params, *args: model.apply({"params": params}, *args, method=method))


def read_query(path: str | Path) -> str:
    """The text of a query file.

    Raises:
      BadInput: it cannot be read, holds the prompt not exactly once, or holds images.
    """
    try:
        text = local_copy(local_file(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: the videoscore query cannot be read ({type(error).__name__}); give a text"
            " file",
            path,
            "query",
        ) from error
    if text.count(SLOT) != 1:
        raise BadInput(
            f"{path}: the videoscore query holds {SLOT} {text.count(SLOT)} times; write it once, in"
            " place of the prompt",
            path,
            SLOT,
        )
    if IMAGE in text:
        raise BadInput(
            f"{path}: remove {IMAGE} from the videoscore query; frames are appended to it",
            path,
            IMAGE,
        )
    return text


def _check_sizes(config: Idefics2Config, processor: Idefics2Processor, folder: Path) -> None:
    if config.labels != len(NAMES):
        raise BadInput(
            f"{folder}/config.json: the head has {config.labels} outputs; VideoScore's has"
            f" {len(NAMES)}, {', '.join(NAMES)}",
            folder / "config.json",
            "num_labels",
        )
    if len(processor.tokenizer) > config.text.vocab_size:
        raise BadInput(
            f"{folder}: the tokenizer has {len(processor.tokenizer)} tokens, the model only"
            f" {config.text.vocab_size}; use the tokenizer and model of one checkpoint",
            folder,
            "vocab_size",
        )
