"""Rewrites from any endpoint that speaks the OpenAI chat protocol."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence

import openai
import tenacity
from openai.types.chat import ChatCompletion

from pav_jax.errors import BadInput
from pav_jax.evolve.dialogue import messages, parse, read_template
from pav_jax.evolve.proposers import ProposalRequest, Proposer

log = logging.getLogger(__name__)

TRANSIENT = (408, 409, 429)  # and everything from 500 up
REFUSED = (401, 403, 404)  # no other prompt will fare better


class _NoAnswer(Exception):
    """The endpoint gave nothing that can be read, and may do better when asked again. Holds no text of its own."""


class ChatProposer(Proposer):
    """Shows the scored history to a chat model, many prompts at once, with retries, back-off and jitter.

    A prompt whose endpoint fails `attempts` times, or whose answer holds no tagged text, gets no rewrite here; the
    mixture asks again and goes on with what there is. An endpoint that fails `give_up` prompts in a row is down.

    Args:
      base_url: for instance "https://api.openai.com/v1"; any compatible server.
      key_variable: the environment variable that holds the key; empty for a server without keys.
      timeout: seconds for one whole answer.
      concurrency: requests in flight at once.
      template: a file that replaces our system message.
      options: further arguments of the chat completion call (temperature, max_tokens, seed, extra_body, ...).

    Raises:
      BadInput: the variable is not set; from `propose`: the key or address is refused, or the endpoint is down.
    """

    def __init__(self, base_url: str, model: str, key_variable: str = "OPENAI_API_KEY", template: str | None = None,
                 concurrency: int = 16, timeout: float = 60.0, attempts: int = 5, longest_wait: float = 60.0,
                 give_up: int = 8, options: Mapping | None = None, name: str = "chat"):
        if key_variable and not os.environ.get(key_variable):
            raise BadInput(f"proposers.{name}.key_variable: the environment variable {key_variable} is not set")
        if not model:
            raise BadInput(f"proposers.{name}.model: name the model that {base_url} is to run")
        self.name, self.base_url, self.model = name, base_url, model
        self.key_variable, self.concurrency = key_variable, concurrency
        self.timeout, self.attempts, self.longest_wait, self.give_up = timeout, attempts, longest_wait, give_up
        self.options = {"temperature": 1.0} | dict(options or {})
        self.unanswered = self.unreadable = 0  # counted over the proposer's life
        self._template = read_template(template)
        self._failed_in_a_row = 0
        self._last_failure = ""

    @property
    def fingerprint(self) -> str:
        return f"{self.base_url} {self.model}"

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        unreadable, unanswered = self.unreadable, self.unanswered
        texts = asyncio.run(self._all(requests))
        unreadable, unanswered = self.unreadable - unreadable, self.unanswered - unanswered
        if unreadable or unanswered:
            log.warning("%s: of %d prompts, %d got no answer%s and %d one without tagged rewrites", self.name,
                        len(requests), unanswered, f" ({self._last_failure})" if unanswered else "", unreadable)
        if (failed := self._failed_in_a_row) >= self.give_up:
            self._failed_in_a_row = 0  # whoever calls again after this starts afresh
            raise BadInput(f"{self.base_url}: no answer to {failed} prompts in a row, each asked {self.attempts} times "
                           f"(last: {self._last_failure}); what was finished is kept, run the same command again when "
                           "the endpoint works")
        return texts

    async def _all(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        # one client for each call: its connections belong to this event loop
        key = os.environ[self.key_variable] if self.key_variable else "none"
        async with openai.AsyncOpenAI(base_url=self.base_url, api_key=key, max_retries=0,
                                      timeout=self.timeout) as client:
            gate = asyncio.Semaphore(self.concurrency)
            return await asyncio.gather(*(self._one(client, gate, request) for request in requests))

    async def _one(self, client: openai.AsyncOpenAI, gate: asyncio.Semaphore, request: ProposalRequest) -> list[str]:
        async with gate:
            if self._failed_in_a_row >= self.give_up:
                self.unanswered += 1
                return []
            try:
                texts = await self._retried(client, request)
            except _NoAnswer as failure:
                self.unanswered += 1
                self._failed_in_a_row += 1
                self._last_failure = str(failure)
                return []
        self._failed_in_a_row = 0
        self.unreadable += not texts
        return texts

    async def _retried(self, client: openai.AsyncOpenAI, request: ProposalRequest) -> list[str]:
        """Up to `n` rewrites; asks once more when their number is wrong, and keeps the fuller answer."""
        texts: list[str] = []
        for _ in range(2):
            retry = tenacity.AsyncRetrying(retry=tenacity.retry_if_exception_type(_NoAnswer), reraise=True,
                                           stop=tenacity.stop_after_attempt(self.attempts),
                                           wait=tenacity.wait_random_exponential(1, max=self.longest_wait))
            try:
                texts = max(texts, parse(await retry(self._ask, client, request)), key=len)
            except _NoAnswer:
                if not texts:
                    raise
            if len(texts) >= request.n:
                break
        return texts[: request.n]

    async def _ask(self, client: openai.AsyncOpenAI, request: ProposalRequest) -> str:
        """One question. What an endpoint says about a failure is never shown: it may repeat the key."""
        chat = messages(request.history, request.n, self._template)
        try:
            async with asyncio.timeout(self.timeout):  # the client's own limit starts anew with every byte
                answer = await client.chat.completions.create(model=self.model, messages=chat, **self.options)
        except (TimeoutError, openai.APITimeoutError):
            raise _NoAnswer(f"nothing within {self.timeout:g} s") from None
        except openai.APIStatusError as error:
            if error.status_code in REFUSED:
                raise BadInput(f"{self.base_url}: status {error.status_code}; check the address, the model "
                               f"{self.model!r} and the key in {self.key_variable or 'no variable'}") from None
            if error.status_code in TRANSIENT or error.status_code >= 500:
                raise _NoAnswer(f"status {error.status_code}") from None
            log.warning("%s: a prompt was refused with status %d", self.name, error.status_code)
            return ""
        except openai.APIConnectionError:
            raise _NoAnswer("no connection") from None
        except (openai.OpenAIError, ValueError):  # a body that is not the protocol's JSON
            raise _NoAnswer("an answer that is not JSON") from None
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise _NoAnswer("an answer that is no chat completion")
        return getattr(answer.choices[0].message, "content", None) or ""
