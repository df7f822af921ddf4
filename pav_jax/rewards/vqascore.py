"""VQA: the probability that a vision chat model answers yes when asked whether a video shows its
prompt.

Source: VQAScore, Lin et al. 2024, arXiv 2404.01291. One question with all frames, of whose answer
only the first token is generated: the score is the probability of "yes" there, in 0..1, however the
token is written. It is cheap and varies little, but needs an endpoint that reports probabilities of
tokens (`logprobs`), as vLLM, SGLang and OpenAI do.

The question is a file, in which `[[prompt]]` stands for the user's prompt.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openai.types.chat.chat_completion import Choice

from pav_jax.errors import BadInput
from pav_jax.language.chat_endpoint import ChatEndpoint
from pav_jax.rewards.endpoint_answers import EndpointAnswers, request_options, user_chat
from pav_jax.rewards.fingerprint import fingerprint
from pav_jax.rewards.options import VQAScoreOptions
from pav_jax.rewards.preprocess import frames_at_most
from pav_jax.rewards.reward import PretrainedReward, Scores, Videos
from pav_jax.rewards.vision_questions import SLOT, data_url
from pav_jax.storage.folders import local_copy

QUESTION = Path(__file__).parent / "templates" / "vqascore.txt"
FIELD = "rewards.vqascore"
RULES = "You are shown frames of one short video, in order. Answer with the single word yes or no."
TOP_LOGPROBS = 20  # tokens whose probabilities are requested, the most that OpenAI reports


class VQAScore(PretrainedReward):
    """The reward VQA. The API key is read from the environment only. As a held-out evaluator:

    --config.rewards.held_out="({'name': 'vqascore', 'model': 'NAME', 'base_url':
    'http://host:8000/v1'},)"
    """

    names = ("VQA",)
    transient_failures = True
    options = VQAScoreOptions

    def __init__(
        self,
        endpoint: ChatEndpoint,
        question: str,
        frames: int = 8,
        side: int = 768,
        max_requests: int | None = None,
    ):
        for name, value in (("frames", frames), ("side", side), ("max_requests", max_requests)):
            if value is not None and value < 1:
                raise BadInput(
                    f"{FIELD}.{name} is {value}; it must be at least 1",
                    "configuration",
                    f"{FIELD}.{name}",
                )
        self.endpoint = endpoint
        self.question = question
        self.frames = frames
        self.side = side
        self.answers = EndpointAnswers(endpoint, "vqascore", max_requests)

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
        question: str | Path | None = None,
        frames: int = 8,
        side: int = 768,
        max_requests: int | None = None,
    ) -> "VQAScore":
        """Reads the question and connects to an endpoint.

        Args:
          model: the name of the model at the endpoint.
          question: a text file with SLOT; None: that of the package.
          frames: the most frames of a video that are shown, evenly spaced.
          side: the most pixels of a frame's longer side.
          max_requests: after so many, videos have no score; None: no limit.
          options: fields of every request; None as a value removes a default field. The other
            arguments are those of `ChatEndpoint`.

        Raises:
          BadInput: the API key's variable is not set, or the question is unusable.
        """
        defaults = {
            "temperature": 0.0,
            "seed": 0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
        }
        endpoint = ChatEndpoint(
            base_url,
            model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_backoff_s=max_backoff_s,
            max_consecutive_failures=max_consecutive_failures,
            options=request_options(defaults, options),
            field=FIELD,
        )
        return cls(endpoint, read_question(question or QUESTION), frames, side, max_requests)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies endpoint, model, question and settings in cache keys."""
        return fingerprint(
            "vqascore",
            endpoint=self.endpoint.base_url,
            model=self.endpoint.model,
            question=self.question,
            frames=self.frames,
            side=self.side,
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
          BadInput: the endpoint refuses the key or the address, is down, or reports no
            probabilities.
        """
        chats = []
        for video, prompt in zip(videos, prompts, strict=True):
            images = [
                {"type": "image_url", "image_url": {"url": data_url(frame, self.side)}}
                for frame in video[frames_at_most(len(video), self.frames)]
            ]
            text = self.question.replace(SLOT, prompt)
            chats.append(user_chat(RULES, [*images, {"type": "text", "text": text}]))
        unclear = "have neither yes nor no among the likely first tokens"
        answers_B, reasons = self.answers.ask(chats, self._parse, unclear)
        self.answers.warn_missing(answers_B, "videos have no VQA", reasons)
        return {"VQA": answers_B.astype(np.float32)}

    def _parse(self, choice: Choice) -> float:
        if choice.logprobs is None or not choice.logprobs.content:
            raise BadInput(
                f"{self.endpoint.base_url}: the model {self.endpoint.model!r} reports no"
                " probabilities of tokens (logprobs), which VQAScore is made of; use another"
                " server or model, or the reward vision_questions",
                self.endpoint.base_url,
                "logprobs",
            )
        return probability_of_yes(choice)


def probability_of_yes(choice: Choice) -> float:
    """P(yes) of the first token, over all tokens; NaN where neither yes nor no is reported."""
    tokens = choice.logprobs.content if choice.logprobs else None
    probabilities = {"yes": 0.0, "no": 0.0}
    for token in tokens[0].top_logprobs if tokens else ():
        word = token.token.strip().lower()
        if word in probabilities:
            probabilities[word] += math.exp(token.logprob)
    return min(probabilities["yes"], 1.0) if sum(probabilities.values()) else math.nan


def read_question(path: str | Path) -> str:
    """The question in a text file.

    Raises:
      BadInput: it cannot be read, or does not hold SLOT.
    """
    try:
        text = local_copy(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}: the question cannot be read ({type(error).__name__}); give a text file",
            path,
            "question",
        ) from error
    if SLOT not in text:
        raise BadInput(
            f"{path}: the question does not hold {SLOT}, the place of the prompt; write it there",
            path,
            SLOT,
        )
    return text
