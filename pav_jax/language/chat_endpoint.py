"""Client of an OpenAI-compatible chat endpoint: concurrent requests with retries, exponential
back-off and jitter.

The text of an endpoint's error is never shown, because it may repeat the API key.
"""

import asyncio
import difflib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import openai
import tenacity
from openai.resources.chat import AsyncCompletions
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from pav_jax.endpoints.addresses import api_key, check_address
from pav_jax.endpoints.options import EndpointLimits, check_json
from pav_jax.errors import BadInput
from pav_jax.redaction import redact_known

TRANSIENT_STATUS = (408, 409, 429)  # retried, as is everything from 500 up
NOT_OPTIONS = ("self", "messages", "model", "stream")  # set by this module
FATAL_STATUS = (401, 403, 404)  # wrong key, address or model: every other request would fail too

Chat = Sequence[Mapping[str, Any]]
ChatFn = Callable[[Chat], Awaitable[Choice | None]]  # None: the endpoint refused this request
T = TypeVar("T")


class NoReplyError(Exception):
    """A request failed in a way that a retry may fix. The message holds no text of the endpoint."""


class EndpointDown(BadInput):
    """Too many jobs in a row failed for another request to make sense."""


class ChatEndpoint:
    """Sends chats to one model behind one address.

    Attributes:
      refusals: requests that the endpoint refused over the life of this object.
      last_refusal: the HTTP status of the last refusal; 0 if there was none.
      last_failure: why the last failed job failed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str,
        concurrency: int,
        timeout_s: float,
        max_retries: int,
        max_backoff_s: float,
        max_consecutive_failures: int,
        options: Mapping[str, Any],
        field: str,
    ):
        """Check the settings; nothing is sent.

        Args:
          base_url: the address of an OpenAI-compatible server, as in "https://api.openai.com/v1".
          model: the model's name on that server.
          api_key_env: the environment variable that holds the key; empty for a server without keys.
          concurrency: jobs that run at once.
          timeout_s: the most seconds for one complete reply.
          max_retries: how often a failed request is sent again.
          max_backoff_s: the longest pause between two tries, in seconds.
          max_consecutive_failures: failed jobs in a row after which the endpoint counts as down.
          options: further arguments of the chat completion call, such as temperature.
          field: the configuration section of these settings, named in error messages.

        Raises:
          BadInput: one of the settings cannot be used, or the environment variable is not set.
        """
        check_address(base_url, f"{field}.base_url", api_key_env)
        self.limits = EndpointLimits(
            concurrency, timeout_s, max_retries, max_backoff_s, max_consecutive_failures
        )
        self.limits.check(field)
        check_request_options(options, f"{field}.options")
        self._api_key = _required_key(api_key_env, f"{field}.api_key_env")
        if not model:
            raise BadInput(
                f"{field}.model: is empty; name the model that {base_url} should run",
                field=f"{field}.model",
            )
        self.base_url = base_url
        self.model = model
        self.api_key_env = api_key_env
        self.options = dict(options)
        self.refusals = 0
        self.last_refusal = 0
        self.last_failure = ""
        self._consecutive_failures = 0

    def run(self, jobs: Sequence[Callable[[ChatFn], Awaitable[T]]]) -> list[T | None]:
        """Run jobs concurrently; each is called with a function that sends one chat.

        Returns:
          What each job returned. None for a job that failed, or that was not started because the
          endpoint was already down (see `raise_if_down`).

        Raises:
          BadInput: the endpoint rejects the key, the address or the model.
        """
        return asyncio.run(self._run(jobs))

    def raise_if_down(self, what: str) -> None:
        """Raise EndpointDown if the last `max_consecutive_failures` jobs failed; reset the count.

        Args:
          what: what the jobs were about, in the plural, for the message.
        """
        failures = self._consecutive_failures
        if failures < self.limits.max_consecutive_failures:
            return
        self._consecutive_failures = 0
        raise EndpointDown(
            f"{self.base_url}: {failures} {what} in a row failed after"
            f" {self.limits.max_retries + 1} tries each (last: {self.last_failure}); finished work"
            " is kept, run the same command again when the endpoint works",
            source=self.base_url,
        )

    async def _run(self, jobs: Sequence[Callable[[ChatFn], Awaitable[T]]]) -> list[T | None]:
        # one client for each call: its connections belong to this event loop
        async with openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._api_key or "none",
            max_retries=0,
            timeout=self.limits.timeout_s,
        ) as client:
            semaphore = asyncio.Semaphore(self.limits.concurrency)

            async def complete(chat: Chat) -> Choice | None:
                retry = tenacity.AsyncRetrying(
                    retry=tenacity.retry_if_exception_type(NoReplyError),
                    reraise=True,
                    stop=tenacity.stop_after_attempt(self.limits.max_retries + 1),
                    wait=tenacity.wait_random_exponential(1, max=self.limits.max_backoff_s),
                )
                return await retry(self._send, client, chat)

            return await asyncio.gather(*(self._run_job(job, complete, semaphore) for job in jobs))

    async def _run_job(
        self, job: Callable[[ChatFn], Awaitable[T]], complete: ChatFn, semaphore: asyncio.Semaphore
    ) -> T | None:
        async with semaphore:
            if self._consecutive_failures >= self.limits.max_consecutive_failures:
                return None
            try:
                result = await job(complete)
            except NoReplyError as failure:
                self._consecutive_failures += 1
                self.last_failure = str(failure)
                return None
        # once the endpoint is down, jobs are skipped and `raise_if_down` has to report it
        if self._consecutive_failures < self.limits.max_consecutive_failures:
            self._consecutive_failures = 0
        return result

    async def _send(self, client: openai.AsyncOpenAI, chat: Chat) -> Choice | None:
        request: dict[str, Any] = {"model": self.model, "messages": list(chat), **self.options}
        try:
            # the client's own timeout starts again with every byte received
            async with asyncio.timeout(self.limits.timeout_s):
                reply = await client.chat.completions.create(**request)
        except (TimeoutError, openai.APITimeoutError):
            raise NoReplyError(f"nothing within {self.limits.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            self._handle_status(error.status_code)
            return None
        except openai.APIConnectionError:
            raise NoReplyError("no connection") from None
        except (openai.OpenAIError, ValueError, RecursionError):
            raise NoReplyError("the reply is not JSON") from None
        # the client does not check the types of what the endpoint sends
        choices = reply.choices if isinstance(reply, ChatCompletion) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        content = getattr(getattr(choice, "message", None), "content", 0)
        if not isinstance(choice, Choice) or not isinstance(content, str | None):
            raise NoReplyError("the reply is not a chat completion with a text")
        return choice

    def _handle_status(self, status: int) -> None:
        """Count a refusal; raise NoReplyError for a transient and BadInput for a fatal status."""
        if status in FATAL_STATUS:
            raise BadInput(
                f"{self.base_url}: status {status}; check the address, the model {self.model!r}"
                f" and the key in {self.api_key_env or 'no variable'}",
                source=self.base_url,
            ) from None
        if status in TRANSIENT_STATUS or status >= 500:
            raise NoReplyError(f"status {status}") from None
        self.refusals += 1
        self.last_refusal = status


def check_request_options(options: Mapping[str, Any], field: str) -> None:
    """Check the further arguments of the chat completion call.

    Raises:
      BadInput: an argument that the call does not have, or a value that is not JSON.
    """
    arguments = inspect.signature(AsyncCompletions.create).parameters
    available = [name for name in arguments if name not in NOT_OPTIONS]
    for name in options:
        if name not in available:
            near = difflib.get_close_matches(str(name), available, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "put it into extra_body"
            raise BadInput(
                f"{field}: a chat completion has no argument {name!r}; {hint}",
                source="configuration",
                field=f"{field}.{name}",
            )
    check_json(options, field)


def text_of(choice: Choice | None) -> str:
    """The text of a reply; empty for a refusal or a reply without text.

    Known secrets are redacted, and a lone surrogate, which has no UTF-8 form, becomes "?".
    """
    if choice is None:
        return ""
    return redact_known(choice.message.content or "").encode("utf-8", "replace").decode()


def _required_key(variable: str, field: str) -> str:
    """The API key in an environment variable; empty if no variable is named."""
    key = api_key(variable, field)
    if variable and not key:
        raise BadInput(
            f"{field}: the environment variable {variable} is not set; export the API key in it",
            field=field,
        )
    return key
