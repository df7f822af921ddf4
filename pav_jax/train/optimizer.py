"""AdamW and its learning-rate schedules."""

import math

import jax
import jax.numpy as jnp
import optax

from pav_jax.errors import BadInput
from pav_jax.train.config import SCHEDULES, TrainingConfig


def make_schedule(
    fields: TrainingConfig, section: str, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """Step -> learning rate; warm-up and decay are those of transformers' `get_scheduler`.

    The learning rate climbs linearly from 0 over ceil(warmup_ratio * total_steps) steps. Then it
    falls linearly or along half a cosine to 0 at `total_steps`, stays constant, or is multiplied by
    `decay_per_epoch` after every epoch (llama-recipes' StepLR, 0.85).

    optax.schedules computes the same values in another order of float32 operations, so that they
    differ in the last bit. This order is kept for trainings to stay reproducible.

    Args:
      section: "sft", "dpo" or "grpo", for messages.
      steps_per_epoch: optimizer steps per pass over the data.

    Raises:
      BadInput: an unknown `lr_scheduler_type`.
    """
    kind = fields.lr_scheduler_type
    if kind not in SCHEDULES:
        raise BadInput(
            f"config.{section}.lr_scheduler_type={kind!r}: choose from {', '.join(SCHEDULES)}",
            source="configuration",
            field=f"{section}.lr_scheduler_type",
        )
    warmup_steps = math.ceil(fields.warmup_ratio * total_steps)
    decay_steps = max(1, total_steps - warmup_steps)

    def decay(step):
        if kind == "exponential_per_epoch":
            return fields.decay_per_epoch ** (step // steps_per_epoch)
        progress = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
        if kind == "linear":
            return 1.0 - progress
        if kind == "cosine":
            return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.ones_like(progress)

    def schedule(step):
        warmup = step / max(1, warmup_steps)
        return fields.learning_rate * jnp.where(step < warmup_steps, warmup, decay(step))

    return schedule


def make_optimizer(
    fields: TrainingConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW with float32 state and torch's defaults (0.9, 0.999, 1e-8).

    Gradients are clipped first, unless `max_grad_norm` is None. As in transformers' Trainer, norms
    and biases have no weight decay.
    """
    adamw = optax.adamw(
        schedule,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=fields.weight_decay,
        mask=_has_weight_decay,
    )
    if fields.max_grad_norm is None:
        return optax.chain(adamw)
    return optax.chain(optax.clip_by_global_norm(fields.max_grad_norm), adamw)


def _has_weight_decay(params):
    def is_decayed(path, _):
        names = [str(getattr(part, "key", part)) for part in path]
        return not any("norm" in name or name == "bias" for name in names)

    return jax.tree_util.tree_map_with_path(is_decayed, params)
