"""What a check looks at: a program that some stage runs, traced from shapes, and what is assumed
about the run.

Sizes come from the config.json of a model that lies on this disk, or else from `published/`, copies
of the sizes that the models' authors published under the last part of their hub names.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

from pav_jax.checkpoints import embedded, hub
from pav_jax.errors import BadInput

PUBLISHED = Path(__file__).parent / "published"


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What a run's cost depends on and no configuration says.

    Attributes:
      examples: SFT pairs, preferences per round, and prompts where the configuration takes all of a
        file.
      length: padded tokens of a training row; 0: the longest of length_buckets, or else max_length.
      prompt_length: tokens of a user's prompt in the chat template.
    """

    examples: int = 5000
    length: int = 0
    prompt_length: int = 128


@dataclasses.dataclass(frozen=True)
class Part:
    """What is priced on its own: a program, or the inside and the outside of its loop of unknown
    length.

    Attributes:
      operations: by formula, over all chips; None where there is no formula.
      runs: how often the configuration's whole run does it.
    """

    name: str
    operations: float | None
    runs: float


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.

    Attributes:
      batch: what one run takes.
      parts: one, or two: outside of the open loop, and one iteration of it.
      trace: makes the program; BadInput where the mesh does not fit it.
      chips: how many it runs on; None: all of the mesh.
    """

    batch: str
    parts: tuple[Part, ...]
    trace: Callable[[], jax.stages.Traced]
    chips: int | None = None

    @property
    def name(self) -> str:
        return " and ".join(part.name for part in self.parts)


def config_folder(path: str, field: str) -> Path:
    """Where the config.json of the model `path` is: its own folder, or the published sizes of that
    name."""
    if path.startswith(embedded.PREFIX):
        return hub.local_folder(path)
    folder = Path(path)
    if folder.is_dir():
        return folder
    if (published := PUBLISHED / folder.name).is_dir():
        return published
    known = ", ".join(sorted(p.name for p in PUBLISHED.iterdir()))
    raise BadInput(
        f"{field}={path}: not on this disk, and its sizes are not among the published ones that"
        f" come with pav ({known}); give a folder with its config.json"
    )
