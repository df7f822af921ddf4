"""Questions to a chat model that judges: requests, a limit of them, and what has no answer."""

import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from openai.types.chat.chat_completion import Choice

from pav_jax.language.chat_endpoint import Chat, ChatEndpoint, ChatFn

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # requests per question while the answer cannot be read


class EndpointAnswers:
    """Asks one model questions whose answers are numbers.

    Answers are kept, so that a question is sent once in the life of this object.

    Attributes:
      kind: of the reward, named in the log.
      max_requests: questions without an answer have none once so many requests were sent; None: no
        limit.
      num_requests: sent so far, without retries of failed ones.
    """

    def __init__(self, endpoint: ChatEndpoint, kind: str, max_requests: int | None = None):
        self.endpoint = endpoint
        self.kind = kind
        self.max_requests = max_requests
        self.num_requests = 0
        self._answers: dict[str, float] = {}

    def ask(
        self, chats: Sequence[Chat], parse: Callable[[Choice], float], unclear: str
    ) -> tuple[Float[np.ndarray, "N"], str]:
        """The answers to N chats.

        Args:
          chats: messages; equal ones are sent once.
          parse: a reply as a number; NaN: it cannot be read, and the question is sent once more.
          unclear: says of questions that their answers could not be read, for the log.

        Returns:
          The answers, NaN where there is none; and why answers are missing, "" if none is.

        Raises:
          BadInput: the endpoint refuses the key or the address, or is down.
        """
        keys = [_digest(chat) for chat in chats]
        new = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in self._answers}
        refusals_before = self.endpoint.refusals
        over_limit: set[str] = set()
        jobs = [
            functools.partial(self._answer, key, chat, parse, over_limit)
            for key, chat in new.items()
        ]
        results = self.endpoint.run(jobs)
        self._answers |= {
            key: answer
            for key, answer in zip(new, results, strict=True)
            if answer is not None and not math.isnan(answer)
        }
        self.endpoint.raise_if_down("questions")
        num_failed = sum(answer is None for answer in results)
        num_missing = sum(key not in self._answers for key in new)
        num_refused = self.endpoint.refusals - refusals_before
        num_unclear = num_missing - num_failed - num_refused - len(over_limit)
        reasons = {
            f"failed ({self.endpoint.last_failure})": num_failed,
            f"were refused (status {self.endpoint.last_refusal})": num_refused,
            f"were not sent (max_requests={self.max_requests})": len(over_limit),
            unclear: num_unclear,
        }
        text = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        return np.array([self._answers.get(key, math.nan) for key in keys]), text

    def warn_missing(self, scores_B: Float[np.ndarray, "B"], what: str, reasons: str) -> None:
        """Log how many of the scores are missing, and why.

        Args:
          what: the things that are scored and the score, as "videos have no QA".
        """
        if num_missing := int(np.isnan(scores_B).sum()):
            log.warning(
                "%s: %d of %d %s: of their questions %s",
                self.kind,
                num_missing,
                len(scores_B),
                what,
                reasons,
            )

    async def _answer(
        self,
        key: str,
        chat: Chat,
        parse: Callable[[Choice], float],
        over_limit: set[str],
        complete: ChatFn,
    ) -> float:
        """A number; NaN where the request is refused, or no answer can be read."""
        for _ in range(MAX_ATTEMPTS):
            if self.max_requests is not None and self.num_requests >= self.max_requests:
                over_limit.add(key)
                return math.nan
            self.num_requests += 1
            choice = await complete(chat)
            if choice is None:
                return math.nan
            answer = parse(choice)
            if not math.isnan(answer):
                return answer
        return math.nan


def _digest(chat: Chat) -> str:
    return hashlib.blake2b(json.dumps(list(chat)).encode(), digest_size=16).hexdigest()


def request_options(defaults: Mapping[str, Any], options: Mapping[str, Any] | None) -> dict:
    """The fields of every request; None as a value of `options` removes a default field."""
    merged = {**defaults, **(options or {})}
    return {name: value for name, value in merged.items() if value is not None}


def user_chat(rules: str, content: Sequence[Mapping[str, Any]] | str) -> Chat:
    """A system message and one turn of the user."""
    return [{"role": "system", "content": rules}, {"role": "user", "content": content}]
