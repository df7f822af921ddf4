"""Rewards: scores of videos and rewrites. Public names are imported at first use."""

from typing import TYPE_CHECKING

from pav_jax.lazy_names import lazy_names

if TYPE_CHECKING:
    from pav_jax.rewards.aesthetic import Aesthetic
    from pav_jax.rewards.clip_alignment import ClipAlignment
    from pav_jax.rewards.clip_consistency import ClipConsistency
    from pav_jax.rewards.faithfulness import Faithfulness
    from pav_jax.rewards.hpsv3 import HPSv3
    from pav_jax.rewards.i3d_features import I3DFeatures
    from pav_jax.rewards.length import Length
    from pav_jax.rewards.likelihood import Likelihood
    from pav_jax.rewards.lpips import LPIPSConsistency
    from pav_jax.rewards.motion import Motion
    from pav_jax.rewards.mps import MPS
    from pav_jax.rewards.reward import PretrainedReward, Reward, as_reward
    from pav_jax.rewards.suite import RewardSuite
    from pav_jax.rewards.text_rubric import TextRubric
    from pav_jax.rewards.videoreward import VideoReward
    from pav_jax.rewards.videoscore import VideoScore
    from pav_jax.rewards.videoscore_qwen2_vl import VideoScoreQwen2VL
    from pav_jax.rewards.vision_questions import VisionQuestions
    from pav_jax.rewards.vqascore import VQAScore

_SOURCES = {
    "Aesthetic": "aesthetic",
    "ClipAlignment": "clip_alignment",
    "ClipConsistency": "clip_consistency",
    "Faithfulness": "faithfulness",
    "HPSv3": "hpsv3",
    "I3DFeatures": "i3d_features",
    "LPIPSConsistency": "lpips",
    "Length": "length",
    "Likelihood": "likelihood",
    "MPS": "mps",
    "Motion": "motion",
    "PretrainedReward": "reward",
    "Reward": "reward",
    "RewardSuite": "suite",
    "TextRubric": "text_rubric",
    "VQAScore": "vqascore",
    "VideoReward": "videoreward",
    "VideoScore": "videoscore",
    "VideoScoreQwen2VL": "videoscore_qwen2_vl",
    "VisionQuestions": "vision_questions",
    "as_reward": "reward",
}

__all__ = [
    "Aesthetic",
    "ClipAlignment",
    "ClipConsistency",
    "Faithfulness",
    "HPSv3",
    "I3DFeatures",
    "LPIPSConsistency",
    "Length",
    "Likelihood",
    "MPS",
    "Motion",
    "PretrainedReward",
    "Reward",
    "RewardSuite",
    "TextRubric",
    "VQAScore",
    "VideoReward",
    "VideoScore",
    "VideoScoreQwen2VL",
    "VisionQuestions",
    "as_reward",
]

__getattr__ = lazy_names(__name__, _SOURCES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
