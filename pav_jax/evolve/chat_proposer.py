"""Rewrites from an OpenAI-compatible chat endpoint."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

from pav_jax.evolve.dialogue import make_chat, parse_rewrites, read_template
from pav_jax.evolve.options import ChatOptions
from pav_jax.evolve.proposer import ProposalRequest, Proposer, ProposerContext
from pav_jax.language.chat_endpoint import ChatEndpoint, ChatFn, NoReplyError, text_of

log = logging.getLogger(__name__)

MAX_REQUESTS = 2  # per prompt and call, while a reply has too few rewrites


class ChatProposer(Proposer):
    """Requests rewrites from a chat model, for many prompts concurrently.

    A prompt without a reply after all retries, or whose reply holds no tagged text, gets no rewrite
    from this call. An endpoint that fails `max_consecutive_failures` prompts in a row is down.

    Args:
      options: see `ChatOptions`.
      name: name of the entry in the configuration.

    Attributes:
      unanswered: prompts without a reply so far.
      unreadable: replies without a tagged text so far.

    Raises:
      BadInput: the API key variable is not set, no model is given, or the template is invalid; from
        `propose`: the key or address is rejected, or the endpoint is down.
    """

    options = ChatOptions

    def __init__(self, options: ChatOptions, name: str = "chat"):
        self.name = name
        self.endpoint = ChatEndpoint(
            options.base_url,
            options.model,
            api_key_env=options.api_key_env,
            concurrency=options.concurrency,
            timeout_s=options.timeout_s,
            max_retries=options.max_retries,
            max_backoff_s=options.max_backoff_s,
            max_consecutive_failures=options.max_consecutive_failures,
            options={"temperature": 1.0} | dict(options.options),
            field=f"proposers.{name}",
        )
        self.fingerprint = f"{options.base_url} {options.model}"
        self.unanswered = 0
        self.unreadable = 0
        self._template = read_template(options.template)

    @classmethod
    def from_options(cls, options: Any, context: ProposerContext, name: str) -> "ChatProposer":
        """Make the proposer of an entry of the configuration."""
        return cls(options, name)

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        """Ask the endpoint for rewrites: one list per request, empty without an answer."""
        refusals_before = self.endpoint.refusals
        replies = self.endpoint.run(
            [functools.partial(self._rewrites, request) for request in requests]
        )
        unanswered = sum(texts is None for texts in replies)
        unreadable = sum(texts == [] for texts in replies)
        self.unanswered += unanswered
        self.unreadable += unreadable
        refusals = self.endpoint.refusals - refusals_before
        if refusals:
            log.warning(
                "%s: %d requests were refused, the last with status %d",
                self.name,
                refusals,
                self.endpoint.last_refusal,
            )
        if unreadable or unanswered:
            log.warning(
                "%s: of %d prompts, %d got no reply%s and %d a reply without tagged rewrites",
                self.name,
                len(requests),
                unanswered,
                f" ({self.endpoint.last_failure})" if unanswered else "",
                unreadable,
            )
        self.endpoint.raise_if_down("prompts")
        return [texts or [] for texts in replies]

    async def _rewrites(self, request: ProposalRequest, complete: ChatFn) -> list[str]:
        """Return the rewrites of a reply; make a second request if there are too few."""
        chat = make_chat(request.history, request.num_rewrites, self._template)
        texts: list[str] = []
        for _ in range(MAX_REQUESTS):
            try:
                texts = max(texts, parse_rewrites(text_of(await complete(chat))), key=len)
            except NoReplyError:
                if not texts:
                    raise
            if len(texts) >= request.num_rewrites:
                break
        return texts[: request.num_rewrites]
