"""QA: a vision chat model answers weighted yes/no questions about a video, in the manner of
VisionReward.

Score = mean over the questions of weight * answer, answer 1 for yes and -1 for no (Xu et al. 2024,
arXiv 2412.21059, section 3; THUDM/VisionReward, inference-video.py). With `probabilities` the
answer is 2 P(yes) - 1, where P is over the tokens of yes and no that the endpoint reports.

The questions are a file; `[[prompt]]` in one stands for the user's prompt. The default is in our
words, with weights chosen by hand: they have been fitted to nobody's ratings. VisionReward's own, a
text file with one question a line and a JSON list of weights, can be given as they are.
"""

import base64
import dataclasses
import functools
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from openai.types.chat.chat_completion import Choice
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import Ask, Chat, ChatEndpoint, text_of
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import VisionQuestionsOptions
from pav_jax.rewards.preprocess import frame_indices
from pav_jax.rewards.reward import PretrainedReward

log = logging.getLogger(__name__)

QUESTIONS = Path(__file__).parent / "templates" / "vision_questions.json"
SLOT = "[[prompt]]"
FIELD = "rewards.vision_questions"
RULES = (
    "You are shown frames of one short video, in order, and asked one question about it. Answer"
    " with the single word yes or no."
)
JPEG_QUALITY = 95
ALTERNATIVES = 10  # tokens whose probabilities are asked for
TRIES = 2  # how often a question that was answered neither yes nor no is put


@dataclasses.dataclass(frozen=True)
class Question:
    text: str
    weight: float


class VisionQuestions(PretrainedReward):
    """QA behind the suite's protocol; the key comes from the environment alone.

    A video of which one question stays without an answer of yes or no has NaN, and one line says
    so. Each question about a video is one request with all its frames.

    Example, as a judge that no stage optimises:

        --config.rewards.held_out="({'name': 'vision_questions', 'model': 'NAME', 'base_url':
        'http://host:8000/v1'},)"
    """

    names = ("QA",)
    options = VisionQuestionsOptions
    transient_failures = True

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
                raise BadInput(f"{FIELD}.{name} is {value}; at least 1 is needed")
        self.endpoint, self.questions = endpoint, tuple(questions)
        self.frames, self.side, self.probabilities = frames, side, probabilities

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        questions: str | Path | None = None,
        weights: str | Path | None = None,
        frames: int = 8,
        side: int = 768,
        probabilities: bool = False,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        max_retries: int = 4,
        max_backoff_s: float = 60.0,
        max_consecutive_failures: int = 8,
        options: Mapping[str, Any] | None = None,
    ) -> "VisionQuestions":
        """`questions`, `weights`: see `read_questions`; `frames`: evenly spaced ones, all where
        there are fewer;
        `side`: pixels of a frame's longer side, at most; the rest is `ChatEndpoint`'s, an option of
          None is not sent.

        Raises:
          BadInput: the key's variable is not set, or the questions cannot be used.
        """
        asked = {"temperature": 0.0} | (
            {"logprobs": True, "top_logprobs": ALTERNATIVES} if probabilities else {}
        )
        asked = {k: v for k, v in (asked | dict(options or {})).items() if v is not None}
        endpoint = ChatEndpoint(
            base_url,
            model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_backoff_s=max_backoff_s,
            max_consecutive_failures=max_consecutive_failures,
            options=asked,
            field=FIELD,
        )
        return cls(
            endpoint, read_questions(questions or QUESTIONS, weights), frames, side, probabilities
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            "vision_questions",
            endpoint=self.endpoint.base_url,
            model=self.endpoint.model,
            questions=[dataclasses.astuple(q) for q in self.questions],
            frames=self.frames,
            side=self.side,
            probabilities=self.probabilities,
            options=self.endpoint.options,
        )

    def score(
        self,
        videos: UInt8[np.ndarray, "B T H W 3"],
        prompts: Sequence[str],
        refined: Sequence[str] | None = None,
    ) -> dict[str, Float[np.ndarray, "B"]]:
        """Raises BadInput where the key or the address is refused, or the endpoint is down."""
        jobs = []
        for video, prompt in zip(videos, prompts, strict=True):
            images = self._images(video)
            jobs += [
                functools.partial(self._answer, _chat(images, question.text.replace(SLOT, prompt)))
                for question in self.questions
            ]
        refusals = self.endpoint.refusals
        answers = self.endpoint.run(jobs)
        self.endpoint.raise_if_down("questions")
        answers_BxQ = np.array([math.nan if a is None else a for a in answers]).reshape(
            len(videos), -1
        )
        scores_B = (answers_BxQ * [question.weight for question in self.questions]).mean(1)
        if failed := int(np.isnan(scores_B).sum()):
            silent, refused = sum(a is None for a in answers), self.endpoint.refusals - refusals
            told = {
                f"got no answer ({self.endpoint.last_failure})": silent,
                f"were refused (status {self.endpoint.last_refusal})": refused,
                "were answered neither yes nor no": (
                    int(np.isnan(answers_BxQ).sum()) - silent - refused
                ),
            }
            log.warning(
                "vision_questions: %d of %d videos have no QA: of their questions %s",
                failed,
                len(videos),
                ", ".join(f"{count} {what}" for what, count in told.items() if count),
            )
        return {"QA": scores_B.astype(np.float32)}

    def _images(self, video_TxHxWx3: UInt8[np.ndarray, "T H W 3"]) -> list[dict[str, Any]]:
        T = len(video_TxHxWx3)
        chosen = np.arange(T) if T <= self.frames else frame_indices(T, self.frames)
        return [
            {"type": "image_url", "image_url": {"url": data_url(frame, self.side)}}
            for frame in video_TxHxWx3[chosen]
        ]

    async def _answer(self, chat: Chat, ask: Ask) -> float:
        """-1..1; NaN where the question is refused, or the answer is neither yes nor no, more than
        once."""
        for _ in range(TRIES):
            choice = await ask(chat)
            if choice is None or not math.isnan(answer := self._read(choice)):
                break
        return math.nan if choice is None else answer

    def _read(self, choice: Choice) -> float:
        probability = yes_probability(choice) if self.probabilities else math.nan
        return said(text_of(choice)) if math.isnan(probability) else 2 * probability - 1


def read_questions(path: str | Path, weights: str | Path | None = None) -> list[Question]:
    """A JSON list of objects with `question` and `weight`; or, with `weights`, a text with one
    question a line and a JSON list of as many numbers.

    Raises:
      BadInput: a file that cannot be read so; the message names it.
    """

    def read(file: str | Path) -> str:
        try:
            return Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"{file}: no readable questions or weights ({type(error).__name__}); give a text"
                " file"
            ) from error

    def parse(file: str | Path) -> list:
        try:
            found = json.loads(read(file))
        except ValueError as error:
            raise BadInput(f"{file}: not JSON ({error})") from error
        if not isinstance(found, list) or not found:
            raise BadInput(f"{file}: expected a JSON list with at least one entry")
        return found

    if weights is not None:
        texts, numbers = (
            [line.strip() for line in read(path).splitlines() if line.strip()],
            parse(weights),
        )
        if len(texts) != len(numbers):
            raise BadInput(
                f"{weights}: {len(numbers)} weights for the {len(texts)} questions of {path}; give"
                " one each"
            )
        entries, source = list(zip(texts, numbers, strict=True)), weights
    else:
        rows, source = parse(path), path
        entries = [
            (row.get("question"), row.get("weight")) if isinstance(row, dict) else (None, None)
            for row in rows
        ]
    for i, (text, weight) in enumerate(entries):
        number = (
            isinstance(weight, int | float)
            and not isinstance(weight, bool)
            and math.isfinite(weight)
        )
        if not isinstance(text, str) or not text.strip() or not number:
            raise BadInput(f"{source}: entry {i} lacks a `question` of words or a finite `weight`")
    return [Question(text, float(weight)) for text, weight in entries]


def data_url(frame_HxWx3: UInt8[np.ndarray, "H W 3"], side: int) -> str:
    """A JPEG as the chat protocol takes it."""
    image = Image.fromarray(frame_HxWx3)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def said(text: str) -> float:
    """1 for yes, -1 for no, by the answer's first word; NaN for anything else."""
    first = text.strip().split()[0] if text.strip() else ""
    return {"yes": 1.0, "no": -1.0}.get(first.strip("*_\"'`.,:;!()").lower(), math.nan)


def yes_probability(choice: Choice) -> float:
    """P(yes) / (P(yes) + P(no)) of the answer's first token; NaN where neither is told."""
    tokens = choice.logprobs.content if choice.logprobs else None
    found = {"yes": 0.0, "no": 0.0}
    for token in tokens[0].top_logprobs if tokens else ():
        if (word := token.token.strip().lower()) in found:
            found[word] += math.exp(token.logprob)
    total = sum(found.values())
    return found["yes"] / total if total else math.nan


def _chat(images: Sequence[Mapping[str, Any]], question: str) -> Chat:
    # the frames first: they are the same for all questions, so a server can keep what it made of
    # them
    return [
        {"role": "system", "content": RULES},
        {"role": "user", "content": [*images, {"type": "text", "text": question}]},
    ]
