"""VideoScore (He et al. 2024, arXiv 2406.15252): five scores of about 1 to 4, by an Idefics2 that
learned from ratings.

It reads a query, the user's prompt and the frames; a linear head on the last token gives VQ visual
quality, TC temporal consistency, DD dynamic degree, TVA text-to-video alignment and FC factual
consistency.

The query is a text file with `{text_prompt}` where the prompt goes; behind it one image per frame
is written. The default is in our words. Published scores belong to the query the checkpoint was
trained with: the constant REGRESSION_QUERY_PROMPT in TIGER-AI-Lab/VideoScore's examples, saved to a
file, can be given as it is.

VideoScore-v1.1 is the same network, query and five scores; it reads up to 48 frames where version 1
reads 16, and is better at alignment by its authors' account. As a judge that no stage optimises:

    --config.rewards.held_out="({'name': 'videoscore', 'path': 'TIGER-Lab/VideoScore-v1.1',
    'version': '1.1'},)"

Programs have fixed shapes, so that a video's score does not depend on what else is scored: `batch_size`
videos of one padded length at a time, one where the model is large. Where it does not fit one
device, a mesh takes its weights by their logical axes, and a program takes `batch_size` videos for each
of the mesh's rows.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

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
from pav_jax.rewards.preprocess import frame_indices
from pav_jax.rewards.reward import PretrainedReward

NAMES = ("VQ", "TC", "DD", "TVA", "FC")  # in the order of the head's outputs
OF_MOTION = ("TC", "DD")  # have no answer for a single frame
QUERY = Path(__file__).parent / "templates" / "videoscore_query.txt"
SLOT = "{text_prompt}"
FRAME = IMAGE + " "  # with the space: the token after the last frame is the one that is scored
# frames in one program, for each video in one: attention over 1,700 patches of a 720 x 480 frame is
# large
IMAGES = 4
TOKENS = 64  # texts are padded to a multiple, so that few lengths are compiled
FILES = ("*.json", "*.safetensors", "tokenizer.model")
DTYPES = ("float32", "bfloat16")
FRAMES = {"1": 16, "1.1": 48}  # that a version reads at most, by its model card
EYES = ("vision", "connector")  # parts of the model that look at frames


class VideoScore(PretrainedReward):
    """VQ, TC, DD, TVA and FC behind the suite's protocol.

    Attributes:
      frames: all frames of a video are read where it has at most as many, else so many evenly
        spaced ones.
      mesh: where `params` lie, and rows go; None: one device.
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
                    f"rewards.entries: videoscore's {name} is {value}; at least 1 is needed"
                )
        self.model, self.processor, self.query, self.frames = model, processor, query, frames
        self.folder, self.mesh, self._params = (
            folder,
            mesh,
            jax.device_put(params) if mesh is None else params,
        )
        self._eyes = {part: self._params[part] for part in EYES}
        self._rows = batch_size * (1 if mesh is None else batch_shards(mesh))
        self._eyes_mesh = self._judge_mesh = mesh

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        query: str | Path | None = None,
        frames: int | None = None,
        dtype: str = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
        version: str = "1",
        batch_size: int = 1,
    ) -> "VideoScore":
        """`path`: a checkpoint in the layout of TIGER-Lab/VideoScore, or its hub name; `query`: a
        text file, see above; `mesh`: over which the weights are laid out, or its sizes on this
        host, as in dict(fsdp=4); `version`: of the checkpoint, "1" or "1.1"; it decides the number
        of frames where `frames` is None; `batch_size`: videos in a program.

        Raises:
          BadInput: a missing, half-written or foreign checkpoint, a query that cannot be used, or a
            mesh that does not fit the devices.
        """
        if dtype not in DTYPES:
            raise BadInput(
                f"rewards.entries: videoscore's dtype is {dtype!r}; choose one of"
                f" {', '.join(DTYPES)}"
            )
        if str(version) not in FRAMES:
            raise BadInput(
                f"rewards.entries: videoscore's version is {version!r}; choose one of"
                f" {', '.join(FRAMES)}"
            )
        frames = FRAMES[str(version)] if frames is None else frames
        text = read_query(QUERY if query is None else query)
        mesh = local_mesh(mesh, "rewards.entries: videoscore's mesh")
        folder = local_folder(path, FILES)
        where = None if mesh is None else functools.partial(sharding_rules.sharding, mesh=mesh)
        config, params = load(hf, folder, jnp.dtype(dtype), where)
        check_finite(params, folder)
        if config.labels != len(NAMES):
            raise BadInput(
                f"{folder}/config.json: its head gives {config.labels} numbers; VideoScore's gives"
                f" {len(NAMES)}, {', '.join(NAMES)}"
            )
        processor = Idefics2Processor.from_folder(
            folder, config.perceiver.latents, config.image_token_id
        )
        if len(processor.tokenizer) > config.text.vocab_size:
            raise BadInput(
                f"{folder}: the tokenizer has {len(processor.tokenizer)} tokens, the model only"
                f" {config.text.vocab_size}; take both from one checkpoint"
            )
        return cls(
            make_model(config, dtype, mesh),
            params,
            processor,
            text,
            frames,
            folder,
            mesh,
            batch_size,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            "videoscore",
            weights=self.folder or self._params,
            query=self.query,
            frames=self.frames,
            dtype=jnp.dtype(self.model.dtype).name,
        )

    def use_local_devices(self) -> None:
        """The rows of a program are shared by this host's devices, see `ClipTower.use_local_devices`. On a
        mesh all is spread already."""
        if self.mesh is None:
            self._eyes_mesh, self._judge_mesh = (
                batch_mesh(IMAGES * self._rows),
                batch_mesh(self._rows),
            )
            self._eyes = replicate(self._eyes, self._eyes_mesh)
            self._params = replicate(self._params, self._judge_mesh)

    def score(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
    ) -> dict[str, Float[np.ndarray, "B"]]:
        if videos.ndim != 5 or not videos.shape[1]:
            raise BadInput(
                f"videos to score: their shape is {list(videos.shape)}; frames, [B, T, H, W, 3],"
                " are needed"
            )
        T = videos.shape[1]
        chosen = np.arange(T) if T <= self.frames else frame_indices(T, self.frames)
        asked = [
            self.processor.texts([self.text(prompt, len(chosen))], TOKENS, "right")
            for prompt in prompts
        ]
        scores_BxK, lengths = (
            np.zeros((len(videos), len(NAMES)), np.float32),
            [ids.shape[1] for ids, _ in asked],
        )
        for length in sorted(set(lengths)):
            alike = np.flatnonzero(np.equal(lengths, length))

            def run(rows):
                ids_BxL, mask_BxL = (
                    np.concatenate([asked[b][part] for b in rows]) for part in (0, 1)
                )
                return self._score_some(videos[rows][:, chosen], ids_BxL, mask_BxL)

            scores_BxK[alike] = in_batches(run, alike, self._rows)
        if T < 2:
            scores_BxK[:, [NAMES.index(name) for name in OF_MOTION]] = np.nan
        return {name: scores_BxK[:, k] for k, name in enumerate(NAMES)}

    def text(self, prompt: str, frames: int) -> str:
        """What is asked about a video of `prompt`.

        Raises:
          BadInput: the prompt holds a token that stands for an image.
        """
        if held := [token for token in (IMAGE, FENCE) if token in prompt]:
            raise BadInput(
                f"prompt {prompt!r}: it holds {held[0]}, which stands for a frame; take it out"
            )
        return self.query.replace(SLOT, prompt) + FRAME * frames

    @functools.cached_property
    def _see(self):
        return program(self.model, "encode_images")

    @functools.cached_property
    def _judge(self):
        return program(self.model, "score")

    def _score_some(
        self, frames_BxTxHxWx3: np.ndarray, ids_BxL: np.ndarray, mask_BxL: np.ndarray
    ) -> Float[np.ndarray, "B K"]:
        pixels_BxTxHxWx3, _ = self.processor.images(frames_BxTxHxWx3)  # one size, hence no padding
        pixels_NxHxWx3 = pixels_BxTxHxWx3.reshape(-1, *pixels_BxTxHxWx3.shape[2:])
        seen_NxSxD = in_batches(
            lambda rows: self._see(self._eyes, rows),
            pixels_NxHxWx3,
            IMAGES * self._rows,
            self._eyes_mesh,
        )
        images_BxIxD = seen_NxSxD.reshape(len(ids_BxL), -1, seen_NxSxD.shape[-1])
        return np.asarray(
            self._judge(
                self._params, *shard_batch_axis((ids_BxL, mask_BxL, images_BxIxD), self._judge_mesh)
            )
        )


def make_model(config: Idefics2Config, dtype: str, mesh: Mesh | None) -> Idefics2:
    """The model, keeping its rows where `mesh` has them."""
    model = Idefics2(config, jnp.dtype(dtype))
    return model if mesh is None else model.clone(constrain=sharding_rules.ShardingConstraint(mesh))


def program(model: Idefics2, method: str):
    """(parameters, arguments) -> what the model's `method` gives; "encode_images" needs the
    parameters in EYES only."""
    return jax.jit(lambda params, *args: model.apply({"params": params}, *args, method=method))


def read_query(path: str | Path) -> str:
    """The text of a query file.

    Raises:
      BadInput: there is no such text, it has no place for the prompt, or places frames itself.
    """
    try:
        text = Path(local_file(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: no readable videoscore query ({type(error).__name__}); give a text file"
        ) from error
    if text.count(SLOT) != 1:
        raise BadInput(
            f"{path}: videoscore's query must hold {SLOT} once, where the prompt goes; it holds it"
            f" {text.count(SLOT)} times"
        )
    if IMAGE in text:
        raise BadInput(
            f"{path}: videoscore's query holds {IMAGE}; leave it out, frames are written behind the"
            " query"
        )
    return text
