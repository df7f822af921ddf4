"""Seeds: one for all prompts, or one each."""

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.seeds import seeds_for_prompts


def test_seeds_for_prompts():
    assert seeds_for_prompts(5, 3) == [5, 5, 5]
    assert seeds_for_prompts(np.int64(5), 1) == [5]
    assert seeds_for_prompts((1, 2), 2) == [1, 2]
    with pytest.raises(BadInput, match="2 seeds for 3 prompts") as error:
        seeds_for_prompts([1, 2], 3)
    assert error.value.field == "seed"
