"""Guidance intervals and residual caching: the formula of the schedule, and sampling in a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.storage.json_files import read_json
from pav_jax.video import (
    GenerationConfig,
    VideoModel,
    generation_config,
    load_generator,
    residual_curve,
    sampling,
    step_schedule,
)
from pav_jax.video.residual_cache import interpolate_ratios, magnitude_ratio, schedule_steps
from tests.video import tiny_opensora, tiny_pipeline, tiny_wan

pytestmark = pytest.mark.slow  # whole denoising loops

DPM = {
    "_class_name": "CogVideoXDPMScheduler",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
STEPS = 6
SETTINGS = dict(
    num_inference_steps=STEPS,
    guidance_start=0.2,
    guidance_stop=0.7,
    cache_threshold=0.5,
    cache_max_skips=1,
    cache_retention=0.1,
    cache_ratios=(1.0,) + (0.9,) * 5,
    batch_size=2,
)
PROMPTS = ["a red ball", "two cats"]
SEEDS = [4, 5]


def shown(computed):
    return "".join("x" if step else "." for step in computed)


# ------------------------------------------------------------------------------------- the schedule


@pytest.mark.parametrize(
    "ratios, threshold, retention, skips, expected",
    [
        ([1] * 8, 0.0, 0.0, 3, "x...x..."),  # nothing changes: only the longest run ends a skip
        ([1] * 8, 0.0, 0.5, 3, "xxxx...x"),
        ([1, 0.9, 0.9, 0.9, 0.9, 0.9], 0.05, 0.0, 3, "xxxxxx"),  # |1 - .9| is already more
        ([1, 0.9, 0.9, 0.9, 0.9, 0.9], 0.1001, 0.0, 3, "x.x.x."),  # .1, then .1 + |1 - .81| = .29
        ([1, 0.9, 0.9, 0.9, 0.9, 0.9], 0.2901, 0.0, 3, "x..x.."),  # then .29 + |1 - .729|
        ([1, 0.9, 0.9, 0.9, 0.9, 0.9], 9.0, 0.0, 1, "x.x.x."),
        (
            [1, 1.2, 1 / 1.2, 1, 1],
            0.2001,
            0.0,
            9,
            "x....",
        ),  # the product returns to 1 and adds no more error
        ([0.5], 9.0, 0.0, 9, "x"),
    ],
)
def test_schedule_steps_threshold(ratios, threshold, retention, skips, expected):
    assert shown(schedule_steps(ratios, threshold, retention, skips)) == expected


def test_schedule_steps_always_computed():
    assert shown(schedule_steps([1] * 8, 0.0, 0.0, 3, always_computed={2})) == "x.x...x."


def test_interpolate_ratios():
    curve = [1.0, 0.9, 0.8, 0.7, 0.6]
    assert interpolate_ratios(curve, 5).tolist() == curve
    assert interpolate_ratios(curve, 3).tolist() == [1.0, 0.8, 0.6]
    assert interpolate_ratios(curve, 9).tolist() == [
        1.0,
        1.0,
        0.9,
        0.8,
        0.8,
        0.8,
        0.7,
        0.6,
        0.6,
    ]  # halves go to the even
    assert interpolate_ratios(curve, 1).tolist() == [0.6]


def test_magnitude_ratio():
    before = jnp.asarray([[[3.0, 4.0], [0.0, 2.0]]])
    after = jnp.asarray([[[0.0, 10.0], [1.0, 0.0]]])
    np.testing.assert_allclose(magnitude_ratio(after, before), (2 + 0.5) / 2, rtol=1e-6)


# ------------------------------------------------------------------------------------- the settings


def test_sampling_settings_of_features_that_are_off():
    off = GenerationConfig(
        guidance_start=0.0,
        guidance_stop=1.0,
        cache_max_skips=5,
        cache_retention=0.5,
        cache_ratios=(1.0, 0.9),
    )
    assert off.sampling_settings() == GenerationConfig().sampling_settings()
    assert not any(name.startswith(("cache", "guidance_st")) for name in off.sampling_settings())
    on = [
        GenerationConfig(guidance_stop=0.8),
        GenerationConfig(cache_threshold=0.1, cache_ratios=(1.0, 0.9)),
        GenerationConfig(cache_threshold=0.1, cache_ratios=(1.0, 0.8)),
        GenerationConfig(cache_threshold=0.2),
    ]
    assert len({str(used.sampling_settings()) for used in [off, *on]}) == 5
    assert (
        off.to_dict()["cache_ratios"] == (1.0, 0.9)
        and "cache_ratios" not in GenerationConfig().to_dict()
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            dict(guidance_start=-0.1),
            "generator: guidance_start=-0.1; it must be at least 0 and at most 1",
        ),
        (dict(guidance_stop=1.5), "guidance_stop=1.5"),
        (dict(cache_threshold=-1), "cache_threshold=-1.0; .* at least 0$"),
        (dict(cache_threshold=float("nan")), "cache_threshold=nan"),
        (dict(cache_retention=2), "cache_retention=2.0"),
        (dict(cache_max_skips=0), "cache_max_skips=0"),
        (dict(cache_ratios=[1.0, "x"]), "cache_ratios=.* a list of two or more positive numbers"),
        (dict(cache_ratios=[1.0, 0]), "cache_ratios="),
        (dict(cache_ratios=1.0), "cache_ratios=1.0"),
    ],
)
def test_replace_invalid_value(fields, message):
    with pytest.raises(BadInput, match=message):
        GenerationConfig().replace("generator", **fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            dict(guidance_start=0.5, guidance_stop=0.5),
            "guidance_start=0.5, guidance_stop=0.5: the first must be below",
        ),
        (
            dict(guidance_stop=0.5, cfg_parallel=True),
            "guidance_stop=0.5: with cfg_parallel half of the mesh",
        ),
        (dict(cache_threshold=0.1), "cache_threshold=0.1: this model has no cache_ratios"),
    ],
)
def test_check_contradicting_settings(fields, message):
    with pytest.raises(BadInput, match=message) as error:
        step_schedule.check(GenerationConfig(**fields))
    assert "\n" not in str(error.value)


def test_make_step_schedule_guided_steps():
    of = lambda **fields: step_schedule.make_step_schedule(GenerationConfig(**fields))  # noqa: E731
    assert of() is None and of(num_inference_steps=3, guidance_stop=1.0) is None
    assert of(num_inference_steps=10, guidance_start=0.25, guidance_stop=0.7).guided == (2, 7)
    assert of(num_inference_steps=100, guidance_start=0.29, guidance_stop=0.57).guided == (29, 57)
    schedule = of(num_inference_steps=10, guidance_start=0.25, guidance_stop=0.7)
    assert schedule.segments(True) == [(0, 2, False), (2, 7, True), (7, 10, False)]
    assert schedule.segments(False) == [(0, 10, False)] and schedule.evaluations() == 15
    assert of(num_inference_steps=10, guidance_stop=0.5, guidance_scale=1.0) is None
    with pytest.raises(BadInput, match="none of the 4 steps lies between"):
        of(num_inference_steps=4, guidance_start=0.1, guidance_stop=0.2)
    assert (
        of(num_inference_steps=4, guidance_start=0.1, guidance_stop=0.2, guidance_scale=1.0) is None
    )  # what that message advises


def test_make_step_schedule_without_skips():
    curve = dict(num_inference_steps=8, cache_ratios=(0.9, 0.9))
    assert step_schedule.make_step_schedule(GenerationConfig(cache_threshold=0.01, **curve)) is None
    assert (
        step_schedule.make_step_schedule(
            GenerationConfig(cache_threshold=9.0, cache_retention=1.0, **curve)
        )
        is None
    )
    assert (
        step_schedule.make_step_schedule(GenerationConfig(cache_threshold=9.0, **curve)) is not None
    )


def test_make_step_schedule_embedded_generator():
    used = GenerationConfig.from_dict(read_json(CHECKPOINTS / "generator" / generation_config.FILE))
    assert len(used.cache_ratios) == used.num_inference_steps and used.cache_ratios[0] == 1.0
    assert step_schedule.make_step_schedule(used) is None


# ------------------------------------------------------------------------------------- the sampling


def random_model(name: str) -> VideoModel:
    if name == "CogVideoX":
        return tiny_pipeline.random_model(
            0, DPM, num_frames=5, height=4, width=8, guidance_scale=3.0, **SETTINGS
        )
    if name == "Wan":
        return tiny_wan.random_model(0, **SETTINGS)
    return tiny_opensora.random_model(0, **SETTINGS | dict(guidance_start=0.0, guidance_stop=1.0))


def loop(model: VideoModel, request, schedule):
    """The same sampling step by step, each branch of guidance on its own with its own residual."""
    family = model.family
    params = {"transformer": model.params["transformer"]}
    full = jax.jit(functools.partial(family.predict, keep_residual=True))
    text, negative = model.encode_prompts(request, [0, 1])
    sample = sampling.noise(sampling.video_keys(request.seeds), 0, request.latent_shape)
    plan = family.plan(STEPS, sample)
    step = sampling.stepper(plan, sampling.video_keys(request.seeds), family.scheduler.needs_noise)
    short = jax.jit(lambda *args: family.predict(*args[:-1], residual=args[-1]))
    carry = (plan.start(sample), sample)
    residual_of = {}
    residuals = []

    def evaluate(branch, own_text, index):
        arguments = (params, carry[1], own_text, None, np.float32(plan.timesteps[index]), None)
        if schedule.computed[index]:
            output, residual_of[branch] = full(*arguments)
        else:
            output = short(*arguments, residual_of[branch])
        return jnp.asarray(output)

    for index in range(STEPS):
        output = evaluate("prompt", text, index)
        if schedule.guided[0] <= index < schedule.guided[1]:
            unguided = evaluate("negative", negative, index)
            output = unguided + request.guidance_scales[index] * (output - unguided)
        residuals.append(dict(residual_of))
        carry = step(carry, output, jnp.asarray(index))
    return np.asarray(carry[1]), residuals


@pytest.mark.parametrize(
    "name, computed", [("CogVideoX", "xx.x.x"), ("Wan", "xx.x.x"), ("OpenSora", "x.x.x.")]
)
def test_denoise_equals_plain_loop(name, computed):
    model = random_model(name)
    request = model.make_request(PROMPTS, "dark", SEEDS)
    schedule = request.step_schedule
    assert shown(schedule.computed) == computed
    assert schedule.guided == ((0, STEPS) if name == "OpenSora" else (1, 4))
    expected, _ = loop(model, request, schedule)

    denoised = lambda rows: np.asarray(model.denoise(request, rows))  # noqa: E731
    ours = denoised([0, 1])
    assert ours.std() > 0.1
    np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())
    # a video does not depend on its neighbours or its place
    np.testing.assert_array_equal(denoised([1, 0]), ours[::-1])
    np.testing.assert_array_equal(denoised([1, 1])[0], ours[1])


def test_transformer_with_residual():
    model = random_model("CogVideoX")
    family = model.family
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, *family.latent_shape(5, 4, 8)[0]), np.float32)
    text = rng.standard_normal((2, family.sequence_length(None), 16), np.float32)
    times = np.full(2, 500)
    call = jax.jit(
        functools.partial(family.transformer.apply, {"params": model.params["transformer"]}),
        static_argnames="keep_residual",
    )
    plain = call(latents, text, times)
    output, residual = call(latents, text, times, keep_residual=True)
    np.testing.assert_array_equal(plain, output)
    np.testing.assert_allclose(call(latents, text, times, residual=residual), plain, atol=1e-5)
    other = call(latents, text, times, residual=residual[::-1])
    assert np.abs(other - plain).max() > 1e-2  # the residual is read


def test_measure_ratios(tmp_path, capsys):
    model = random_model("CogVideoX").with_settings(
        guidance_start=0.0, guidance_stop=1.0, cache_threshold=0.0, zero_uncond=True
    )
    request = model.make_request(PROMPTS, seed=SEEDS)
    _, residuals = loop(model, request, step_schedule.StepSchedule((0, STEPS), (True,) * STEPS))
    text = model.family.sequence_length(None)
    length = [
        np.stack([np.linalg.norm(np.asarray(x)[:, text:], axis=-1) for x in residual_of.values()])
        for residual_of in residuals
    ]
    expected = [1.0] + [
        (now / before).mean() for before, now in zip(length[:-1], length[1:], strict=True)
    ]
    np.testing.assert_allclose(
        residual_curve.measure_ratios(model, PROMPTS, seed=SEEDS[0]), expected, rtol=1e-3
    )

    model.save_pretrained(tmp_path)
    before = read_json(tmp_path / generation_config.FILE)
    assert main(["cache-curve", str(tmp_path), *PROMPTS, "--num-inference-steps=3"]) == 0
    after = read_json(tmp_path / generation_config.FILE)
    assert len(after["cache_ratios"]) == 3 and str(after["cache_ratios"]) in capsys.readouterr().out
    assert {k: v for k, v in after.items() if k != "cache_ratios"} == {
        k: v for k, v in before.items() if k != "cache_ratios"
    }


def test_load_generator_scheduler_of_endpoint():
    with pytest.raises(
        BadInput,
        match="generator.scheduler=DDIM: http://h/x has its own sampler; leave it out",
    ):
        load_generator("http://h/x", scheduler="DDIM")
