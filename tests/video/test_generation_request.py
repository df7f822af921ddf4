"""Sizes far beyond a model are refused before anything is evaluated."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generation_request import check_size


@pytest.mark.parametrize(
    ("size", "field"),
    [
        ((9, 4096, 4096), "height"),
        ((1017, 256, 256), "num_frames"),
        ((9, 64, 64 * 65), "width"),
    ],
)
def test_check_size_too_large(size, field):
    with pytest.raises(BadInput, match="the limit is 2,359,296") as error:
        check_size((9, 64, 64), size)
    assert error.value.field == field


@pytest.mark.parametrize("size", [(9, 64, 64), (81, 128, 128), (1, 1024, 1024)])
def test_check_size_possible(size):
    check_size((9, 64, 64), size)


@pytest.mark.parametrize(
    "field", ["num_frames", "height", "width", "num_inference_steps", "batch_size"]
)
def test_replace_value_without_bound(field):
    with pytest.raises(BadInput, match=field) as error:
        GenerationConfig().replace("generate", **{field: 999_999_999})
    assert error.value.field == field
