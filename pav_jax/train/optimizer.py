"""AdamW and its learning-rate schedules, from the fields of a training section of the
configuration."""

import math

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.train.config import SCHEDULES


def make_schedule(
    config: ConfigDict, section: str, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """step -> learning rate. Warm-up and decay are those of transformers' `get_scheduler`.

    The rate climbs from 0 over ceil(warmup_ratio * total_steps) steps, then: linear to 0 at
    `total_steps`; half a cosine to 0; constant; or times `decay_per_epoch` after every epoch
    (llama-recipes' StepLR, 0.85).
    """
    if config.lr_scheduler_type not in SCHEDULES:
        raise BadInput(
            f"{section}.lr_scheduler_type={config.lr_scheduler_type!r} is not known; choose from"
            f" {', '.join(SCHEDULES)}"
        )
    warmup = math.ceil(config.warmup_ratio * total_steps)
    peak, kind, decay = config.learning_rate, config.lr_scheduler_type, config.decay_per_epoch

    def schedule(step):
        progress = jnp.clip((step - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        after = {
            "linear": lambda: 1.0 - progress,
            "cosine": lambda: 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "constant": lambda: jnp.ones_like(progress),
            "exponential_per_epoch": lambda: decay ** (step // steps_per_epoch),
        }[kind]()
        return peak * jnp.where(step < warmup, step / max(1, warmup), after)

    return schedule


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW (0.9, 0.999, 1e-8: torch's defaults) on float32 state, after clipping by global norm
    where asked.

    As in transformers' Trainer, weight decay leaves norms and biases alone.
    """

    def decayed(params):
        def one(path, _):
            names = [str(getattr(part, "key", part)) for part in path]
            return not any("norm" in name or name == "bias" for name in names)

        return jax.tree_util.tree_map_with_path(one, params)

    clip = [optax.clip_by_global_norm(config.max_grad_norm)] if config.max_grad_norm else []
    return optax.chain(
        *clip,
        optax.adamw(
            schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay, mask=decayed
        ),
    )
