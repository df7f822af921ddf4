"""What a video is judged by. Each name is fetched from its module when it is first used."""

import importlib
from typing import Any

_WHERE = {
    "Aesthetic": "aesthetic",
    "ClipAlignment": "clip_alignment",
    "ClipConsistency": "clip_consistency",
    "Faithfulness": "faithfulness",
    "I3DFeatures": "i3d_features",
    "MPS": "mps",
    "Motion": "motion",
    "PerceptualConsistency": "lpips",
    "Reward": "reward",
    "RewardSuite": "suite",
    "VideoScore": "videoscore",
    "VisionQuestions": "vision_questions",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
