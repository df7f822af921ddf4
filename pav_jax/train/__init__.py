"""Supervised fine-tuning, DPO and GRPO of rewriters.

`sft`, `dpo` and `grpo` train a `LanguageModel` on data from Python; the trainers are in
`sft_trainer`, `dpo_trainer` and `grpo_trainer`. Each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pav_jax.train.api import dpo, grpo, sft
    from pav_jax.train.config import DPOConfig, GRPOConfig, SFTConfig

_MODULE_OF = {
    "sft": "api",
    "dpo": "api",
    "grpo": "api",
    "SFTConfig": "config",
    "DPOConfig": "config",
    "GRPOConfig": "config",
}

__all__ = ["DPOConfig", "GRPOConfig", "SFTConfig", "dpo", "grpo", "sft"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
