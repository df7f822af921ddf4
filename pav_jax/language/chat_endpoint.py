"""Any endpoint that speaks the OpenAI chat protocol: many questions at once, with retries, back-off
and jitter.

What an endpoint says about a failure is never shown: it may repeat the key.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import openai
import tenacity
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from pav_jax.errors import BadInput

TRANSIENT = (408, 409, 429)  # and everything from 500 up
REFUSED = (401, 403, 404)  # no other question will fare better

Chat = Sequence[Mapping[str, Any]]
Ask = Callable[[Chat], Awaitable[Choice | None]]  # None: this one question was refused
T = TypeVar("T")


class NoAnswer(Exception):
    """The endpoint gave nothing that can be read, and may do better when asked again. Holds no text
    of its own."""


class EndpointDown(BadInput):
    """So many questions in a row got no answer that asking on is of no use."""


class ChatEndpoint:
    """Asks one model behind one address.

    Args:
      base_url: for instance "https://api.openai.com/v1"; any compatible server.
      key_variable: the environment variable that holds the key; empty for a server without keys.
      timeout: seconds for one whole answer.
      concurrency: jobs in flight at once.
      attempts, longest_wait: how often a question is asked, and the seconds between, at most.
      give_up: an endpoint that fails so many jobs in a row is down.
      options: further arguments of the chat completion call (temperature, max_tokens, seed,
        extra_body, ...).
      field: where in the configuration all this is said; named in messages.

    Raises:
      BadInput: the variable is not set, or there is no model.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_variable: str,
        concurrency: int,
        timeout: float,
        attempts: int,
        longest_wait: float,
        give_up: int,
        options: Mapping[str, Any],
        field: str,
    ):
        if key_variable and not os.environ.get(key_variable):
            raise BadInput(
                f"{field}.key_variable: the environment variable {key_variable} is not set"
            )
        if not model:
            raise BadInput(f"{field}.model: name the model that {base_url} is to run")
        self.base_url, self.model, self.key_variable = base_url, model, key_variable
        self.concurrency, self.timeout, self.attempts = concurrency, timeout, attempts
        self.longest_wait, self.give_up, self.options = longest_wait, give_up, dict(options)
        self.refusals = self.last_refusal = (
            0  # questions refused over the endpoint's life, and the last one's status
        )
        self.last_failure = ""
        self._failed_in_a_row = 0

    def run(self, jobs: Sequence[Callable[[Ask], Awaitable[T]]]) -> list[T | None]:
        """What each job makes of the answers it asks for; None for a job that got no answer, or was
        not begun because the endpoint is down by then (`check_up` tells).

        Raises:
          BadInput: the key or the address is refused.
        """
        return asyncio.run(self._all(jobs))

    def check_up(self, what: str) -> None:
        """Raises EndpointDown where the last `give_up` jobs got no answer; whoever asks again after
        this starts afresh.

        Args:
          what: the jobs are about, in the plural.
        """
        if (failed := self._failed_in_a_row) >= self.give_up:
            self._failed_in_a_row = 0
            raise EndpointDown(
                f"{self.base_url}: no answer to {failed} {what} in a row, each asked"
                f" {self.attempts} times (last: {self.last_failure}); what was finished is kept,"
                " run the same command again when the endpoint works"
            )

    async def _all(self, jobs: Sequence[Callable[[Ask], Awaitable[T]]]) -> list[T | None]:
        # one client for each call: its connections belong to this event loop
        key = os.environ[self.key_variable] if self.key_variable else "none"
        async with openai.AsyncOpenAI(
            base_url=self.base_url, api_key=key, max_retries=0, timeout=self.timeout
        ) as client:
            gate = asyncio.Semaphore(self.concurrency)

            async def ask(chat: Chat) -> Choice | None:
                retry = tenacity.AsyncRetrying(
                    retry=tenacity.retry_if_exception_type(NoAnswer),
                    reraise=True,
                    stop=tenacity.stop_after_attempt(self.attempts),
                    wait=tenacity.wait_random_exponential(1, max=self.longest_wait),
                )
                return await retry(self._once, client, chat)

            return await asyncio.gather(*(self._one(job, ask, gate) for job in jobs))

    async def _one(
        self, job: Callable[[Ask], Awaitable[T]], ask: Ask, gate: asyncio.Semaphore
    ) -> T | None:
        async with gate:
            if self._failed_in_a_row >= self.give_up:
                return None
            try:
                result = await job(ask)
            except NoAnswer as failure:
                self._failed_in_a_row += 1
                self.last_failure = str(failure)
                return None
        if (
            self._failed_in_a_row < self.give_up
        ):  # else jobs were left out by now, and `check_up` has to tell
            self._failed_in_a_row = 0
        return result

    async def _once(self, client: openai.AsyncOpenAI, chat: Chat) -> Choice | None:
        try:
            async with asyncio.timeout(
                self.timeout
            ):  # the client's own limit starts anew with every byte
                answer = await client.chat.completions.create(
                    model=self.model, messages=chat, **self.options
                )
        except (TimeoutError, openai.APITimeoutError):
            raise NoAnswer(f"nothing within {self.timeout:g} s") from None
        except openai.APIStatusError as error:
            if error.status_code in REFUSED:
                raise BadInput(
                    f"{self.base_url}: status {error.status_code}; check the address, the model "
                    f"{self.model!r} and the key in {self.key_variable or 'no variable'}"
                ) from None
            if error.status_code in TRANSIENT or error.status_code >= 500:
                raise NoAnswer(f"status {error.status_code}") from None
            self.refusals += 1
            self.last_refusal = error.status_code
            return None
        except openai.APIConnectionError:
            raise NoAnswer("no connection") from None
        except (openai.OpenAIError, ValueError):  # a body that is not the protocol's JSON
            raise NoAnswer("an answer that is not JSON") from None
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise NoAnswer("an answer that is no chat completion")
        return answer.choices[0]


def text_of(choice: Choice | None) -> str:
    """What was said; empty where nothing was."""
    return (getattr(choice.message, "content", None) or "") if choice is not None else ""
