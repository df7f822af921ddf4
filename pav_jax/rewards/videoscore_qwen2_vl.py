"""VideoScore-Qwen2-VL: VideoScore's five scores, by a Qwen2-VL-7B.

Source: He et al. 2024, arXiv 2406.15252; the class `Qwen2VLForSequenceClassification` of
TIGER-AI-Lab/Mantis. It reads the video at 8 frames per second and VideoScore's query, and a linear
head on the last token gives VQ, TC, DD, TVA and FC, see `videoscore`. Its authors report a rank
correlation with people of 74.9 on their test set, VideoScore's being 74.0. The folder
TIGER-Lab/VideoScore-Qwen2-VL is read as it is; its model card names no license, so ask its authors
before you use it beyond research.

The query is a text file as VideoScore's, and so is the default. The authors' code reads frames of
videos longer than 8 seconds at fewer than 768 x 28 x 28 pixels; here `max_pixels` holds for all.

Shapes: B videos, T frames, K scores.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from pav_jax.errors import BadInput
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import VideoScoreQwen2VLOptions
from pav_jax.rewards.qwen2_vl_judge import LAST, Qwen2VLJudge, read_template
from pav_jax.rewards.qwen2_vl_reward import Qwen2VLReward
from pav_jax.rewards.reward import Scores, Videos
from pav_jax.rewards.videoreward import MIN_PIXELS
from pav_jax.rewards.videoscore import NAMES, QUERY, TWO_FRAME_SCORES

FPS = 8.0  # frames that are read per second, from the model card
MAX_PIXELS = 768 * 28 * 28  # of a frame: VIDEO_MAX_PIXELS of qwen-vl-utils


class VideoScoreQwen2VL(Qwen2VLReward):
    """The rewards VQ, TC, DD, TVA and FC.

    Attributes:
      frames: of a video that are read at most, evenly spaced; None: `FPS` per second.
      max_pixels: of a frame after the resize.
    """

    names = NAMES
    options = VideoScoreQwen2VLOptions
    uses_times = True

    def __init__(
        self,
        judge: Qwen2VLJudge,
        query: str,
        frames: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        super().__init__(judge, query)
        self.frames = frames
        self.max_pixels = max_pixels

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        query: str | Path | None = None,
        frames: int | None = None,
        max_pixels: int = MAX_PIXELS,
        dtype: str = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
        batch_size: int = 1,
    ) -> "VideoScoreQwen2VL":
        """Loads a checkpoint.

        Args:
          path: a folder or a Hub repository in the layout of TIGER-Lab/VideoScore-Qwen2-VL.
          query: a text file, see `videoscore`; None: the default query.
          frames: of a video that are read at most; None: `FPS` per second.
          max_pixels: of a frame after the resize; fewer are faster and take less memory.
          dtype: of the parameters and activations.
          mesh: shards the weights; a mesh, or axis sizes on this host, as in dict(fsdp=4).
          batch_size: videos in a program.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model, the query is
            unusable, or the mesh does not fit the devices.
        """
        for name, value in (("frames", frames), ("max_pixels", max_pixels)):
            if value is not None and value < 1:
                raise BadInput(
                    f"videoscore_qwen2_vl: {name} is {value}; it must be at least 1",
                    "videoscore_qwen2_vl",
                    name,
                )
        text = read_template(QUERY if query is None else query, "videoscore_qwen2_vl")
        judge = Qwen2VLJudge.from_pretrained(
            path,
            "videoscore_qwen2_vl",
            (min(MIN_PIXELS, max_pixels), max_pixels),
            (LAST,),
            len(NAMES),
            dtype=dtype,
            mesh=mesh,
            batch_size=batch_size,
        )
        return cls(judge, text, frames, max_pixels)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint(
            "videoscore_qwen2_vl",
            **self.judge.dependencies,
            query=self.template,
            frames=self.frames,
        )

    def score(
        self,
        videos: Videos,
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
        times: Float[np.ndarray, "B T"] | None = None,
    ) -> Scores:
        """Score videos [B, T, H, W, 3] by their prompts; returns the five scores, each [B].

        Args:
          times: when frames are shown, in seconds; None: at DEFAULT_RATE per second.
        """
        outputs_BxRxO = self.judge.scores_over_time(
            videos, self.texts(prompts), FPS, self.frames, times
        )
        scores_BxK = outputs_BxRxO[:, 0]
        if videos.shape[1] < 2:
            scores_BxK[:, [NAMES.index(name) for name in TWO_FRAME_SCORES]] = np.nan
        return {name: scores_BxK[:, k] for k, name in enumerate(NAMES)}
