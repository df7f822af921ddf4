"""Supervised and preference losses over per-token log-probabilities, in float32.

Names follow TRL 1.16's DPOConfig. B examples, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pav_jax.errors import BadInput
from pav_jax.train.config import DPO_LOSS_TYPES


def sft_loss(
    logp_BxT: Float[Array, "B T"], answer_BxT: Bool[Array, "B T"], tokens: Float[Array, ""]
) -> Float[Array, ""]:
    """Negative log-likelihood of the answers, divided by `tokens`: the answer tokens of the whole
    batch.

    The divisor is passed in so that the parts of an accumulated batch add up to the loss of the
    batch.
    """
    return -jnp.sum(logp_BxT * answer_BxT) / tokens


@dataclasses.dataclass(frozen=True)
class PreferenceLoss:
    """Which preference loss, in TRL's names.

    sigmoid: Rafailov et al. 2023, eq. 7. hinge: SLiC-HF (Zhao et al. 2023), eq. 4. ipo: Azar et al.
      2023, eq. 17, on
    log-ratios averaged over the answer's tokens. robust: Chowdhury et al. 2024, eq. 8. exo_pair: Ji
    et al. 2024, eq. 16
    at two answers. sigmoid_norm: sigmoid on averaged log-ratios. sft: negative log-likelihood of
      the chosen answers,
    averaged over tokens. Several types are summed with `loss_weights` (default: one each).

    `label_smoothing` is the probability that a preference is flipped; as in TRL it acts on robust
    and exo_pair only. `ld_alpha` (LD-DPO, Liu et al. 2024) weights the tokens beyond the shorter
    answer's length; None is 1.
    """

    beta: float = 0.1
    loss_type: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ld_alpha: float | None = None

    def __post_init__(self):
        types = (self.loss_type,) if isinstance(self.loss_type, str) else tuple(self.loss_type)
        weights = (
            (1.0,) * len(types)
            if self.loss_weights is None
            else tuple(map(float, self.loss_weights))
        )
        object.__setattr__(self, "loss_type", types)
        object.__setattr__(self, "loss_weights", weights)
        if not types or (unknown := [t for t in types if t not in DPO_LOSS_TYPES]):
            name = unknown[0] if types else ""
            raise BadInput(
                f"dpo.loss_type={name!r} is not known; choose from {', '.join(DPO_LOSS_TYPES)}"
            )
        if len(weights) != len(types):
            raise BadInput(
                f"dpo.loss_weights has {len(weights)} entries for {len(types)} loss types; give one"
                " each"
            )
        if not self.beta > 0:
            raise BadInput(f"dpo.beta={self.beta} must be positive")
        if not 0 <= self.label_smoothing < 0.5:
            raise BadInput(f"dpo.label_smoothing={self.label_smoothing} must lie in [0, 0.5)")
        smoothed = {"robust", "exo_pair"} & set(types)
        if self.label_smoothing and not smoothed:
            raise BadInput(
                "dpo.label_smoothing acts on loss_type 'robust' and 'exo_pair' only (as in TRL);"
                f" with {', '.join(types)} set it to 0 or use 'robust'"
            )
        if "exo_pair" in types and not self.label_smoothing:
            raise BadInput(
                "dpo.loss_type='exo_pair' takes the logarithm of label_smoothing; set it to 0.001"
                " or so"
            )
        if self.ld_alpha is not None and not 0 <= self.ld_alpha <= 1:
            raise BadInput(f"dpo.ld_alpha={self.ld_alpha} must lie in [0, 1]")


def answer_log_probs(
    logp_Bx2xT: Float[Array, "B 2 T"],
    answer_Bx2xT: Bool[Array, "B 2 T"],
    ld_alpha: float | None = None,
) -> Float[Array, "B 2"]:
    """Log-probability of each answer, summed over its tokens; `ld_alpha` weights the longer one's
    tail."""
    weight_Bx2xT = answer_Bx2xT.astype(jnp.float32)
    if ld_alpha is not None:
        place_Bx2xT = jnp.cumsum(weight_Bx2xT, axis=-1)  # 1 at the first token of the answer
        shared_Bx1x1 = jnp.min(place_Bx2xT[..., -1], axis=1)[:, None, None]
        weight_Bx2xT = jnp.where(place_Bx2xT > shared_Bx1x1, ld_alpha, 1.0) * weight_Bx2xT
    return jnp.sum(logp_Bx2xT * weight_Bx2xT, axis=-1)


def preference_loss(
    config: PreferenceLoss,
    logp_Bx2xT: Float[Array, "B 2 T"],
    answer_Bx2xT: Bool[Array, "B 2 T"],
    reference_Bx2: Float[Array, "B 2"],
    pairs: int | None = None,
    chosen_tokens: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss and what TRL logs beside it.

    Args:
      logp_Bx2xT: the policy's per-token log-probabilities; chosen at 0, rejected at 1 of the second
        axis.
      answer_Bx2xT: which tokens belong to the answer.
      reference_Bx2: `answer_log_probs` of the reference.
      pairs, chosen_tokens: pairs and chosen answers' tokens of the whole batch, where this is a
        part of it; loss and metrics of the parts then add up.
    """
    lengths_Bx2 = jnp.sum(answer_Bx2xT, axis=-1).astype(jnp.float32)
    pairs = logp_Bx2xT.shape[0] if pairs is None else pairs
    chosen_tokens = jnp.sum(lengths_Bx2[:, 0]) if chosen_tokens is None else chosen_tokens
    logps_Bx2 = answer_log_probs(logp_Bx2xT, answer_Bx2xT, config.ld_alpha)
    ratio_Bx2 = logps_Bx2 - reference_Bx2
    mean_Bx2 = ratio_Bx2 / jnp.maximum(lengths_Bx2, 1.0)

    loss = jnp.zeros((), jnp.float32)
    for kind, weight in zip(config.loss_type, config.loss_weights, strict=True):
        if kind == "sft":
            chosen = sft_loss(logp_Bx2xT[:, 0], answer_Bx2xT[:, 0], chosen_tokens)
            loss += weight * chosen
        else:
            gap_Bx2 = mean_Bx2 if kind in ("ipo", "sigmoid_norm") else ratio_Bx2
            loss += (
                weight * jnp.sum(_pair_loss(config, kind, gap_Bx2[:, 0] - gap_Bx2[:, 1])) / pairs
            )

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
    return loss, {"loss": loss} | {name: jnp.sum(value_B) / pairs for name, value_B in sums.items()}


def _pair_loss(config: PreferenceLoss, kind: str, gap_B: Float[Array, "B"]) -> Float[Array, "B"]:
    """One loss per pair from the difference of the log-ratios, chosen minus rejected."""
    z_B, eps = config.beta * gap_B, config.label_smoothing
    if kind in ("sigmoid", "sigmoid_norm"):
        return -jax.nn.log_sigmoid(z_B)
    if kind == "hinge":
        return jax.nn.relu(1.0 - z_B)
    if kind == "ipo":
        return (gap_B - 1.0 / (2.0 * config.beta)) ** 2
    if kind == "robust":
        return (-(1 - eps) * jax.nn.log_sigmoid(z_B) + eps * jax.nn.log_sigmoid(-z_B)) / (
            1 - 2 * eps
        )
    # exo_pair: reverse Kullback-Leibler divergence from the smoothed label (1 - eps, eps)
    right_B = jax.nn.sigmoid(z_B) * (jax.nn.log_sigmoid(z_B) - jnp.log1p(-eps))
    return right_B + jax.nn.sigmoid(-z_B) * (jax.nn.log_sigmoid(-z_B) - jnp.log(eps))
