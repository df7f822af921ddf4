"""A whole pipeline saved by `VideoModel` and run by diffusers: same prompt and noise, same
video."""

import inspect

import diffusers
import jax
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_dpm_cogvideox

from pav_jax.errors import BadInput
from pav_jax.video import VideoModel, sampling
from tests.video.tiny_pipeline import random_model

pytestmark = pytest.mark.slow  # whole pipelines

PROMPTS = ["a red ball bounces on grass", "two cats"]
NEGATIVE = "dark blurred"
STEPS = 4


def their_video(folder, model, latents, seeds, monkeypatch, **arguments) -> np.ndarray:
    """diffusers' frames, uint8; the noise of step i is our draw i + 1."""
    pipeline = diffusers.CogVideoXPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    step_of_scheduler = pipeline.scheduler.step
    drawn = iter(range(1, STEPS + 1))

    def step(*positional, **named):
        index = next(drawn)
        _, t, c, h, w = latents.shape
        ours = sampling.noise(sampling.video_keys(seeds), index, (t, h, w, c))
        torch_noise = torch.tensor(np.asarray(ours).transpose(0, 1, 4, 2, 3))
        monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *_, **__: torch_noise)
        return step_of_scheduler(*positional, **named)

    step.__signature__ = inspect.signature(step_of_scheduler)  # the pipeline reads it
    monkeypatch.setattr(pipeline.scheduler, "step", step)
    frames = pipeline(
        PROMPTS,
        negative_prompt=[NEGATIVE] * 2,
        num_inference_steps=STEPS,
        latents=torch.tensor(latents),
        output_type="np",
        **{"max_sequence_length": 8} | arguments,
    ).frames
    return (frames * 255).round().astype(np.uint8)


def saved_model(folder, name: str, kind: str) -> tuple[VideoModel, np.ndarray]:
    """A random model, saved and loaded again, and initial noise for two videos."""
    scheduler = {
        "_class_name": name,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "snr_shift_scale": 3.0 if kind == "2b" else 1.0,
        "clip_sample": False,
    }
    settings = dict(num_inference_steps=STEPS, guidance_scale=3.0, batch_size=2)
    random_model(3, scheduler, kind, **settings).save_pretrained(folder)
    shape = (2, 4 if kind == "1.5" else 3, 4, 4, 8)
    latents = np.random.default_rng(5).standard_normal(shape, dtype=np.float32)
    return VideoModel.from_pretrained(folder, dtype="float32"), latents


@pytest.mark.parametrize(
    "name, kind, scales, dynamic",
    [
        ("CogVideoXDDIMScheduler", "2b", (3.0, 1.0), False),  # 1: no guidance, in diffusers too
        ("CogVideoXDPMScheduler", "5b", (3.0,), True),
        ("CogVideoXDPMScheduler", "1.5", (3.0,), False),
    ],
)
def test_generate_equals_diffusers(name, kind, scales, dynamic, tmp_path, monkeypatch):
    again, latents = saved_model(tmp_path, name, kind)
    for guidance in scales:
        ours = again.generate(
            PROMPTS,
            NEGATIVE,
            guidance_scale=guidance,
            latents=latents,
            seed=[7, 8],
            use_dynamic_cfg=dynamic,
        )
        theirs = their_video(
            tmp_path,
            again,
            latents,
            [7, 8],
            monkeypatch,
            guidance_scale=guidance,
            use_dynamic_cfg=dynamic,
        )
        assert ours.shape == theirs.shape == (2, 5, 8, 16, 3)
        assert ours.std() > 5  # a grey picture would prove nothing
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_generate_max_sequence_length_equals_diffusers(tmp_path, monkeypatch):
    model, latents = saved_model(tmp_path, "CogVideoXDDIMScheduler", "5b")
    arguments = dict(guidance_scale=3.0, max_sequence_length=4)
    with pytest.warns(UserWarning, match="longer than the 4 tokens"):
        ours = model.generate(PROMPTS, NEGATIVE, latents=latents, seed=[7, 8], **arguments)
    theirs = their_video(
        tmp_path, model, latents, [7, 8], monkeypatch, use_dynamic_cfg=False, **arguments
    )
    assert ours.std() > 5
    assert np.abs(ours.astype(int) - theirs).max() <= 2
    untruncated = model.generate(PROMPTS, NEGATIVE, latents=latents, guidance_scale=3.0)
    assert np.abs(ours.astype(int) - untruncated).max() > 5


def test_generate_max_sequence_length_with_fixed_positions():
    model = random_model(3, {"_class_name": "CogVideoXDDIMScheduler"}, "2b")
    with pytest.raises(BadInput) as error:
        model.generate("two cats", max_sequence_length=4)
    assert error.value.field == "max_sequence_length"


def test_from_pretrained_of_a_folder_from_diffusers(tmp_path):
    model = random_model(4, {"_class_name": "CogVideoXDDIMScheduler"})
    model.save_pretrained(tmp_path / "ours")
    diffusers.CogVideoXPipeline.from_pretrained(tmp_path / "ours").save_pretrained(
        tmp_path / "theirs"
    )
    again = VideoModel.from_pretrained(tmp_path / "theirs", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    ids = [x.make_request(PROMPTS).token_ids.tolist() for x in (again, model)]
    assert ids[0] == ids[1]
    assert (
        again.family.scheduler.schedule.alphas.tolist()
        == model.family.scheduler.schedule.alphas.tolist()
    )
