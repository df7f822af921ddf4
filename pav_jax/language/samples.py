"""What `scheduler` draws: one answer to a prompt, and what those of one batch have in common."""

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer to draw.

    Attributes:
      prompt: index of its prompt.
      number: of the sample; its random key is fold_in(key(seed), number).
      seed: of its prompt.
      adapter: its name in the sampler's `adapters`; None for none.
    """

    prompt: int
    number: int
    seed: int
    adapter: str | None = None

    @property
    def source(self) -> tuple[int, str | None]:
        """What its first token depends on: prompt and adapter."""
        return self.prompt, self.adapter


class Bucket(NamedTuple):
    """What the samples of one batch have in common.

    Attributes:
      prefix: tokens of the shared prefix.
      prompt: padded length of the rest.
      is_merged: they all use the adapter that is merged into the parameters, or none of them does.
    """

    prefix: int
    prompt: int
    is_merged: bool
