"""Rewrites from any endpoint that speaks the OpenAI chat protocol."""

import functools
import logging
from collections.abc import Mapping, Sequence

from pav_jax.evolve.dialogue import messages, parse, read_template
from pav_jax.evolve.proposers import ProposalRequest, Proposer
from pav_jax.language.chat_endpoint import Ask, ChatEndpoint, NoReplyError, text_of

log = logging.getLogger(__name__)


class ChatProposer(Proposer):
    """Shows the scored history to a chat model, many prompts at once.

    A prompt whose endpoint fails `max_retries` retries, or whose answer holds no tagged text, gets no
    rewrite here; the mixture asks again and goes on with what there is. An endpoint that fails
    `max_consecutive_failures` prompts in a row is down.

    Args:
      template: a file that replaces our system message.
      The others are `ChatEndpoint`'s.

    Raises:
      BadInput: the variable is not set; from `propose`: the key or address is refused, or the
        endpoint is down.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        template: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 60.0,
        max_retries: int = 4,
        max_backoff_s: float = 60.0,
        max_consecutive_failures: int = 8,
        options: Mapping | None = None,
        name: str = "chat",
    ):
        self.name = name
        self.endpoint = ChatEndpoint(
            base_url,
            model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_backoff_s=max_backoff_s,
            max_consecutive_failures=max_consecutive_failures,
            options={"temperature": 1.0} | dict(options or {}),
            field=f"proposers.{name}",
        )
        self.unanswered = self.unreadable = 0  # counted over the proposer's life
        self._template = read_template(template)

    @property
    def fingerprint(self) -> str:
        return f"{self.endpoint.base_url} {self.endpoint.model}"

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        refusals = self.endpoint.refusals
        answers = self.endpoint.run(
            [functools.partial(self._rewrites, request) for request in requests]
        )
        unanswered = sum(texts is None for texts in answers)
        unreadable = sum(texts == [] for texts in answers)
        self.unanswered += unanswered
        self.unreadable += unreadable
        if refused := self.endpoint.refusals - refusals:
            log.warning(
                "%s: %d times a prompt was refused with status %d",
                self.name,
                refused,
                self.endpoint.last_refusal,
            )
        if unreadable or unanswered:
            log.warning(
                "%s: of %d prompts, %d got no answer%s and %d one without tagged rewrites",
                self.name,
                len(requests),
                unanswered,
                f" ({self.endpoint.last_failure})" if unanswered else "",
                unreadable,
            )
        self.endpoint.raise_if_down("prompts")
        return [texts or [] for texts in answers]

    async def _rewrites(self, request: ProposalRequest, ask: Ask) -> list[str]:
        """Up to `n` rewrites; asks once more when their number is wrong, and keeps the fuller
        answer."""
        chat = messages(request.history, request.n, self._template)
        texts: list[str] = []
        for _ in range(2):
            try:
                texts = max(texts, parse(text_of(await ask(chat))), key=len)
            except NoReplyError:
                if not texts:
                    raise
            if len(texts) >= request.n:
                break
        return texts[: request.n]
