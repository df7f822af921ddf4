"""M-RoPE: positions of tokens in time, height and width.

Source: Wang et al. 2024 (arXiv 2409.12191), section 2.1. A token of text has one position in all
three. The vectors of a picture or video have their own time, row and column, from the position
after the text on; the text after them continues after the largest of these.

Shapes: B rows, T tokens, K size of a head.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models.decoder.rotary import Rope, rotary_frequencies

Grid = tuple[int, int, int]  # vectors of a picture or video: times, rows, columns


def sequential_positions(batch_size: int, length: int) -> Int[np.ndarray, "B T 3"]:
    """Return the positions of tokens that are counted one by one, whatever they stand for."""
    return np.broadcast_to(np.arange(length, dtype=np.int32)[:, None], (batch_size, length, 3))


def mrope_positions(
    is_vision_T: Sequence[bool] | np.ndarray, grids: Sequence[Grid]
) -> Int[np.ndarray, "T 3"]:
    """Return the positions of one row.

    Args:
      is_vision_T: which tokens stand for vectors of the vision tower.
      grids: of the pictures and videos, in order; their vectors are consecutive.

    Raises:
      ValueError: the grids do not have as many vectors as there are tokens for them.
    """
    is_vision_T = np.asarray(is_vision_T, bool)
    if (count := sum(int(np.prod(grid)) for grid in grids)) != is_vision_T.sum():
        raise ValueError(f"{is_vision_T.sum()} vision tokens for {count} vectors")
    positions_Tx3 = np.zeros((len(is_vision_T), 3), np.int32)
    index = start = 0
    remaining = list(grids)
    while index < len(is_vision_T):
        if is_vision_T[index]:
            grid = remaining.pop(0)
            length = int(np.prod(grid))
            positions_Tx3[index : index + length] = start + np.indices(grid).reshape(3, -1).T
            start += max(grid)
        else:
            length = 1
            positions_Tx3[index] = start
            start += 1
        index += length
    return positions_Tx3


def mrope_tables(
    rope: Rope, sections: Sequence[int], head_dim: int, positions_BxTx3: Int[Array, "B T 3"]
) -> tuple[Float[Array, "B T 1 K2"], Float[Array, "B T 1 K2"]]:
    """Return cos and sin of the angles of the decoder, in float32.

    Args:
      sections: features that turn with the time, the row and the column, half a head in all.
    """
    axis_K2 = np.repeat(np.arange(3), sections)
    positions_BxTxK2 = positions_BxTx3.astype(jnp.float32)[:, :, axis_K2]
    angles = positions_BxTxK2[:, :, None, :] * rotary_frequencies(rope, head_dim)
    return jnp.cos(angles), jnp.sin(angles)
