"""The options of every kind of reward, as a configuration's `rewards.entries` holds them.

Reading them imports no model, so that a configuration is checked when it is loaded. A field without
default must be given.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.config_fields import option
from pav_jax.endpoints import options as endpoint_options
from pav_jax.errors import BadInput

CLIP_PATH = "a CLIP folder or Hub id"
FRAMES = "frames scored per video, evenly spaced"


@dataclasses.dataclass(frozen=True)
class AestheticOptions:
    """LAION's aesthetic score."""

    path: str = option(help=CLIP_PATH)
    head: str | None = option(None, "folder of the head; None: aesthetic_head in the CLIP folder")
    frames: int = option(4, FRAMES, minimum=1)
    layout: str = option(
        "frames", "single frames, or all on one sheet", choices=("frames", "sheet")
    )
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class ClipAlignmentOptions:
    """CLIP similarity of frames and prompt."""

    path: str = option(help=CLIP_PATH)
    frames: int = option(4, FRAMES, minimum=1)
    layout: str = option(
        "frames", "single frames, or all on one sheet", choices=("frames", "sheet")
    )
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class ClipConsistencyOptions:
    """CLIP similarity of neighboring frames."""

    path: str = option(help=CLIP_PATH)
    frames: int | None = option(None, "frames scored per video; None: all", minimum=2)
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class FaithfulnessOptions:
    """FAITH, from the two texts alone."""

    path: str | None = option(None, "another lexicon.json, or its folder; None: the package's")


@dataclasses.dataclass(frozen=True)
class HPSv3Options:
    """Human Preference Score v3 of frames."""

    path: str = option(help="an HPSv3 folder that `pav export --to=pav` wrote")
    template: str | None = option(None, "text file about the picture; None: the package's")
    frames: int = option(4, FRAMES, minimum=1)
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))
    mesh: Mapping[str, int] | None = option(None, "mesh axis -> size on one host")
    batch_size: int = option(1, "pictures in one compiled program", minimum=1)
    pixels: int = option(256 * 28 * 28, "of a picture after the resize", minimum=1)


@dataclasses.dataclass(frozen=True)
class LengthOptions:
    """LENGTH, from the number of words of the rewrite.

    Raises:
      BadInput: the range is empty.
    """

    minimum: int = option(help="words; fewer are penalized", minimum=1)
    maximum: int = option(help="words; more are penalized", minimum=1)

    def __post_init__(self):
        if not 1 <= self.minimum <= self.maximum:
            raise BadInput(
                f"rewards: length: minimum={self.minimum}, maximum={self.maximum}: not a range of"
                " words; give 1 <= minimum <= maximum",
                source="configuration",
                field="rewards.entries.length.minimum",
            )


@dataclasses.dataclass(frozen=True)
class LikelihoodOptions:
    """LIKELIHOOD, from the prompt and the rewrite, under a language model of the style."""

    path: str = option(help="a booster folder, a Hub id or a .gguf file")
    adapter: str | None = option(None, "a PEFT folder or Hub id on top of it")
    template: str | None = option(
        None, "chat template file; auto: the shipped one; None: the checkpoint's own"
    )
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))
    batch_size: int = option(8, "rewrites in one compiled program", minimum=1)
    max_length: int = option(
        1024, "tokens of prompt and rewrite; the end of a longer rewrite is not scored", minimum=4
    )
    max_prompt_length: int = option(
        512, "tokens; longer prompts are truncated on the left", minimum=1
    )
    maximum: float | None = option(
        None, "nats per token; a more likely rewrite scores no better; None: no limit", maximum=0
    )


@dataclasses.dataclass(frozen=True)
class LPIPSConsistencyOptions:
    """LPIPS between neighboring frames."""

    path: str | None = option(None, "file of the weights; None: installed or downloaded")
    net: str = option("alexnet", "backbone", choices=("alexnet", "vgg16"))


@dataclasses.dataclass(frozen=True)
class MotionOptions:
    """TC and DD from block matching; without options."""


@dataclasses.dataclass(frozen=True)
class MPSOptions:
    """Multi-dimensional Preference Score."""

    path: str = option(help="an MPS folder that `pav export --to=pav` wrote, with a tokenizer")
    frames: int = option(4, FRAMES, minimum=1)
    condition: str | None = option(None, "file with one word per line; None: the published list")
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))
    mesh: Mapping[str, int] | None = option(None, "mesh axis -> size on one host")


@dataclasses.dataclass(frozen=True)
class VideoRewardOptions:
    """VideoReward's visual quality, motion quality and text alignment."""

    path: str = option(help="a VideoReward folder that `pav export --to=pav` wrote")
    template: str | None = option(None, "text file about the video; None: the package's")
    frames: int | None = option(
        None, "frames read per video; None: as many per second as the checkpoint says", minimum=1
    )
    normalize: bool = option(True, "mean 0 and standard deviation 1 over the authors' videos")
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))
    mesh: Mapping[str, int] | None = option(None, "mesh axis -> size on one host")
    batch_size: int = option(1, "videos in one compiled program", minimum=1)


@dataclasses.dataclass(frozen=True)
class VideoScoreOptions:
    """VideoScore's five dimensions."""

    path: str = option(help="a folder or Hub id in the layout of TIGER-Lab/VideoScore")
    query: str | None = option(None, "text file of the query; None: the package's")
    frames: int | None = option(None, "frames scored per video; None: the version's", minimum=1)
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))
    mesh: Mapping[str, int] | None = option(None, "mesh axis -> size on one host")
    version: str = option("1", "of the checkpoint", choices=("1", "1.1"))
    batch_size: int = option(1, "videos in one compiled program", minimum=1)


@dataclasses.dataclass(frozen=True)
class VideoScoreQwen2VLOptions:
    """VideoScore's five dimensions from a Qwen2-VL."""

    path: str = option(help="a folder or Hub id in the layout of TIGER-Lab/VideoScore-Qwen2-VL")
    query: str | None = option(None, "text file of the query; None: the package's")
    frames: int | None = option(None, "frames read per video; None: 8 per second", minimum=1)
    max_pixels: int = option(768 * 28 * 28, "of a frame after the resize", minimum=1)
    dtype: str = option("float32", "of the weights", choices=("float32", "bfloat16"))
    mesh: Mapping[str, int] | None = option(None, "mesh axis -> size on one host")
    batch_size: int = option(1, "videos in one compiled program", minimum=1)


@dataclasses.dataclass(frozen=True)
class EndpointOptions:
    """What all rewards share that ask a chat model behind an OpenAI-compatible endpoint."""

    model: str = option(help="name of the model at the endpoint")
    base_url: str = option("https://api.openai.com/v1", "address of the endpoint")
    api_key_env: str = option("OPENAI_API_KEY", "environment variable with the key; empty: none")
    concurrency: int = option(16, "requests in flight", **endpoint_options.CONCURRENCY)
    timeout_s: float = option(
        120.0, "maximum time for one response, in seconds", **endpoint_options.TIMEOUT_S
    )
    max_retries: int = option(4, "retries of one question", **endpoint_options.MAX_RETRIES)
    max_backoff_s: float = option(
        60.0, "maximum pause between two attempts, in seconds", **endpoint_options.MAX_BACKOFF_S
    )
    max_consecutive_failures: int = option(
        8, "failed questions in a row that end the run", **endpoint_options.MAX_CONSECUTIVE_FAILURES
    )
    options: Mapping[str, Any] | None = option(None, "further arguments of the completion call")


@dataclasses.dataclass(frozen=True)
class VisionQuestionsOptions(EndpointOptions):
    """Weighted yes/no questions to an OpenAI-compatible vision endpoint."""

    questions: str | None = option(None, "JSON file of questions; None: the package's")
    weights: str | None = option(None, "JSON file of weights; None: those of the questions")
    frames: int = option(8, "frames sent per video", minimum=1)
    side: int = option(768, "longest side of a frame that is sent, in pixels", minimum=1)
    probabilities: bool = option(False, "use log-probabilities of yes and no")


@dataclasses.dataclass(frozen=True)
class VQAScoreOptions(EndpointOptions):
    """The probability of yes from an OpenAI-compatible vision endpoint."""

    question: str | None = option(None, "text file of the question; None: the package's")
    frames: int = option(8, "frames sent per video", minimum=1)
    side: int = option(768, "longest side of a frame that is sent, in pixels", minimum=1)
    max_requests: int | None = option(
        None, "requests after which there are no scores; None: no limit", minimum=1
    )


@dataclasses.dataclass(frozen=True)
class TextRubricOptions(EndpointOptions):
    """Criteria that an OpenAI-compatible endpoint checks rewrites against."""

    criteria: str | None = option(None, "JSON file of criteria; None: the package's")
    max_requests: int | None = option(
        None, "requests after which there are no scores; None: no limit", minimum=1
    )
