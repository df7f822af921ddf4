"""The interface of proposers, which write the rewrites of evolution."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from pav_jax.errors import BadInput
from pav_jax.records import stable_seed

# (the user's prompt, a rewrite) -> share of the prompt that the rewrite preserves, 0 to 1
Faithfulness = Callable[[str, str], float]


@dataclasses.dataclass(frozen=True)
class ScoredRewrite:
    """A rewrite of the pool with its scores.

    Attributes:
      prompt: the user's prompt.
      refined: the rewrite.
      overall: the weighted sum of its scores; minus infinity if it cannot be selected.
      scores: reward name -> value.
    """

    prompt: str
    refined: str
    overall: float
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class ProposalRequest:
    """A request for new rewrites of a prompt.

    Attributes:
      prompt: the user's prompt.
      history: (text, scores) of the user's prompt, then of the best rewrites so far, best first.
      num_rewrites: number of rewrites to write.
      seed: seed of all random choices.
      round: round of evolution, from 1.
      tried: texts that are already scored; do not return them again.
    """

    prompt: str
    history: tuple[tuple[str, Mapping[str, float]], ...]
    num_rewrites: int
    seed: int
    round: int = 1
    tried: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class ProposerContext:
    """What proposers may use when they are built.

    Attributes:
      load_language_model: function that returns the untuned rewriter; None if there is none.
      faithfulness: see `Faithfulness`; None if it is not measured.
    """

    load_language_model: Callable[[], Any] | None = None
    faithfulness: Faithfulness | None = None

    def language_model(self, name: str) -> Any:
        """Return the untuned rewriter for the proposer `name`.

        Raises:
          BadInput: the configuration has no rewriter.
        """
        if self.load_language_model is None:
            raise BadInput(
                f"proposers.{name}: this proposer needs a language model; set rewriter.path",
                source="configuration",
                field=f"proposers.{name}",
            )
        return self.load_language_model()


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a proposer that has none."""


@runtime_checkable
class Proposer(Protocol):
    """Writes rewrites of prompts. Subclass it to use your own proposer in evolution:

        class Sharper(pav.Proposer):
            name = "sharper"

            def propose(self, requests):
                return [[f"{r.prompt}, in sharp focus"] for r in requests]

    Only `propose` is required. The rewrites of a request may depend on that request and on observed
    rewrites, but not on other requests. In a configuration, the kind of an entry of
    `proposers` may be `package.module:Sharper`; its options are the fields of the dataclass
    `options`, and `from_options` makes the proposer from them.

    Attributes:
      name: recorded with every rewrite.
      fingerprint: identifies everything that the rewrites depend on, such as a model's name;
        evaluation requests new rewrites when it changes.
      options: frozen dataclass of the options.
    """

    name: str = "proposer"
    fingerprint: str = ""
    options: ClassVar[type] = NoOptions

    @abc.abstractmethod
    def propose(self, requests: Sequence[ProposalRequest]) -> list[list[str]]:
        """Return up to `num_rewrites` rewrites per request; fewer, or none, after a failure."""
        ...

    def observe(self, rewrites: Sequence[ScoredRewrite]) -> None:
        """Learn from all rewrites of earlier rounds and all prompts; called before each round.

        The default does nothing.
        """

    @classmethod
    def from_options(cls, options: Any, context: ProposerContext, name: str) -> "Proposer":
        """Make the proposer of an entry of the configuration.

        The default passes the fields of `options` to `__init__`.

        Args:
          options: an instance of `cls.options`.
          name: name of the entry.
        """
        fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
        proposer = cls(**fields)
        proposer.name = name
        return proposer


@dataclasses.dataclass(frozen=True)
class ProposerSystem:
    """Evaluates a proposer as a system: one rewrite per prompt, without a history."""

    proposer: Proposer

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the proposer."""
        return self.proposer.fingerprint

    def __call__(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """Return a rewrite of each prompt; the prompt itself if the proposer returns none."""
        requests = [
            ProposalRequest(prompt, ((prompt, {}),), 1, stable_seed(seed, prompt))
            for prompt in prompts
        ]
        rewrites = self.proposer.propose(requests)
        return [
            texts[0] if texts else prompt for prompt, texts in zip(prompts, rewrites, strict=True)
        ]
