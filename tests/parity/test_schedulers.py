"""CogVideoX samplers against diffusers: the same model outputs and the same noise give the same
trajectory."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_dpm_cogvideox

from pav_jax.errors import BadInput
from pav_jax.video import schedulers
from tests.tiers import first_fast

SHAPE = (2, 3, 4, 4, 2)


def random_config(rng) -> dict:
    prediction = str(rng.choice(["v_prediction", "v_prediction", "epsilon", "sample"]))
    return {
        "num_train_timesteps": int(rng.choice([1000, 1000, 400])),
        "beta_start": float(rng.choice([0.00085, 0.001])),
        "beta_end": float(rng.choice([0.012, 0.02])),
        "beta_schedule": str(
            rng.choice(["scaled_linear", "scaled_linear", "linear", "squaredcos_cap_v2"])
        ),
        "prediction_type": prediction,
        "timestep_spacing": str(rng.choice(["trailing", "leading", "linspace"])),
        # noise predicted at a level without signal divides by zero, in diffusers too
        "rescale_betas_zero_snr": prediction != "epsilon" and bool(rng.random() < 0.6),
        "snr_shift_scale": float(rng.choice([1.0, 3.0, 0.7])),
        "set_alpha_to_one": bool(rng.random() < 0.6),
        "steps_offset": int(rng.choice([0, 1])),
        "clip_sample": False,
    }


def trajectory(config, steps, start, directions, noises):
    """Our samples after every step; the stand-in for the model is linear in its input, so errors
    would grow."""
    scheduler = schedulers.load(config)
    plan = scheduler.plan(steps)

    @jax.jit
    def run(start):
        def body(carry, i):
            state, sample = carry
            output = 0.5 * sample + jnp.asarray(directions)[i]
            state, sample = plan.step(state, output, i, sample, jnp.asarray(noises)[i])
            return (state, sample), sample

        return jax.lax.scan(body, (plan.start(start), start), jnp.arange(steps))[1]

    return plan.timesteps, np.asarray(run(start))


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
@pytest.mark.parametrize("seed", first_fast(range(14), 5, slow=2))
def test_trajectory_equals_diffusers(name, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    steps = int(rng.choice([1, 2, 7, 12, 25]))
    start = rng.standard_normal(SHAPE, dtype=np.float32)
    directions, noises = rng.standard_normal((2, steps, *SHAPE), dtype=np.float32)

    original = getattr(diffusers, name)(**config)
    original.set_timesteps(steps)
    timesteps, ours = trajectory(config | {"_class_name": name}, steps, start, directions, noises)
    np.testing.assert_array_equal(timesteps, original.timesteps.numpy())

    sample = torch.tensor(start)
    before = None
    for i, t in enumerate(original.timesteps):
        monkeypatch.setattr(
            scheduling_dpm_cogvideox, "randn_tensor", lambda *_, i=i, **__: torch.tensor(noises[i])
        )
        output = 0.5 * sample + torch.tensor(directions[i])
        if name == "CogVideoXDPMScheduler":
            back = original.timesteps[i - 1] if i else None
            sample, before = original.step(output, before, t, back, sample, return_dict=False)
        else:
            sample = original.step(output, t, sample, return_dict=False)[0]
        scale = max(1.0, float(sample.abs().max()))
        np.testing.assert_allclose(
            ours[i], sample.numpy(), rtol=0, atol=1e-4 * scale, err_msg=f"step {i} of {steps}"
        )


@pytest.mark.parametrize("seed", range(4))
def test_add_noise_and_velocity_equal_diffusers(seed):
    rng = np.random.default_rng(50 + seed)
    config = random_config(rng)
    original = diffusers.CogVideoXDPMScheduler(**config)
    ours = schedulers.load(config | {"_class_name": "CogVideoXDPMScheduler"}).schedule
    clean, noise = rng.standard_normal((2, *SHAPE), dtype=np.float32)
    timesteps = rng.integers(0, config["num_train_timesteps"], SHAPE[0])
    torch_arguments = [torch.tensor(x) for x in (clean, noise, timesteps)]
    arguments = [jnp.asarray(x) for x in (clean, noise, timesteps)]
    np.testing.assert_allclose(
        ours.add_noise(*arguments),
        original.add_noise(*torch_arguments).numpy(),
        atol=2e-5,
    )
    np.testing.assert_allclose(
        ours.velocity(*arguments),
        original.get_velocity(*torch_arguments).numpy(),
        atol=2e-5,
    )


def test_load_unknown_choice():
    with pytest.raises(BadInput, match="CogVideoXDDIMScheduler, CogVideoXDPMScheduler"):
        schedulers.load({"_class_name": "HeunDiscreteScheduler"})
    ddim = {"_class_name": "CogVideoXDDIMScheduler"}
    for field in ("prediction_type", "timestep_spacing", "beta_schedule"):
        with pytest.raises(BadInput, match=field):
            schedulers.load(ddim | {field: "other"})
    for steps in (0, 1001):
        with pytest.raises(BadInput, match="1 to 1000"):
            schedulers.load(ddim).plan(steps)
