import pytest

import pav_jax
from pav_jax.errors import BadInput
from pav_jax.records import Refinement


def test_package_public_names():
    assert pav_jax.BadInput is BadInput and pav_jax.Refinement is Refinement
    assert set(pav_jax.__all__) <= set(dir(pav_jax))
    with pytest.raises(AttributeError, match="no attribute 'Bosster'"):
        _ = pav_jax.Bosster
