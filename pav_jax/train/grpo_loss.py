"""The policy loss of group relative policy optimisation over per-token log-probabilities, in
float32.

Names follow TRL 1.16's GRPOConfig. B completions, T tokens of a row, prompt included.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.errors import BadInput
from pav_jax.train.config import GRPO_LOSS_TYPES


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """Which policy loss, in TRL's names.

    Per token, with ratio = exp(logp - old): -min(ratio A, clip(ratio, 1 - epsilon, 1 +
    epsilon_high) A) + beta KL. The clipped term is eq. 3 of Shao et al. 2024 (arXiv 2402.03300),
    after Schulman et al. 2017; epsilon_high (None: as epsilon) is DAPO's (Yu et al. 2025, eq. 10).
    KL is eq. 4 of Shao et al., Schulman's k3 estimator: exp(reference - logp) - (reference - logp)
    - 1; `use_bias_correction_kl` multiplies it by the ratio (DeepSeek-V3.2, arXiv 2512.02556),
      whose gradient then is that of the reverse divergence.

    How the tokens are summed: grpo, the mean over completions of each one's mean over its tokens
      (Shao et al., eq. 3).
    dapo and bnpo, the mean over all tokens (Yu et al., eq. 8); TRL's two differ in whether a
    batch's parts are counted together, here they always are. dr_grpo, the sum divided by B *
    max_completion_length (Liu et al. 2025, arXiv 2503.20783, section 3.2).
    """

    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    loss_type: str = "dapo"
    max_completion_length: int = 250
    use_bias_correction_kl: bool = True

    def __post_init__(self):
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        object.__setattr__(self, "epsilon_high", high)
        if self.loss_type not in GRPO_LOSS_TYPES:
            raise BadInput(
                f"grpo.loss_type={self.loss_type!r} is not known; choose from"
                f" {', '.join(GRPO_LOSS_TYPES)}"
            )
        if not self.beta >= 0:
            raise BadInput(f"grpo.beta={self.beta} must be 0 (no divergence term) or more")
        if not 0 < self.epsilon < 1:
            raise BadInput(f"grpo.epsilon={self.epsilon} must lie between 0 and 1")
        if not high > 0:
            raise BadInput(f"grpo.epsilon_high={high} must be positive")


def policy_loss(
    config: PolicyLoss,
    logp_BxT: Float[Array, "B T"],
    answer_BxT: Bool[Array, "B T"],
    advantage_B: Float[Array, "B"],
    old_BxT: Float[Array, "B T"] | None = None,
    reference_BxT: Float[Array, "B T"] | None = None,
    sequences: int | None = None,
    tokens: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss and, as means over the completions' tokens, what TRL logs beside it.

    Args:
      logp_BxT: the policy's per-token log-probabilities.
      answer_BxT: which tokens belong to a completion that counts.
      old_BxT: those of the policy that sampled; None where that is this one.
      reference_BxT: those of the model the training began with; without them there is no
        divergence.
      sequences, tokens: completions and their tokens in the whole batch, where this is a part of
        it; loss and metrics of the parts then add up.
    """
    lengths_B = jnp.sum(answer_BxT, axis=-1).astype(jnp.float32)
    sequences = logp_BxT.shape[0] if sequences is None else sequences
    tokens = jnp.maximum(jnp.sum(lengths_B) if tokens is None else tokens, 1.0)

    def within(
        values_BxT,
    ):  # before any exp: what a padding token would give must not reach the gradient
        return jnp.where(answer_BxT, values_BxT, 0.0)

    old_BxT = jax.lax.stop_gradient(logp_BxT) if old_BxT is None else old_BxT
    ratio_BxT, gain_Bx1 = jnp.exp(within(logp_BxT - old_BxT)), advantage_B[:, None]
    low, high = 1 - config.epsilon, 1 + config.epsilon_high
    loss_BxT = -jnp.minimum(ratio_BxT * gain_Bx1, jnp.clip(ratio_BxT, low, high) * gain_Bx1)
    clipped_low_BxT = (ratio_BxT < low) & (gain_Bx1 < 0)
    clipped_high_BxT = (ratio_BxT > high) & (gain_Bx1 > 0)
    seen = {
        "ratio": ratio_BxT,
        "entropy": -logp_BxT,  # of the policy, estimated from the tokens it drew
        "clip_ratio/low_mean": clipped_low_BxT,
        "clip_ratio/high_mean": clipped_high_BxT,
        "clip_ratio/region_mean": clipped_low_BxT | clipped_high_BxT,
    }
    if reference_BxT is not None:
        gap_BxT = within(reference_BxT - logp_BxT)
        seen["kl"] = kl_BxT = jnp.exp(gap_BxT) - gap_BxT - 1
        if config.beta:
            loss_BxT += config.beta * (
                kl_BxT * ratio_BxT if config.use_bias_correction_kl else kl_BxT
            )

    divisor_B = {
        "grpo": jnp.maximum(lengths_B, 1.0) * sequences,
        "dapo": tokens,
        "bnpo": tokens,
        "dr_grpo": float(sequences * config.max_completion_length),
    }[config.loss_type]
    loss = jnp.sum(jnp.sum(within(loss_BxT), axis=-1) / divisor_B)
    means = {
        name: jnp.sum(within(jax.lax.stop_gradient(value))) / tokens for name, value in seen.items()
    }
    return loss, {"loss": loss} | means
