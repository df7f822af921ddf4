"""QA: a vision chat model answers weighted yes/no questions about a video, as in VisionReward.

Score = mean over the questions of weight * answer, with the answer 1 for yes and -1 for no (Xu et
al. 2024, arXiv 2412.21059, section 3; THUDM/VisionReward, inference-video.py). With `probabilities`
the answer is 2 P(yes) - 1, from the token probabilities that the endpoint reports.

The questions are in a file, in which `[[prompt]]` stands for the user's prompt. The default
questions are in our own words, with weights chosen by hand that were not fitted to ratings. The
files of VisionReward, a text file with one question per line and a JSON list of weights, can be
used without changes.
"""

import base64
import dataclasses
import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from openai.types.chat.chat_completion import Choice
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import ChatEndpoint, text_of
from pav_jax.rewards.endpoint_answers import EndpointAnswers, request_options, user_chat
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import VisionQuestionsOptions
from pav_jax.rewards.preprocess import frames_at_most
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos
from pav_jax.storage.folders import local_copy
from pav_jax.storage.json_files import parse_json

QUESTIONS = Path(__file__).parent / "templates" / "vision_questions.json"
SLOT = "[[prompt]]"
FIELD = "rewards.vision_questions"
RULES = (
    "You are shown frames of one short video, in order, and asked one question about it. Answer"
    " with the single word yes or no."
)
JPEG_QUALITY = 95
TOP_LOGPROBS = 10  # tokens whose probabilities are requested


@dataclasses.dataclass(frozen=True)
class Question:
    """A yes/no question, and the weight of its answer in the score."""

    text: str
    weight: float


class VisionQuestions(PretrainedReward):
    """The reward QA. Each question about a video is one request with all its frames.

    A video has NaN where one of its questions was answered neither yes nor no. The API key is read
    from the environment only. As a held-out evaluator:

        --config.rewards.held_out="({'name': 'vision_questions', 'model': 'NAME', 'base_url':
        'http://host:8000/v1'},)"
    """

    names = ("QA",)
    transient_failures = True
    options = VisionQuestionsOptions

    def __init__(
        self,
        endpoint: ChatEndpoint,
        questions: Sequence[Question],
        frames: int = 8,
        side: int = 768,
        probabilities: bool = False,
    ):
        for name, value in (("frames", frames), ("side", side)):
            if value < 1:
                raise BadInput(
                    f"{FIELD}.{name} is {value}; it must be at least 1",
                    "configuration",
                    f"{FIELD}.{name}",
                )
        self.endpoint = endpoint
        self.questions = tuple(questions)
        self.frames = frames
        self.side = side
        self.probabilities = probabilities
        self.answers = EndpointAnswers(endpoint, "vision_questions")

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout_s: float = 120.0,
        max_retries: int = 4,
        max_backoff_s: float = 60.0,
        max_consecutive_failures: int = 8,
        options: Mapping[str, Any] | None = None,
        questions: str | Path | None = None,
        weights: str | Path | None = None,
        frames: int = 8,
        side: int = 768,
        probabilities: bool = False,
    ) -> "VisionQuestions":
        """Reads the questions and connects to an endpoint.

        Args:
          model: the name of the model at the endpoint.
          questions, weights: files, see `read_questions`; None: those of the package.
          frames: the most frames of a video that are shown, evenly spaced.
          side: the most pixels of a frame's longer side.
          probabilities: use token probabilities where the endpoint reports them.
          options: fields of every request; None as a value removes a default field. The other
            arguments are those of `ChatEndpoint`.

        Raises:
          BadInput: the API key's variable is not set, or the questions are unusable.
        """
        request: dict[str, Any] = {"temperature": 0.0}
        if probabilities:
            request |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        endpoint = ChatEndpoint(
            base_url,
            model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_backoff_s=max_backoff_s,
            max_consecutive_failures=max_consecutive_failures,
            options=request_options(request, options),
            field=FIELD,
        )
        return cls(
            endpoint, read_questions(questions or QUESTIONS, weights), frames, side, probabilities
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies endpoint, model, questions and settings in cache keys."""
        return fingerprint(
            "vision_questions",
            endpoint=self.endpoint.base_url,
            model=self.endpoint.model,
            questions=[dataclasses.astuple(question) for question in self.questions],
            frames=self.frames,
            side=self.side,
            probabilities=self.probabilities,
            options=self.endpoint.options,
        )

    def frames_read(self, num_frames: int) -> np.ndarray:
        """At most `frames`, evenly spaced."""
        return frames_at_most(num_frames, self.frames)

    def score(
        self, videos: Videos, prompts: Sequence[str], refined: Sequence[str] | None = None
    ) -> Scores:
        """See `Reward.score`.

        Raises:
          BadInput: the endpoint refuses the key or the address, or is down.
        """
        chats = []
        for video, prompt in zip(videos, prompts, strict=True):
            images = self._images(video)
            for question in self.questions:
                text = question.text.replace(SLOT, prompt)
                # frames come first: they are the same for all questions, so a server can cache
                # this prefix
                chats.append(user_chat(RULES, [*images, {"type": "text", "text": text}]))
        answers, reasons = self.answers.ask(
            chats, self._parse_answer, "were answered neither yes nor no"
        )
        answers_BxQ = answers.reshape(len(videos), -1)
        scores_B = (answers_BxQ * [question.weight for question in self.questions]).mean(1)
        self.answers.warn_missing(scores_B, "videos have no QA", reasons)
        return {"QA": scores_B.astype(np.float32)}

    def _images(self, video_TxHxWx3: UInt8[np.ndarray, "T H W 3"]) -> list[dict[str, Any]]:
        indices = frames_at_most(len(video_TxHxWx3), self.frames)
        return [
            {"type": "image_url", "image_url": {"url": data_url(frame, self.side)}}
            for frame in video_TxHxWx3[indices]
        ]

    def _parse_answer(self, choice: Choice) -> float:
        probability = yes_probability(choice) if self.probabilities else math.nan
        if math.isnan(probability):
            return yes_or_no(text_of(choice))
        return 2 * probability - 1


def read_questions(path: str | Path, weights: str | Path | None = None) -> list[Question]:
    """Reads weighted questions.

    Args:
      path: a JSON list of objects with `question` and `weight`; with `weights`, a text file with
        one question per line.
      weights: a JSON list with one number per question.

    Raises:
      BadInput: a file cannot be read, or has another layout.
    """
    if weights is None:
        source = path
        rows = [row if isinstance(row, dict) else {} for row in _read_list(path)]
        entries = [(row.get("question"), row.get("weight")) for row in rows]
    else:
        source = weights
        lines = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
        numbers = _read_list(weights)
        if len(lines) != len(numbers):
            raise BadInput(
                f"{weights}: {len(numbers)} weights for the {len(lines)} questions of {path}; give"
                " one weight per question",
                weights,
            )
        entries = list(zip(lines, numbers, strict=True))
    questions = []
    for i, (text, weight) in enumerate(entries):
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"{source}: entry {i} has no text `question`", source, f"{i}.question")
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not math.isfinite(weight)
        ):
            raise BadInput(f"{source}: entry {i} has no finite `weight`", source, f"{i}.weight")
        questions.append(Question(text, float(weight)))
    return questions


def _read_text(path: str | Path) -> str:
    try:
        return local_copy(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: questions or weights cannot be read ({type(error).__name__}); give a text"
            " file",
            path,
        ) from error


def _read_list(path: str | Path) -> list[Any]:
    content = parse_json(_read_text(path), path, "fix the file")
    if not isinstance(content, list) or not content:
        raise BadInput(f"{path}: expected a JSON list with at least one entry", path)
    return content


def data_url(frame_HxWx3: UInt8[np.ndarray, "H W 3"], side: int) -> str:
    """A frame as a JPEG in a data URL, with at most `side` pixels on its longer side."""
    image = Image.fromarray(frame_HxWx3)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def yes_or_no(text: str) -> float:
    """1 for yes, -1 for no, by the first word of an answer; NaN for anything else."""
    first_word = text.strip().split()[0] if text.strip() else ""
    return {"yes": 1.0, "no": -1.0}.get(first_word.strip("*_\"'`.,:;!()").lower(), math.nan)


def yes_probability(choice: Choice) -> float:
    """P(yes) / (P(yes) + P(no)) of the first token; NaN where neither is reported."""
    tokens = choice.logprobs.content if choice.logprobs else None
    probabilities = {"yes": 0.0, "no": 0.0}
    for token in tokens[0].top_logprobs if tokens else ():
        word = token.token.strip().lower()
        if word in probabilities:
            probabilities[word] += math.exp(token.logprob)
    total = sum(probabilities.values())
    return probabilities["yes"] / total if total else math.nan
