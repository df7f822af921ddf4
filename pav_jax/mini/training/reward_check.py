"""Measures the mini VideoScore, MPS and VideoReward on unseen scenes and unseen corruption types.
Prints the figures; exit status 1 if a check fails:

    python -m pav_jax.mini.training.reward_check

- Each dimension of VideoScore, and visual and motion quality of VideoReward, must rank the
  severities of its unseen types (`HELD_OUT`): mean rank correlation of at least 0.6.
- VideoReward's text alignment of videos with their own prompts must exceed that with others: AUC of
  at least 0.8, both for prompts that are wrong throughout and for those of other videos.
- MPS must prefer the less corrupted of two videos' frames, and the prompt's own video to another
  prompt's, in at least 80 % of the cases each.

Half of the videos are passed through the generator's VAE. The sign of correlations is inverted: 1
is a score that falls with every severity.
"""

import argparse
import sys
from collections.abc import Mapping

import numpy as np

from pav_jax.mini.render import render
from pav_jax.mini.training import training_videos
from pav_jax.mini.training.clip import make_reconstruct
from pav_jax.mini.training.corruption_labels import (
    CHANGES,
    HELD_OUT,
    PROMPT_SLOTS,
    change_scene,
    corrupt,
    draw_prompt,
)
from pav_jax.mini.training.mps import CONDITION
from pav_jax.mini.training.mps import FOLDER as MPS_FOLDER
from pav_jax.mini.training.videoreward import FOLDER as VIDEOREWARD_FOLDER
from pav_jax.mini.training.videoreward import TEMPLATE
from pav_jax.mini.training.videoscore import FOLDER, QUERY
from pav_jax.mini.training.videoscore_examples import FRAMES_SHOWN
from pav_jax.rewards.mps import MPS
from pav_jax.rewards.videoreward import VideoReward
from pav_jax.rewards.videoscore import VideoScore
from pav_jax.trust.corruptions import CAPTION_CORRUPTIONS, NUM_SEVERITIES, corrupt_caption
from pav_jax.trust.measures import auc, severity_correlations

MIN_CORRELATION = 0.6
MIN_PREFERENCE = 0.8
MIN_AUC = 0.8
TRAINED = {
    "VQ": ("noise", "blur", "darkness"),
    "TC": ("flicker", "jump", "tint"),
    "DD": ("freeze",),
    "TVA": ("wrong caption",),
    "FC": ("jump", "colour change", "place change"),
}
FRAME_KINDS = HELD_OUT["VQ"]  # MPS sees single frames
# VideoReward's dimensions that do not depend on the prompt
VIDEOREWARD_TRAINED = {"VR_VQ": TRAINED["VQ"], "VR_MQ": (*TRAINED["TC"], *TRAINED["DD"])}
VIDEOREWARD_HELD_OUT = {"VR_VQ": HELD_OUT["VQ"], "VR_MQ": (*HELD_OUT["TC"], *HELD_OUT["DD"])}

Row = tuple[str, float, float | None]  # what is measured, its value, the required value


class TestVideos:
    """Scenes that no training has drawn, with user prompts, and their corrupted versions.

    Args:
      num_scenes: number of scenes.
      reconstruct: pass the first half of the videos through the generator's VAE.
    """

    __test__ = False  # not a test case of pytest

    def __init__(self, num_scenes: int, seed: int = 91, reconstruct: bool = True):
        rng = np.random.default_rng(seed)
        self.scenes = training_videos.draw_scenes(num_scenes, seed)
        self.videos = render(self.scenes)
        if reconstruct:
            self.videos[: num_scenes // 2] = make_reconstruct()(self.videos[: num_scenes // 2])
        self.prompts = [draw_prompt(scene, (), rng)[0] for scene in self.scenes]
        self.wrong_prompts = [draw_prompt(scene, PROMPT_SLOTS, rng)[0] for scene in self.scenes]

    def corrupted(self, kind: str) -> tuple[np.ndarray, list[str]]:
        """Every video and prompt in all severities of a corruption.

        Returns:
          Videos [num_scenes * NUM_SEVERITIES, ...] and prompts, the severities of one video next to
          each other.
        """
        rng = np.random.default_rng(92)
        changed = None
        if kind in CHANGES:
            changed = render([change_scene(scene, kind, rng) for scene in self.scenes])
        videos = []
        prompts = []
        for i, (video, prompt) in enumerate(zip(self.videos, self.prompts, strict=True)):
            for severity in range(NUM_SEVERITIES):
                if kind in CAPTION_CORRUPTIONS:
                    other_prompt = self.wrong_prompts[i]
                    videos.append(video)
                    prompts.append(corrupt_caption(prompt, other_prompt, kind, severity))
                else:
                    other = None if changed is None else changed[i]
                    videos.append(corrupt(video, kind, severity, i, other))
                    prompts.append(prompt)
        return np.stack(videos), prompts


def load_videoscore() -> VideoScore:
    """The embedded VideoScore with the query and the frames of its training."""
    return VideoScore.from_pretrained(FOLDER, query=QUERY, frames=FRAMES_SHOWN)


def load_mps() -> MPS:
    """The embedded MPS with the condition of its training."""
    return MPS.from_pretrained(MPS_FOLDER, condition=CONDITION)


def load_videoreward() -> VideoReward:
    """The embedded VideoReward with the template of its training."""
    return VideoReward.from_pretrained(VIDEOREWARD_FOLDER, template=TEMPLATE, batch_size=16)


def severity_ranking(
    reward: VideoScore | VideoReward, test_videos: TestVideos, kinds: Mapping[str, tuple[str, ...]]
) -> dict[str, float]:
    """Rank correlations of severity and score, with inverted sign, mean over videos.

    Args:
      kinds: dimension -> corruption types.

    Returns:
      {"dimension, type": correlation}.
    """
    scores: dict[str, dict[str, np.ndarray]] = {}
    correlations = {}
    for dimension, dimension_kinds in kinds.items():
        for kind in dimension_kinds:
            if kind not in scores:
                scores[kind] = reward.score(*test_videos.corrupted(kind))
            table = scores[kind][dimension].reshape(-1, NUM_SEVERITIES)
            per_video = severity_correlations(table, range(NUM_SEVERITIES))
            correlations[f"{dimension}, {kind}"] = -float(np.mean(per_video))
    return correlations


def preference_accuracy(mps: MPS, test_videos: TestVideos) -> dict[str, float]:
    """How often MPS prefers the clean video to the corrupted one (severities 2 to 4) by corruption
    type, and the prompt's own video to another's."""
    shares = {}
    for kind in FRAME_KINDS:
        scores = mps.score(*test_videos.corrupted(kind))["MPS"].reshape(-1, NUM_SEVERITIES)
        shares[kind] = float(np.mean(scores[:, :1] > scores[:, 2:]))
    prompts = test_videos.prompts
    own = mps.score(test_videos.videos, prompts)["MPS"]
    other = mps.score(np.roll(test_videos.videos, 1, 0), prompts)["MPS"]
    return shares | {"another prompt's video": float(np.mean(own > other))}


def alignment_auc(reward: VideoReward, test_videos: TestVideos) -> dict[str, float]:
    """AUC of text alignment of videos with their own prompts against that with prompts that are
    wrong in all slots, and with those of other videos."""

    def scores(prompts: list[str]) -> np.ndarray:
        return reward.score(test_videos.videos, prompts)["VR_TA"]

    own = scores(test_videos.prompts)
    others = test_videos.prompts[1:] + test_videos.prompts[:1]
    return {
        "wrong prompts": auc(own, scores(test_videos.wrong_prompts)),
        "other videos' prompts": auc(own, scores(others)),
    }


def main() -> None:
    """Runs all checks."""
    parser = argparse.ArgumentParser(
        description="Measures the mini VideoScore, MPS and VideoReward."
    )
    parser.add_argument("--count", type=int, default=64, help="fresh scenes (default 64)")
    parser.add_argument("--only", choices=CHECKS, help="one of the models (default all)")
    args = parser.parse_args()
    if args.count < 2:
        parser.error("argument --count: must be at least 2, half of the videos are reconstructed")
    test_videos = TestVideos(args.count)
    rows: list[Row] = []
    for name, check in CHECKS.items():
        if args.only in (None, name):
            rows += check(test_videos)
    for text, value, required in rows:
        print(f"{_verdict(value, required)} {text} {value:.3f}")
    sys.exit(0 if all(_verdict(value, required) != "FAIL" for _, value, required in rows) else 1)


def _check_videoscore(test_videos: TestVideos) -> list[Row]:
    return _ranking_rows("VideoScore", load_videoscore(), test_videos, TRAINED, HELD_OUT)


def _check_mps(test_videos: TestVideos) -> list[Row]:
    return [
        (f"MPS prefers to {kind}", share, MIN_PREFERENCE)
        for kind, share in preference_accuracy(load_mps(), test_videos).items()
    ]


def _check_videoreward(test_videos: TestVideos) -> list[Row]:
    reward = load_videoreward()
    kinds = (VIDEOREWARD_TRAINED, VIDEOREWARD_HELD_OUT)
    rows = _ranking_rows("VideoReward", reward, test_videos, *kinds)
    for kind, value in alignment_auc(reward, test_videos).items():
        rows.append((f"VideoReward, VR_TA, AUC against {kind}", value, MIN_AUC))
    return rows


CHECKS = {"videoscore": _check_videoscore, "mps": _check_mps, "videoreward": _check_videoreward}


def _ranking_rows(
    title: str,
    reward: VideoScore | VideoReward,
    test_videos: TestVideos,
    trained_kinds: Mapping[str, tuple[str, ...]],
    held_out_kinds: Mapping[str, tuple[str, ...]],
) -> list[Row]:
    trained = severity_ranking(reward, test_videos, trained_kinds)
    held_out = severity_ranking(reward, test_videos, held_out_kinds)
    rows: list[Row] = []
    rows += [(f"{title}, trained on: {key}", value, None) for key, value in trained.items()]
    rows += [(f"{title}, held out: {key}", value, None) for key, value in held_out.items()]
    for name in held_out_kinds:
        values = [value for key, value in held_out.items() if key.startswith(f"{name}, ")]
        mean = float(np.mean(values))
        rows.append((f"{title}, {name} on unseen corruption types", mean, MIN_CORRELATION))
    return rows


def _verdict(value: float, required: float | None) -> str:
    if required is None:
        return "    "
    return "pass" if value >= required else "FAIL"


if __name__ == "__main__":
    main()
