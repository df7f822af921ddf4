"""HPSv3: human preference for pictures, by a Qwen2-VL-7B with a head of a mean and an uncertainty.

Source: Ma et al. 2025, arXiv 2508.03789; MizzenAI/HPSv3 (code MIT, weights Apache-2.0). The model
reads one picture of 200,704 pixels and a text with the user's prompt and one special token. Of the
head's two outputs, the mean of the preference and its uncertainty, the first is the score. That of
a video is the mean over a few frames. It does not see motion.

`pav export` writes a folder that this reward loads:

    pav export --from=MizzenAI/HPSv3 --to=pav --out=hpsv3 --tokenizer=Qwen/Qwen2-VL-7B-Instruct

The text is a file with `{text_prompt}` in place of the prompt; the default is in our own words. To
reproduce published scores, pass the text that the checkpoint was trained with, saved to a file
without changes: INSTRUCTION followed by `prompt_with_special_token`, both from
hpsv3/dataset/data_collator_qwen.py of MizzenAI/HPSv3.

Shapes: B videos, T frames.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from pav_jax.checkpoints.qwen2_vl_judges import HPSV3_TOKENS
from pav_jax.errors import BadInput
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import HPSv3Options
from pav_jax.rewards.preprocess import frames_at_most
from pav_jax.rewards.qwen2_vl_judge import Qwen2VLJudge, check_videos, read_template
from pav_jax.rewards.qwen2_vl_processor import IMAGE
from pav_jax.rewards.qwen2_vl_reward import Qwen2VLReward
from pav_jax.rewards.reward import Scores, Videos

TEMPLATE = Path(__file__).parent / "templates" / "hpsv3.txt"
PIXELS = 256 * 28 * 28  # of a picture, at least and at most
OUTPUTS = 2  # of the head: the mean and the uncertainty


class HPSv3(Qwen2VLReward):
    """The reward HPSV3.

    Attributes:
      frames: scored per video, evenly spaced.
    """

    names = ("HPSV3",)
    options = HPSv3Options

    def __init__(self, judge: Qwen2VLJudge, template: str, frames: int = 4):
        super().__init__(judge, template)
        self.frames = frames

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        template: str | Path | None = None,
        frames: int = 4,
        dtype: str = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
        batch_size: int = 1,
        pixels: int = PIXELS,
    ) -> "HPSv3":
        """Loads a folder that `pav export --to=pav` wrote.

        Args:
          path: the folder, or a Hub repository with its content.
          template: a text file, see the module; None: the default text.
          frames: scored per video.
          dtype: of the parameters and activations.
          mesh: shards the weights; a mesh, or axis sizes on this host, as in dict(fsdp=4).
          batch_size: pictures in a program.
          pixels: of a picture after the resize.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model, the template is
            unusable, or the mesh does not fit the devices.
        """
        if frames < 1:
            raise BadInput(f"hpsv3: frames is {frames}; it must be at least 1", "hpsv3", "frames")
        text = read_template(TEMPLATE if template is None else template, "hpsv3", HPSV3_TOKENS)
        judge = Qwen2VLJudge.from_pretrained(
            path,
            "hpsv3",
            (pixels, pixels),
            HPSV3_TOKENS,
            OUTPUTS,
            dtype=dtype,
            mesh=mesh,
            batch_size=batch_size,
        )
        return cls(judge, text, frames)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint(
            "hpsv3", **self.judge.dependencies, template=self.template, frames=self.frames
        )

    def frames_read(self, num_frames: int) -> np.ndarray:
        """At most `frames`, evenly spaced."""
        return frames_at_most(num_frames, self.frames)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """Score videos [B, T, H, W, 3] by their prompts; returns HPSV3 [B]."""
        check_videos(videos)
        frames_BxTxHxWx3 = videos[:, self.frames_read(videos.shape[1])]
        b, t = frames_BxTxHxWx3.shape[:2]
        texts = [text for text in self.texts(prompts) for _ in range(t)]
        # one picture is a video of one frame
        pictures = frames_BxTxHxWx3.reshape(b * t, 1, *frames_BxTxHxWx3.shape[2:])
        means_BxT = self.judge.scores(pictures, texts, IMAGE)[:, 0, 0].reshape(b, t)
        return {"HPSV3": means_BxT.mean(axis=1)}
