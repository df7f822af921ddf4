"""What answers the requests of a server: the interface of its two kinds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pav_jax.booster.guard import OFF
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
      guard: fields of the booster's `Guard`; None: rewrites are not guarded.
    """

    call: Call
    model: str
    prompts: tuple[str, ...]
    n: int
    seed: int
    settings: Sampling
    stop: tuple[str, ...] = ()
    guard: Mapping[str, Any] | None = None

    @property
    def guard_fields(self) -> Mapping[str, Any]:
        """What `Booster.refine` takes."""
        return {"mode": OFF} if self.guard is None else self.guard


class TextStream(Protocol):
    """The answers to one request while they are written."""

    def texts(self) -> Sequence[str]:
        """Return the beginning of each answer that will not change any more."""
        ...

    def finish(self) -> list[str]:
        """Wait for the complete answers; counts tokens and finish reasons in the call.

        Raises:
          ApiError: there are none.
        """
        ...


class Backend(Protocol):
    """Rewrites and continues prompts. Its methods block, and are called from many threads.

    Attributes:
      models: the names that clients may ask for; the first is the default.
      sampling: the settings of a request that names none.
      num_rows: answers that are written at once.
    """

    models: list[str]
    sampling: Sampling
    num_rows: int

    def refine(self, request: TextRequest) -> list[Refinement]:
        """Rewrite the one prompt of a request; counts tokens and finish reasons in the call.

        Raises:
          ApiError: the request cannot be answered.
          BadInput: the prompt or a setting is wrong.
        """
        ...

    def complete(self, request: TextRequest) -> list[list[str]]:
        """Continue each prompt as a text, without an instruction; otherwise as `refine`."""
        ...

    def stream(
        self, request: TextRequest, is_rewrite: bool, notify: Callable[[], object]
    ) -> TextStream:
        """Start to do what `refine` or `complete` does.

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
