"""Supervised and preference losses over per-token log-probabilities, in float32.

Names follow TRL 1.16's DPOConfig. B examples, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.errors import BadInput
from pav_jax.train.config import DPO_LOSS_TYPES
from pav_jax.train.loss_checks import check_preference_loss


def sft_loss(
    logp_BxT: Float[Array, "B T"], answer_BxT: Bool[Array, "B T"], tokens: Float[Array, ""]
) -> Float[Array, ""]:
    """Negative log-likelihood of the answers per token.

    Args:
      tokens: answer tokens of the whole batch. It is passed in so that the losses of the parts of
        an accumulated batch add up to the loss of the batch.
    """
    return -jnp.sum(logp_BxT * answer_BxT) / tokens


@dataclasses.dataclass(frozen=True)
class PreferenceLoss:
    """A preference loss, in TRL's names.

    Loss types:
      sigmoid: Rafailov et al. 2023, eq. 7.
      hinge: SLiC-HF (Zhao et al. 2023), eq. 4.
      ipo: Azar et al. 2023, eq. 17, on log-ratios averaged over the answer's tokens.
      robust: Chowdhury et al. 2024, eq. 8.
      exo_pair: Ji et al. 2024, eq. 16, at two answers.
      sigmoid_norm: sigmoid on log-ratios averaged over the answer's tokens.
      sft: negative log-likelihood of the chosen answers, averaged over tokens.

    Attributes:
      loss_type: the types to sum.
      loss_weights: one for each type; None: 1 each.
      label_smoothing: the probability that a preference is flipped; as in TRL it affects robust and
        exo_pair only.
      ld_alpha: weight of the tokens beyond the shorter answer's length (LD-DPO, Liu et al. 2024);
        None: 1.
    """

    beta: float = 0.1
    loss_type: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ld_alpha: float | None = None

    def __post_init__(self):
        types = (self.loss_type,) if isinstance(self.loss_type, str) else tuple(self.loss_type)
        object.__setattr__(self, "loss_type", types)
        unknown = [name for name in types if name not in DPO_LOSS_TYPES]
        if unknown:
            raise _bad("loss_type", f"={unknown[0]!r}: choose from {', '.join(DPO_LOSS_TYPES)}")
        if self.loss_weights is not None:
            object.__setattr__(self, "loss_weights", tuple(map(float, self.loss_weights)))
        if not self.beta > 0:
            raise _bad("beta", f"={self.beta}: must be positive")
        if not 0 <= self.label_smoothing < 0.5:
            raise _bad("label_smoothing", f"={self.label_smoothing}: must be in [0, 0.5)")
        if self.ld_alpha is not None and not 0 <= self.ld_alpha <= 1:
            raise _bad("ld_alpha", f"={self.ld_alpha}: must be between 0 and 1")
        check_preference_loss(self)

    def terms(self) -> list[tuple[str, float]]:
        """The loss types with their weights."""
        weights = self.loss_weights or (1.0,) * len(self.loss_type)
        return list(zip(self.loss_type, weights, strict=True))


def _bad(field: str, problem: str) -> BadInput:
    return BadInput(f"config.dpo.{field}{problem}", source="configuration", field=f"dpo.{field}")


def answer_log_probs(
    logp_Bx2xT: Float[Array, "B 2 T"],
    answer_Bx2xT: Bool[Array, "B 2 T"],
    ld_alpha: float | None = None,
) -> Float[Array, "B 2"]:
    """Log-probability of each answer, summed over its tokens.

    Args:
      ld_alpha: weight of the tokens beyond the shorter answer's length; None: 1.
    """
    weight_Bx2xT = answer_Bx2xT.astype(jnp.float32)
    if ld_alpha is not None:
        position_Bx2xT = jnp.cumsum(weight_Bx2xT, axis=-1)  # 1 at the first token of the answer
        shared_Bx1x1 = jnp.min(position_Bx2xT[..., -1], axis=1)[:, None, None]
        weight_Bx2xT = jnp.where(position_Bx2xT > shared_Bx1x1, ld_alpha, 1.0) * weight_Bx2xT
    return jnp.sum(logp_Bx2xT * weight_Bx2xT, axis=-1)


def preference_loss(
    config: PreferenceLoss,
    logp_Bx2xT: Float[Array, "B 2 T"],
    answer_Bx2xT: Bool[Array, "B 2 T"],
    reference_Bx2: Float[Array, "B 2"],
    num_pairs: int | None = None,
    chosen_tokens: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss and the metrics that TRL logs with it.

    Args:
      logp_Bx2xT: the policy's per-token log-probabilities; chosen at 0, rejected at 1 of the second
        axis.
      answer_Bx2xT: which tokens belong to the answer.
      reference_Bx2: `answer_log_probs` of the reference.
      num_pairs, chosen_tokens: pairs, and tokens of chosen answers, in the whole batch if this is a
        part of it; loss and metrics of the parts then add up. None: this is the whole batch.
    """
    lengths_Bx2 = jnp.sum(answer_Bx2xT, axis=-1).astype(jnp.float32)
    if num_pairs is None:
        num_pairs = logp_Bx2xT.shape[0]
    if chosen_tokens is None:
        chosen_tokens = jnp.sum(lengths_Bx2[:, 0])
    logps_Bx2 = answer_log_probs(logp_Bx2xT, answer_Bx2xT, config.ld_alpha)
    ratio_Bx2 = logps_Bx2 - reference_Bx2
    mean_Bx2 = ratio_Bx2 / jnp.maximum(lengths_Bx2, 1.0)

    loss = jnp.zeros((), jnp.float32)
    for kind, weight in config.terms():
        if kind == "sft":
            loss += weight * sft_loss(logp_Bx2xT[:, 0], answer_Bx2xT[:, 0], chosen_tokens)
            continue
        values_Bx2 = mean_Bx2 if kind in ("ipo", "sigmoid_norm") else ratio_Bx2
        loss_B = _pair_loss(config, kind, values_Bx2[:, 0] - values_Bx2[:, 1])
        loss += weight * jnp.sum(loss_B) / num_pairs

    rewards_Bx2 = jax.lax.stop_gradient(config.beta * ratio_Bx2)
    margins_B = rewards_Bx2[:, 0] - rewards_Bx2[:, 1]
    sums = {
        "rewards/chosen": rewards_Bx2[:, 0],
        "rewards/rejected": rewards_Bx2[:, 1],
        "rewards/margins": margins_B,
        "rewards/accuracies": (margins_B > 0).astype(jnp.float32),
        "logps/chosen": logps_Bx2[:, 0],
        "logps/rejected": logps_Bx2[:, 1],
        "lengths/chosen": lengths_Bx2[:, 0],
        "lengths/rejected": lengths_Bx2[:, 1],
    }
    return loss, {"loss": loss} | {
        name: jnp.sum(value_B) / num_pairs for name, value_B in sums.items()
    }


def _pair_loss(config: PreferenceLoss, kind: str, gap_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """One loss per pair from the difference of the log-ratios, chosen minus rejected."""
    z_B = config.beta * gap_B
    eps = config.label_smoothing
    if kind in ("sigmoid", "sigmoid_norm"):
        return -jax.nn.log_sigmoid(z_B)
    if kind == "hinge":
        return jax.nn.relu(1.0 - z_B)
    if kind == "ipo":
        return (gap_B - 1.0 / (2.0 * config.beta)) ** 2
    if kind == "robust":
        smoothed_B = -(1 - eps) * jax.nn.log_sigmoid(z_B) + eps * jax.nn.log_sigmoid(-z_B)
        return smoothed_B / (1 - 2 * eps)
    # exo_pair: reverse Kullback-Leibler divergence from the smoothed label (1 - eps, eps)
    right_B = jax.nn.sigmoid(z_B) * (jax.nn.log_sigmoid(z_B) - jnp.log1p(-eps))
    return right_B + jax.nn.sigmoid(-z_B) * (jax.nn.log_sigmoid(-z_B) - jnp.log(eps))
