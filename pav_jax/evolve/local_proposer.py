"""Rewrites from a language model that runs here."""

from collections.abc import Sequence

from pav_jax.errors import BadInput
from pav_jax.evolve.dialogue import messages, parse, read_template
from pav_jax.evolve.proposers import ProposalRequest, Proposer

MODES = ("rewrite", "history")


class LocalProposer(Proposer):
    """Asks a `LanguageModel`.

    In mode "rewrite" the user's prompt alone goes through the model's own chat template and `n`
    answers are drawn: right for a small model that can only rewrite. In mode "history" the model is
      shown the scored rewrites and answers
    between tags: right for one that follows instructions.

    Args:
      batch_size: how many prompts the model is given at once.
      template: a file that replaces the system message of mode "history".
    """

    def __init__(
        self,
        language_model,
        mode: str = "rewrite",
        template: str | None = None,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        max_new_tokens: int = 250,
        batch_size: int = 32,
        name: str = "local",
    ):
        if mode not in MODES:
            raise BadInput(f"proposers.{name}.mode={mode!r}: choose one of {', '.join(MODES)}")
        self.name = name
        self.mode = mode
        self.batch_size = batch_size
        self._model = language_model
        self._template = read_template(template)
        self._sampling = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
        }

    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        if self.mode == "rewrite":
            # the rows of a call share n; a row's text does not depend on how many others are drawn
            most = max((r.n for r in requests), default=0)
            chats = [[{"role": "user", "content": r.prompt}] for r in requests]
            answers = self._generate(chats, [r.seed for r in requests], most)
            return [texts[: r.n] for r, texts in zip(requests, answers, strict=True)]
        chats = [messages(r.history, r.n, self._template) for r in requests]
        answers = self._generate(chats, [r.seed for r in requests], 1)
        return [parse(texts[0])[: r.n] for r, texts in zip(requests, answers, strict=True)]

    def _generate(self, chats: list, seeds: list[int], n: int) -> list[list[str]]:
        answers: list[list[str]] = []
        for i in range(0, len(chats), self.batch_size):
            part = slice(i, i + self.batch_size)
            answers += self._model.generate(
                chats[part], num_return_sequences=n, seed=seeds[part], **self._sampling
            )
        return answers
