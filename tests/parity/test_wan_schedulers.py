"""The samplers of flow models against diffusers: the same outputs and noise give the same
trajectory."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_flow_match_euler_discrete as flow_euler_module

from pav_jax.errors import BadInput
from pav_jax.video import schedulers
from tests.parity.test_schedulers import SHAPE, trajectory
from tests.tiers import first_fast

UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def random_unipc(rng) -> dict:
    kind = str(rng.choice(["bh2", "bh2", "bh1"]))
    return UNIPC | {
        "num_train_timesteps": int(rng.choice([1000, 1000, 400])),
        "flow_shift": float(rng.choice([1.0, 3.0, 5.0, 0.7])),
        "solver_order": int(rng.choice([1, 2, 2, 3])),
        "solver_type": kind,
        # diffusers' bh1 multiplies its infinite last step by zero
        "final_sigmas_type": (
            "sigma_min" if kind == "bh1" else str(rng.choice(["zero", "zero", "sigma_min"]))
        ),
        "disable_corrector": [[], [], [0], [1, 2]][rng.integers(4)],
        "shift_terminal": [None, None, 0.1][rng.integers(3)],
    }


def random_euler(rng) -> dict:
    return EULER | {
        "num_train_timesteps": int(rng.choice([1000, 1000, 400])),
        "shift": float(rng.choice([1.0, 3.0, 5.0, 0.7])),
        "shift_terminal": [None, None, 0.1][rng.integers(3)],
        "stochastic_sampling": bool(rng.random() < 0.3),
    }


@pytest.mark.parametrize("seed", first_fast(range(24), 8, slow=4))
def test_trajectory_equals_diffusers(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    config = random_unipc(rng) if seed % 3 else random_euler(rng)
    steps = int(rng.choice([1, 2, 7, 20, 50]))
    if steps == 1:
        config["shift_terminal"] = (
            None  # one step from pure noise to a terminal level: diffusers divides by zero
        )
    start = rng.standard_normal(SHAPE, dtype=np.float32)
    directions, noises = rng.standard_normal((2, steps, *SHAPE), dtype=np.float32)

    original = getattr(diffusers, config["_class_name"])(
        **{k: v for k, v in config.items() if k[0] != "_"}
    )
    original.set_timesteps(steps)
    timesteps, ours = trajectory(config, steps, start, directions, noises)
    np.testing.assert_allclose(timesteps, original.timesteps.numpy(), rtol=1e-6)
    np.testing.assert_allclose(
        schedulers.load(config).sigmas(steps), original.sigmas.numpy(), rtol=0, atol=1e-7
    )

    sample = torch.tensor(start)
    original.set_begin_index(0)
    for i, t in enumerate(original.timesteps):
        monkeypatch.setattr(
            flow_euler_module, "randn_tensor", lambda *_, i=i, **__: torch.tensor(noises[i])
        )
        output = 0.5 * sample + torch.tensor(directions[i])
        sample = original.step(output, t, sample, return_dict=False)[0]
        scale = max(1.0, float(sample.abs().max()))
        np.testing.assert_allclose(
            ours[i], sample.numpy(), rtol=0, atol=1e-4 * scale, err_msg=f"step {i} of {steps}"
        )


def test_timesteps_published_settings():
    scheduler = schedulers.load(UNIPC | {"flow_shift": 3.0})
    assert scheduler.timesteps(50)[:3].tolist() == [999, 993, 986] and scheduler.sigmas(50)[-1] == 0


def test_step_to_zero_is_finite():
    for odd in ({"solver_type": "bh1"}, {"lower_order_final": False}):
        plan = schedulers.load(UNIPC | odd).plan(6)
        assert np.isfinite(plan.predict).all() and np.isfinite(plan.correct).all()
        assert plan.predict[-1].tolist() == [0.0, 1.0, 0.0]  # what is left is the denoised sample


def test_load_unsupported_choice():
    for fields, named in (
        ({"use_flow_sigmas": False}, "use_flow_sigmas is False; only True"),
        ({"prediction_type": "epsilon"}, "prediction_type"),
        ({"solver_type": "heun"}, "solver_type"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"flow_shift": 0}, "flow_shift is 0"),
        ({"solver_order": 0}, "solver_order"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type"),
    ):
        with pytest.raises(BadInput, match=named):
            schedulers.load(UNIPC | fields)
    with pytest.raises(
        BadInput, match="use_flow_sigmas is False"
    ):  # what diffusers takes where nothing is said
        schedulers.load({"_class_name": "UniPCMultistepScheduler"})
    for fields, named in (
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ({"shift": "3"}, "shift is '3'"),
    ):
        with pytest.raises(BadInput, match=named):
            schedulers.load(EULER | fields)
    for config in (UNIPC, EULER):
        for steps in (0, 1001):
            with pytest.raises(BadInput, match="1 to 1000"):
                schedulers.load(config).plan(steps)
