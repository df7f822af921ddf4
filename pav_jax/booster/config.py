"""The fields of a configuration about boosters, with their defaults."""

import dataclasses

from pav_jax.config_fields import option


@dataclasses.dataclass
class GuardConfig:
    """The intent guard (booster/guard.py) of evaluation, evolution and preference sampling."""

    mode: str = option(
        "off",
        "on: evaluated boosters are guarded, and unfaithful proposals and samples are left out;"
        " auto: the same, and long or structured prompts stay unchanged",
        choices=("off", "auto", "on"),
    )
    fidelity: float = option(0.9, "least FAITH of a rewrite", minimum=0, maximum=1)
    max_words: int | None = option(None, "of a rewrite; None: no limit", minimum=3)
    language: str = option(
        "en", "any: also rewrite prompts that are not English", choices=("en", "any")
    )
    samples: int = option(4, "of a booster, of which the most faithful is evaluated", minimum=1)


@dataclasses.dataclass
class BoosterConfig:
    """How boosters are used in the stages."""

    guard: GuardConfig = option(GuardConfig, "what rewrites must keep")
