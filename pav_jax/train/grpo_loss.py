"""The policy loss of GRPO over per-token log-probabilities, in float32.

Names follow TRL 1.16's GRPOConfig. B completions, T tokens of a row, prompt included.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.errors import BadInput
from pav_jax.train.config import GRPO_LOSS_TYPES


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """A policy loss, in TRL's names.

    Per token, with ratio = exp(logp - old): -min(ratio A, clip(ratio, 1 - epsilon, 1 +
    epsilon_high) A) + beta KL. The clipped term is eq. 3 of Shao et al. 2024 (arXiv 2402.03300),
    after Schulman et al. 2017. KL is eq. 4 of Shao et al., Schulman's k3 estimator: exp(reference -
    logp) - (reference - logp) - 1.

    Loss types, which say how token losses are averaged:
      grpo: the mean over completions of each one's mean over its tokens (Shao et al., eq. 3).
      dapo, bnpo: the mean over all tokens (Yu et al. 2025, eq. 8). TRL's two differ in whether the
        parts of a batch are counted together; here they always are.
      dr_grpo: the sum divided by B * max_completion_length (Liu et al. 2025, arXiv 2503.20783,
        section 3.2).

    Attributes:
      beta: weight of the KL term.
      epsilon_high: DAPO's upper clipping bound (Yu et al. 2025, eq. 10); None: epsilon.
      use_bias_correction_kl: multiplies KL by the ratio (DeepSeek-V3.2, arXiv 2512.02556), whose
        gradient then is that of the reverse divergence.
    """

    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    loss_type: str = "dapo"
    max_completion_length: int = 250
    use_bias_correction_kl: bool = True

    def __post_init__(self):
        if self.loss_type not in GRPO_LOSS_TYPES:
            problem = f"={self.loss_type!r}: choose from {', '.join(GRPO_LOSS_TYPES)}"
            raise _bad("loss_type", problem)
        if not self.beta >= 0:
            raise _bad("beta", f"={self.beta}: must be 0 (no KL term) or more")
        if not 0 < self.epsilon < 1:
            raise _bad("epsilon", f"={self.epsilon}: must be between 0 and 1")
        if not self.upper_epsilon > 0:
            raise _bad("epsilon_high", f"={self.epsilon_high}: must be positive")

    @property
    def upper_epsilon(self) -> float:
        """The ratio is clipped above at 1 + this."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


def _bad(field: str, problem: str) -> BadInput:
    return BadInput(f"config.grpo.{field}{problem}", source="configuration", field=f"grpo.{field}")


def policy_loss(
    config: PolicyLoss,
    logp_BxT: Float[Array, "B T"],
    answer_BxT: Bool[Array, "B T"],
    advantage_B: Float[Array, "B"],
    old_BxT: Float[Array, "B T"] | None = None,
    reference_BxT: Float[Array, "B T"] | None = None,
    num_sequences: int | None = None,
    num_tokens: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss and the metrics that TRL logs with it, means over the completions' tokens.

    Args:
      logp_BxT: the policy's per-token log-probabilities.
      answer_BxT: tokens of the completions that are part of the loss.
      old_BxT: log-probabilities under the policy that sampled; None: it is this policy.
      reference_BxT: log-probabilities under the initial model; None: no KL term.
      num_sequences, num_tokens: completions and their tokens in the whole batch if this is a part
        of it; loss and metrics of the parts then add up. None: this is the whole batch.
    """
    lengths_B = jnp.sum(answer_BxT, axis=-1).astype(jnp.float32)
    num_sequences = logp_BxT.shape[0] if num_sequences is None else num_sequences
    num_tokens = jnp.sum(lengths_B) if num_tokens is None else num_tokens
    num_tokens = jnp.maximum(num_tokens, 1.0)

    def mask(values_BxT):
        # applied before any exp: values at padding tokens must not reach the gradient
        return jnp.where(answer_BxT, values_BxT, 0.0)

    old_BxT = jax.lax.stop_gradient(logp_BxT) if old_BxT is None else old_BxT
    ratio_BxT = jnp.exp(mask(logp_BxT - old_BxT))
    advantage_Bx1 = advantage_B[:, None]
    low = 1 - config.epsilon
    high = 1 + config.upper_epsilon
    clipped_BxT = jnp.clip(ratio_BxT, low, high)
    loss_BxT = -jnp.minimum(ratio_BxT * advantage_Bx1, clipped_BxT * advantage_Bx1)
    clipped_low_BxT = (ratio_BxT < low) & (advantage_Bx1 < 0)
    clipped_high_BxT = (ratio_BxT > high) & (advantage_Bx1 > 0)
    metrics = {
        "ratio": ratio_BxT,
        "entropy": -logp_BxT,  # of the policy, estimated from the sampled tokens
        "clip_ratio/low_mean": clipped_low_BxT,
        "clip_ratio/high_mean": clipped_high_BxT,
        "clip_ratio/region_mean": clipped_low_BxT | clipped_high_BxT,
    }
    if reference_BxT is not None:
        difference_BxT = mask(reference_BxT - logp_BxT)
        kl_BxT = jnp.exp(difference_BxT) - difference_BxT - 1
        metrics["kl"] = kl_BxT
        if config.beta:
            if config.use_bias_correction_kl:
                kl_BxT = kl_BxT * ratio_BxT
            loss_BxT += config.beta * kl_BxT
    divisor_B = _loss_divisor(config, lengths_B, num_sequences, num_tokens)
    loss = jnp.sum(jnp.sum(mask(loss_BxT), axis=-1) / divisor_B)
    means = {
        name: jnp.sum(mask(jax.lax.stop_gradient(value))) / num_tokens
        for name, value in metrics.items()
    }
    return loss, {"loss": loss} | means


def _loss_divisor(
    config: PolicyLoss,
    lengths_B: Float[Array, "B"],
    num_sequences: int,
    num_tokens: Float[Array, ""],
) -> Any:
    """What the summed loss of a completion is divided by: an array [B] or a scalar."""
    return {
        "grpo": jnp.maximum(lengths_B, 1.0) * num_sequences,
        "dapo": num_tokens,
        "bnpo": num_tokens,
        "dr_grpo": float(num_sequences * config.max_completion_length),
    }[config.loss_type]
