"""Rewrites from a language model on this machine."""

from collections.abc import Sequence
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.evolve.dialogue import make_chat, parse_rewrites, read_template
from pav_jax.evolve.options import LocalOptions
from pav_jax.evolve.proposer import ProposalRequest, Proposer, ProposerContext
from pav_jax.language.thoughts import without_thoughts

MODES = ("rewrite", "history")


class LocalProposer(Proposer):
    """Samples rewrites from a `LanguageModel`.

    In mode "rewrite" the model sees only the user's prompt, in its own chat template, and samples
    `num_rewrites` replies; this suits small models that can only rewrite. In mode "history" the
    model sees the scored rewrites and replies with tagged texts; this needs a model that follows
    instructions.

    Args:
      language_model: a `LanguageModel`.
      options: see `LocalOptions`.
      name: name of the entry in the configuration.

    Raises:
      BadInput: the mode is unknown, or the template is invalid.
    """

    options = LocalOptions

    def __init__(
        self, language_model: Any, options: LocalOptions | None = None, name: str = "local"
    ):
        options = options or LocalOptions()
        if options.mode not in MODES:
            field = f"proposers.{name}.mode"
            raise BadInput(
                f"{field}={options.mode!r}: choose one of {', '.join(MODES)}",
                source="configuration",
                field=field,
            )
        self.name = name
        self._model = language_model
        self._mode = options.mode
        self._batch_size = options.batch_size
        self._template = read_template(options.template)
        self._sampling = {
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "max_new_tokens": options.max_new_tokens,
        }

    @classmethod
    def from_options(cls, options: Any, context: ProposerContext, name: str) -> "LocalProposer":
        """Make the proposer of an entry of the configuration."""
        return cls(context.language_model(name), options, name)

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        """Sample rewrites from the language model: one list per request."""
        seeds = [request.seed for request in requests]
        if self._mode == "rewrite":
            # All prompts of a call sample the same number; a text does not depend on this number.
            count = max((request.num_rewrites for request in requests), default=0)
            chats = [[{"role": "user", "content": request.prompt}] for request in requests]
            rewrites = [
                [without_thoughts(text) for text in texts]
                for texts in self._generate(chats, seeds, count)
            ]
        else:
            chats = [make_chat(r.history, r.num_rewrites, self._template) for r in requests]
            rewrites = [parse_rewrites(texts[0]) for texts in self._generate(chats, seeds, 1)]
        return [
            texts[: request.num_rewrites] for request, texts in zip(requests, rewrites, strict=True)
        ]

    def _generate(self, chats: list, seeds: list[int], count: int) -> list[list[str]]:
        texts: list[list[str]] = []
        for start in range(0, len(chats), self._batch_size):
            batch = slice(start, start + self._batch_size)
            texts += self._model.generate(
                chats[batch], num_return_sequences=count, seed=seeds[batch], **self._sampling
            )
        return texts
