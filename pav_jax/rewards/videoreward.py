"""VideoReward: visual quality, motion quality and text alignment, by a Qwen2-VL-2B trained on human
preferences.

Source: Liu et al. 2025, arXiv 2501.13918; KwaiVGI/VideoAlign. The model reads the video and a text
with the user's prompt and three special tokens. A linear head on the hidden vector of each token
gives a score, from which the mean over the authors' videos is subtracted and which is divided by
their standard deviation. Frames are read at 2 per second and reduced to 200,704 pixels.

The published checkpoint (KwaiVGI/VideoReward) has a LoRA adapter and a head in files of torch, and
needs the tokenizer of its base. `pav export` merges them into a folder that this reward loads:

    pav export --from=KwaiVGI/VideoReward --to=pav --out=videoreward \
        --tokenizer=Qwen/Qwen2-VL-2B-Instruct

The text is a file with `{text_prompt}` in place of the prompt; the default is in our own words. To
reproduce published scores, pass the text that the checkpoint was trained with: the constant
DETAILED_PROMPT_WITH_SPECIAL_TOKEN of prompt_template.py in KwaiVGI/VideoAlign, saved to a file
without changes.

Shapes: B videos, T frames.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from pav_jax.checkpoints.hub import local_folder
from pav_jax.checkpoints.qwen2_vl_judges import (
    VIDEOREWARD_SETTINGS,
    VIDEOREWARD_TOKENS,
    is_videoreward,
)
from pav_jax.errors import BadInput
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import VideoRewardOptions
from pav_jax.rewards.qwen2_vl_judge import FILES, Positions, Qwen2VLJudge, read_template
from pav_jax.rewards.qwen2_vl_reward import Qwen2VLReward
from pav_jax.rewards.reward import Scores, Videos
from pav_jax.storage.json_files import read_json
from pav_jax.typed_fields import Positive, read_fields

NAMES = ("VR_VQ", "VR_MQ", "VR_TA")
MOTION = "VR_MQ"  # NaN for a single frame
TEMPLATE = Path(__file__).parent / "templates" / "videoreward.txt"
MIN_PIXELS = 128 * 28 * 28  # of a frame: VIDEO_MIN_PIXELS of qwen-vl-utils


@dataclasses.dataclass(frozen=True)
class Settings:
    """What VIDEOREWARD_SETTINGS says; the defaults are those of the published checkpoint.

    Attributes:
      means, stds: of the scores, in the order of NAMES.
      outputs: of the head: 1 for all tokens, or 3, of which each token has its own.
      fps: frames that are read, per second.
      max_pixels: of a frame after the resize.
      positions: how tokens are numbered, see `qwen2_vl_judge.Positions`.
    """

    means: tuple[float, float, float] = (3.6757, 1.1646, 2.8105)
    stds: tuple[Positive, Positive, Positive] = (2.2476, 1.3811, 2.5121)
    outputs: int = 1
    fps: Positive = 2.0
    max_pixels: int = 200704
    positions: Positions = "sequential"

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Settings":
        """Reads the file of a folder; the defaults without one.

        Raises:
          BadInput: a field of another type or out of range.
        """
        path = Path(folder) / VIDEOREWARD_SETTINGS
        settings = read_fields(cls, read_json(path) if path.exists() else {}, str(path))
        if settings.outputs not in (1, len(NAMES)):
            raise BadInput(
                f"{path}: outputs is {settings.outputs}; a head has 1 or {len(NAMES)}",
                path,
                "outputs",
            )
        return settings


class VideoReward(Qwen2VLReward):
    """The rewards VR_VQ, VR_MQ and VR_TA.

    Attributes:
      frames: of a video that are read, evenly spaced; None: `settings.fps` per second.
      normalize: return scores with mean 0 and standard deviation 1 over the authors' videos.
    """

    names = NAMES
    options = VideoRewardOptions
    uses_times = True

    def __init__(
        self,
        judge: Qwen2VLJudge,
        template: str,
        settings: Settings,
        frames: int | None = None,
        normalize: bool = True,
    ):
        super().__init__(judge, template)
        self.settings = settings
        self.frames = frames
        self.normalize = normalize

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        template: str | Path | None = None,
        frames: int | None = None,
        normalize: bool = True,
        dtype: str = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
        batch_size: int = 1,
    ) -> "VideoReward":
        """Loads a folder that `pav export --to=pav` wrote.

        Args:
          path: the folder, or a Hub repository with its content.
          template: a text file, see the module; None: the default text.
          frames: of a video that are read; None: as many as the checkpoint says.
          dtype: of the parameters and activations.
          mesh: shards the weights; a mesh, or axis sizes on this host, as in dict(fsdp=4).
          batch_size: videos in a program.

        Raises:
          BadInput: the checkpoint is missing, incomplete or of another model, the template is
            unusable, or the mesh does not fit the devices.
        """
        if frames is not None and frames < 1:
            raise BadInput(
                f"videoreward: frames is {frames}; it must be at least 1", "videoreward", "frames"
            )
        text = read_template(
            TEMPLATE if template is None else template, "videoreward", VIDEOREWARD_TOKENS
        )
        folder = local_folder(path, FILES)
        if is_videoreward(folder):
            raise BadInput(
                f"{folder}: this is the authors' own layout; convert it with pav export"
                f" --from={path} --to=pav --tokenizer=Qwen/Qwen2-VL-2B-Instruct --out=FOLDER",
                folder,
                VIDEOREWARD_SETTINGS,
            )
        settings = Settings.from_folder(folder)
        judge = Qwen2VLJudge.from_pretrained(
            folder,
            "videoreward",
            (min(MIN_PIXELS, settings.max_pixels), settings.max_pixels),
            VIDEOREWARD_TOKENS,
            settings.outputs,
            settings.positions,
            dtype,
            mesh,
            batch_size,
        )
        return cls(judge, text, settings, frames, normalize)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the weights and settings of the scores in cache keys."""
        return fingerprint(
            "videoreward",
            **self.judge.dependencies,
            template=self.template,
            settings=dataclasses.asdict(self.settings),
            frames=self.frames,
            normalize=self.normalize,
        )

    def score(
        self,
        videos: Videos,
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
        times: Float[np.ndarray, "B T"] | None = None,
    ) -> Scores:
        """Score videos [B, T, H, W, 3] by their prompts; returns the three scores, each [B].

        Args:
          times: when frames are shown, in seconds; None: at DEFAULT_RATE per second.
        """
        outputs_Bx3xO = self.judge.scores_over_time(
            videos, self.texts(prompts), self.settings.fps, self.frames, times
        )
        own = np.arange(len(NAMES)) if self.settings.outputs > 1 else np.zeros(len(NAMES), int)
        scores_Bx3 = outputs_Bx3xO[:, np.arange(len(NAMES)), own]
        if self.normalize:
            means = np.asarray(self.settings.means, np.float32)
            stds = np.asarray(self.settings.stds, np.float32)
            scores_Bx3 = (scores_Bx3 - means) / stds
        if videos.shape[1] < 2:
            scores_Bx3[:, NAMES.index(MOTION)] = np.nan
        return {name: scores_Bx3[:, k] for k, name in enumerate(NAMES)}
