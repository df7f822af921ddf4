"""Rewards: scores of videos. Each public name is imported from its module at first use."""

import importlib
from typing import Any

_MODULES = {
    "Aesthetic": "aesthetic",
    "ClipAlignment": "clip_alignment",
    "ClipConsistency": "clip_consistency",
    "Faithfulness": "faithfulness",
    "I3DFeatures": "i3d_features",
    "LPIPSConsistency": "lpips",
    "MPS": "mps",
    "Motion": "motion",
    "PretrainedReward": "reward",
    "Reward": "reward",
    "RewardSuite": "suite",
    "VideoScore": "videoscore",
    "VisionQuestions": "vision_questions",
    "as_reward": "reward",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
