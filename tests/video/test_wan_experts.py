"""Wan 2.2 A14B: which folders hold it, which expert works in which step, guidance, swapping."""

import jax
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.models.wan import transformer_hf
from pav_jax.parallel.mesh import make_mesh
from pav_jax.storage.json_files import write_json
from pav_jax.video import VideoModel, schedulers, step_schedule
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.loading import load_generator
from pav_jax.video.wan_experts import WanExperts, wan_class
from pav_jax.video.wan_folder import WanIndex
from tests.video.tiny_wan import UNIPC, random_model

NULL = [None, None]
EXPERT = ["diffusers", "WanTransformer3DModel"]
PROMPTS = ["a red ball", "two cats"]


@pytest.fixture(scope="module")
def model():
    return random_model(0, kind="a14b", num_inference_steps=4)


@pytest.mark.parametrize(
    "boundary_ratio, first, second, expected",
    [
        (None, EXPERT, NULL, ("transformer",)),
        (None, EXPERT, EXPERT, ("transformer",)),
        (0.875, EXPERT, EXPERT, ("transformer", "transformer_2")),
        (0.0, EXPERT, NULL, ("transformer",)),
        (1.0, NULL, EXPERT, ("transformer_2",)),
        (1.0, EXPERT, EXPERT, ("transformer", "transformer_2")),
        (0.875, EXPERT, NULL, "boundary_ratio is 0.875, but there is no transformer_2 .* below 0."),
        (0.875, NULL, EXPERT, "boundary_ratio is 0.875, but there is no transformer for .* and mo"),
        (1.0, EXPERT, NULL, "boundary_ratio is 1, but there is no transformer_2"),
        (0.0, NULL, EXPERT, "boundary_ratio is 0, but there is no transformer for"),
        (None, NULL, EXPERT, "transformer is null, and the model cannot denoise without it"),
        (1.5, EXPERT, EXPERT, "boundary_ratio"),
    ],
)
def test_experts(boundary_ratio, first, second, expected, tmp_path):
    fields = dict(boundary_ratio=boundary_ratio, transformer=first, transformer_2=second)
    write_json(tmp_path / "model_index.json", {"_class_name": "WanPipeline"} | fields)
    if isinstance(expected, tuple):
        assert WanIndex.read(tmp_path).experts() == expected
        assert (wan_class(tmp_path) is WanExperts) == (len(expected) == 2)
        return
    with pytest.raises(BadInput, match=expected) as error:
        wan_class(tmp_path)
    assert error.value.source == str(tmp_path / "model_index.json")
    assert "\n" not in str(error.value)


def test_wan_class_without_entries(tmp_path):
    write_json(tmp_path / "model_index.json", {"_class_name": "WanPipeline"})
    assert WanIndex.read(tmp_path).experts() == ("transformer",)


@pytest.mark.parametrize("steps, shift, high", [(40, 12.0, 26), (40, 3.0, 13), (50, 12.0, 32)])
def test_denoiser_steps_published_settings(model, steps, shift, high):
    """Counted with diffusers' scheduler."""
    scheduler = schedulers.load(UNIPC | {"flow_shift": shift})
    family = WanExperts(**{**vars(model.family), "scheduler": scheduler})
    first, second = family.denoiser_steps(steps)
    assert (first.denoiser, first.first, first.stop) == ("transformer", 0, high)
    assert (second.denoiser, second.first, second.stop) == ("transformer_2", high, steps)
    settings = GenerationConfig(num_inference_steps=steps, guidance_scale=4.0, guidance_scale_2=3.0)
    assert family.guidance_scales(settings).tolist() == [4.0] * high + [3.0] * (steps - high)
    plain = GenerationConfig(num_inference_steps=steps, guidance_scale=4.0)
    assert set(family.guidance_scales(plain).tolist()) == {4.0}


def test_make_step_schedule_switch():
    """The first step of the second expert cannot reuse a residual of the first."""
    settings = GenerationConfig(
        num_inference_steps=6,
        cache_threshold=9.0,
        cache_max_skips=9,
        cache_retention=0.0,
        cache_ratios=(1.0,) * 6,
    )
    schedule = step_schedule.make_step_schedule(settings, [0, 4])
    assert schedule.computed == (True, False, False, False, True, False)
    assert schedule.segments(True, (0, 4)) == [(0, 4, True)]
    assert schedule.segments(True, (4, 6)) == [(4, 6, True)]


def test_from_pretrained_swap_of_one_denoiser(tmp_path):
    random_model(0).save_pretrained(tmp_path)
    for settings, field in (
        ({"swap_experts": True}, "swap_experts"),
        ({"guidance_scale_2": 3.0}, ""),
    ):
        with pytest.raises(BadInput) as error:
            VideoModel.from_pretrained(tmp_path, **settings)
        assert error.value.field == (field or "guidance_scale_2")
    with pytest.raises(BadInput, match="generator.swap_experts: http://h/x does not run in JAX"):
        load_generator("http://h/x", swap_experts=True)


def test_save_pretrained_experts(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VideoModel.from_pretrained(tmp_path, dtype="float32")
    assert isinstance(again.family, WanExperts)
    assert again.family.conditions.boundary_ratio == 0.875
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.fingerprint != again.with_settings(guidance_scale_2=2.0).fingerprint
    index = WanIndex.read(tmp_path)
    assert index.experts() == ("transformer", "transformer_2")
    fields = transformer_hf.config_to_hf(again.family.transformer_2.config)
    write_json(tmp_path / "transformer_2" / "config.json", fields | {"patch_size": [1, 1, 4]})
    with pytest.raises(BadInput, match="patch_size is .* in transformer_2; these parts do not"):
        VideoModel.from_pretrained(tmp_path)


@pytest.mark.slow
def test_generate_swapped_on_mesh(model):
    """One expert at a time, from the host, and both on a mesh: the same videos."""
    arguments = dict(seed=[1, 2], guidance_scale_2=2.0)
    resident = model.generate(PROMPTS, **arguments)
    assert resident.std() > 5
    assert not np.array_equal(resident, model.generate(PROMPTS, seed=[1, 2]))
    for mesh, swap in ((None, True), (make_mesh(), True), (make_mesh(), False)):
        other = VideoModel(model.family, model.params, model.settings, mesh, swap_experts=swap)
        on_host = isinstance(jax.tree.leaves(other.params["transformer_2"])[0], np.ndarray)
        assert on_host == swap
        np.testing.assert_allclose(
            other.generate(PROMPTS, **arguments).astype(int), resident, atol=1
        )


@pytest.mark.slow
def test_generate_reused_residuals(model):
    """Skipped steps change little, and each expert has residuals of its own."""
    settings = dict(
        cache_threshold=0.5, cache_retention=0.0, cache_ratios=(1.0,) * 8, num_inference_steps=8
    )
    other = model.with_settings(**settings)
    request = other.make_request(PROMPTS, seed=[1, 2])
    switch = model.family.denoiser_steps(8)[1].first
    assert request.step_schedule.computed[switch] and not all(request.step_schedule.computed)
    ours = np.asarray(other.denoise(request, [0, 1]))
    full = model.with_settings(num_inference_steps=8)
    exact = np.asarray(full.denoise(full.make_request(PROMPTS, seed=[1, 2]), [0, 1]))
    assert 0 < np.abs(ours - exact).max() < 0.5 * np.abs(exact).max()
