"""What the reward programs of a configuration score."""

import dataclasses
import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from pav_jax.preflight.program import CostedPhase, Program

# Letters of a text per token. English text has more, so that rows are estimated too long rather
# than too short.
LETTERS_PER_TOKEN = 3


@dataclasses.dataclass(frozen=True)
class Workload:
    """What the reward programs score.

    Attributes:
      size: frames, height and width of a video.
      num_videos: number of videos of the whole run.
      prompt_length: tokens of a prompt.
      fps: frames per second of a video.
    """

    size: tuple[int, int, int]
    num_videos: int
    prompt_length: int
    fps: float


def reward_program(
    name: str, batch: str, num_runs: float, mesh: Mesh, trace: Callable[[], jax.stages.Traced]
) -> Program:
    """A program that is run `num_runs` times, rounded up, on the devices of `mesh`."""
    phase = CostedPhase(name, None, math.ceil(num_runs))
    return Program(batch, (phase,), trace, num_chips=mesh.size)
