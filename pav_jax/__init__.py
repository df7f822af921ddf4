"""pav_jax: prompt boosters for text-to-video models, evolved, tuned and measured in JAX.

Importing this package loads nothing heavy; each name below is fetched from its module when it is
first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "BadInput": "errors",
    "Booster": "booster.booster",
    "Candidate": "records",
    "GenerationConfig": "video.generation_config",
    "Generator": "video.generator",
    "LanguageModel": "language.language_model",
    "LoraConfig": "language.lora",
    "Preference": "records",
    "PromptPair": "records",
    "Refinement": "records",
    "RewardSuite": "rewards.suite",
    "VideoBatch": "video.generator",
    "VideoModel": "video.video_model",
    "as_generator": "video.generator",
    "load_generator": "video.loading",
}
_MODULES = (
    "checkpoints",
    "config",
    "defaults",
    "evaluate",
    "evolve",
    "language",
    "models",
    "parallel",
    "prefer",
    "recipe",
    "records",
    "report",
    "rewards",
    "train",
    "video",
)

__all__ = ["__version__", *_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
