"""The noise levels of flow matching: sample = (1 - sigma) * clean + sigma * noise, sigma falling
from one to zero.

Sources: Lipman et al. 2023 (arXiv 2210.02747); the shift, Esser et al. 2024 (arXiv 2403.03206),
section 5.3.2.
"""

from typing import Annotated

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.typed_fields import Range

MAX_TRAIN_TIMESTEPS = 100_000  # a table has an entry for each; published models have 1000
TrainTimesteps = Annotated[int, Range(1, MAX_TRAIN_TIMESTEPS)]
Terminal = Annotated[float, Range(0, 0.999)]  # the level that `stretched` ends at


def shifted(sigmas: np.ndarray, shift: float | np.floating) -> np.ndarray:
    """Moves levels towards noise; larger videos want larger shifts (3 for 480p, 5 for 720p in Wan
    2.1)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def stretched(sigmas: np.ndarray, terminal: float | None) -> np.ndarray:
    """Scale 1 - sigma so that the last level is `terminal`; no change if that is None or zero."""
    # sigmas[-1] == 1 is a single step from pure noise, where diffusers divides by zero
    if not terminal or sigmas[-1] == 1:
        return sigmas
    clean = 1 - sigmas
    # keep this order of operations: timesteps are truncated to integers
    return 1 - clean / (clean[-1] / (1 - terminal))


def check_steps(steps: int, total: int) -> None:
    """Raises BadInput unless the number of steps is 1 to `total`."""
    if not 1 <= steps <= total:
        raise BadInput(
            f"num_inference_steps={steps}: choose 1 to {total}, the number of training timesteps"
        )
