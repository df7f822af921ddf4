"""pav_jax: prompt boosters for text-to-video models, in JAX.

Importing this package is quick: each name is imported from its module on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pav_jax.lazy_names import lazy_names

if TYPE_CHECKING:
    from pav_jax import rewards, train
    from pav_jax.booster.booster import Booster
    from pav_jax.booster.guard import Guard
    from pav_jax.config import load as load_config
    from pav_jax.errors import BadInput
    from pav_jax.evolve.proposer import ProposalRequest, Proposer
    from pav_jax.language.language_model import LanguageModel
    from pav_jax.language.lora import LoraConfig
    from pav_jax.recipe import Recipe
    from pav_jax.records import Candidate, Preference, PromptPair, Refinement
    from pav_jax.rewards.reward import Reward
    from pav_jax.rewards.suite import RewardSuite
    from pav_jax.train.config import DPOConfig, GRPOConfig, SFTConfig
    from pav_jax.video.generation_config import GenerationConfig
    from pav_jax.video.generator import Generator, VideoBatch
    from pav_jax.video.loading import load_generator
    from pav_jax.video.video_model import VideoModel

__version__ = "0.1.0"

# public name -> module, or MODULE:NAME
_SOURCES = {
    "BadInput": "errors",
    "Booster": "booster.booster",
    "Guard": "booster.guard",
    "Candidate": "records",
    "DPOConfig": "train.config",
    "GRPOConfig": "train.config",
    "GenerationConfig": "video.generation_config",
    "Generator": "video.generator",
    "LanguageModel": "language.language_model",
    "LoraConfig": "language.lora",
    "Preference": "records",
    "PromptPair": "records",
    "ProposalRequest": "evolve.proposer",
    "Proposer": "evolve.proposer",
    "Recipe": "recipe",
    "Refinement": "records",
    "Reward": "rewards.reward",
    "RewardSuite": "rewards.suite",
    "SFTConfig": "train.config",
    "VideoBatch": "video.generator",
    "VideoModel": "video.video_model",
    "load_config": "config:load",
    "load_generator": "video.loading",
}
_MODULES = ("rewards", "train")

__all__ = [
    "BadInput",
    "Booster",
    "Candidate",
    "DPOConfig",
    "GRPOConfig",
    "GenerationConfig",
    "Generator",
    "Guard",
    "LanguageModel",
    "LoraConfig",
    "Preference",
    "PromptPair",
    "ProposalRequest",
    "Proposer",
    "Recipe",
    "Refinement",
    "Reward",
    "RewardSuite",
    "SFTConfig",
    "VideoBatch",
    "VideoModel",
    "__version__",
    "load_config",
    "load_generator",
    "rewards",
    "train",
]


_get_name = lazy_names(__name__, _SOURCES)


def __getattr__(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}") if name in _MODULES else _get_name(name)


def __dir__() -> list[str]:
    return sorted(__all__)
