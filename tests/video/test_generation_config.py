"""Generation settings: unknown or mistyped fields are named."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.video import GenerationConfig


def test_replace_none_and_int():
    saved = GenerationConfig.from_dict(
        {"num_inference_steps": 12, "guidance_scale": 5, "batch_size": 16}
    )
    assert saved.replace("call", num_inference_steps=None, fps=4) == GenerationConfig(
        num_inference_steps=12, guidance_scale=5.0, batch_size=16, fps=4
    )


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("stepz", 3, "unknown field 'stepz'"),
        ("num_inference_steps", "3", "type int"),
        ("num_inference_steps", True, "type int"),
        ("num_frames", 0, "at least 1"),
        ("use_dynamic_cfg", 1, "type bool"),
        ("guidance_scale", "6", "type float"),
        ("guidance_scale", float("inf"), "finite"),
        ("guidance_scale", float("nan"), "finite"),
        ("cache_max_skips", 0, "at least 1"),
    ],
)
def test_from_dict_invalid_field(field, value, message):
    with pytest.raises(BadInput, match=message) as error:
        GenerationConfig.from_dict({field: value}, "a/pav_generation.json")
    assert field in str(error.value) and "a/pav_generation.json" in str(error.value)


def test_sampling_settings_without_batch_size():
    assert (
        GenerationConfig(batch_size=3, fps=9).sampling_settings()
        == GenerationConfig().sampling_settings()
    )
    assert (
        GenerationConfig(num_inference_steps=3).sampling_settings()
        != GenerationConfig().sampling_settings()
    )
