"""Checks of the fields of a loss against each other, when a configuration is loaded.

The rules are those of TRL 1.16, where it has them. Imports nothing heavy.
"""

from typing import Any

from pav_jax.errors import BadInput


def check_preference_loss(fields: Any) -> None:
    """Check the loss of a `DPOConfig`, or a `losses.PreferenceLoss`.

    Raises:
      BadInput: no loss, not one weight for each loss, weights that are all 0, or label smoothing
        with losses that it does not affect, or missing with one that needs it.
    """
    types = fields.loss_type
    weights = fields.loss_weights
    if not types:
        raise _bad("dpo.loss_type", types, "name at least one loss, such as 'sigmoid'")
    if weights is not None and len(weights) != len(types):
        problem = f"{len(weights)} weights for {len(types)} loss types; give one for each"
        raise _bad("dpo.loss_weights", weights, problem)
    if weights is not None and not any(weights):
        raise _bad(
            "dpo.loss_weights", weights, "all weights are 0, so nothing is trained; raise one"
        )
    smoothing = fields.label_smoothing
    if smoothing and not {"robust", "exo_pair"} & set(types):
        problem = (
            "affects loss_type 'robust' and 'exo_pair' only, as in TRL; with"
            f" {', '.join(types)} set it to 0 or use 'robust'"
        )
        raise _bad("dpo.label_smoothing", smoothing, problem)
    if "exo_pair" in types and not smoothing:
        problem = "loss_type='exo_pair' takes its logarithm; set it to 0.001 or so"
        raise _bad("dpo.label_smoothing", smoothing, problem)


def check_policy_loss(fields: Any) -> None:
    """Check the loss of a `GRPOConfig`.

    Raises:
      BadInput: batch_size is not a multiple of num_generations.
    """
    if fields.batch_size % fields.num_generations:
        problem = f"does not divide batch_size={fields.batch_size}"
        raise _bad("grpo.num_generations", fields.num_generations, problem)


def _bad(field: str, value: Any, problem: str) -> BadInput:
    return BadInput(f"config.{field}={value!r}: {problem}", source="configuration", field=field)
