"""Supervised fine-tuning, DPO and GRPO of rewriters.

`sft`, `dpo` and `grpo` train a `LanguageModel` on data from Python; the trainers are in
`sft_trainer`, `dpo_trainer` and `grpo_trainer`. Each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from pav_jax.lazy_names import lazy_names

if TYPE_CHECKING:
    from pav_jax.train.api import dpo, grpo, sft
    from pav_jax.train.config import DPOConfig, GRPOConfig, SFTConfig

_SOURCES = {
    "sft": "api",
    "dpo": "api",
    "grpo": "api",
    "SFTConfig": "config",
    "DPOConfig": "config",
    "GRPOConfig": "config",
}

__all__ = ["DPOConfig", "GRPOConfig", "SFTConfig", "dpo", "grpo", "sft"]

__getattr__ = lazy_names(__name__, _SOURCES)


def __dir__() -> list[str]:
    return sorted(__all__)
