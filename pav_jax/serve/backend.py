"""What answers the requests of a server: the interface of its two kinds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from pav_jax.booster.guard import OFF, Guard
from pav_jax.language.sampling import Sampling
from pav_jax.records import Refinement
from pav_jax.serve.call import Call


@dataclasses.dataclass(frozen=True)
class TextRequest:
    """What one HTTP request asks a backend for.

    Attributes:
      call: the request in work.
      model: one of the backend's `models`.
      prompts: what users typed.
      n: answers to each prompt.
      seed: see `Booster.refine`.
      settings: how tokens are drawn.
      stop: texts that end an answer.
      guard: what rewrites must keep.
      is_rewrite: the prompts are rewritten; otherwise they are continued, without an instruction.
    """

    call: Call
    model: str
    prompts: tuple[str, ...]
    n: int
    seed: int
    settings: Sampling
    stop: tuple[str, ...] = ()
    guard: Guard = Guard(OFF)
    is_rewrite: bool = True

    @property
    def is_guarded(self) -> bool:
        """Whether rewrites are compared with the prompt."""
        return self.is_rewrite and self.guard.mode != OFF


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer of OpenAI's routes.

    Attributes:
      text: of the answer.
      refinement: what the guard says of it; None where it was not asked.
    """

    text: str
    refinement: Refinement | None = None


class TextStream(Protocol):
    """The answers to one request while they are written."""

    def texts(self) -> Sequence[str]:
        """Return the beginning of each answer that will not change any more."""
        ...

    def finish(self) -> list[Reply]:
        """Wait for the complete answers; counts tokens and finish reasons in the call.

        Raises:
          ApiError: there are none.
        """
        ...


class Backend(Protocol):
    """Rewrites and continues prompts. Its methods block, and are called from many threads.

    Attributes:
      models: the names that clients may ask for; the first is the default.
      guard: what rewrites must keep, where a request does not say it.
      num_rows: answers that are written at once.
    """

    models: list[str]
    guard: Guard
    num_rows: int

    def sampling_of(self, model: str) -> Sampling:
        """Return the settings of a request that names none."""
        ...

    def refine(self, request: TextRequest) -> list[Refinement]:
        """Rewrite the prompts of a request, each n times; counts tokens and finish reasons in the
        call.

        Raises:
          ApiError: the request cannot be answered.
          BadInput: the prompt or a setting is wrong.
        """
        ...

    def complete(self, request: TextRequest) -> list[list[str]]:
        """Continue each prompt as a text, without an instruction; otherwise as `refine`."""
        ...

    def stream(self, request: TextRequest, notify: Callable[[], object]) -> TextStream:
        """Start to do what `refine` does without a guard, or `complete`.

        Args:
          notify: called, from any thread, when there is more.
        """
        ...

    def is_healthy(self) -> bool:
        """Return whether requests can be answered."""
        ...

    def num_waiting(self) -> int:
        """Return how many prompts wait for a row."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...
