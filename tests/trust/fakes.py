"""A generator and rewards without models, for trust tests.

Videos show one pattern, brighter or darker with the seed. Rewards compare videos with the pattern.
"""

import zlib

import numpy as np

from pav_jax.rewards.reward import Reward
from pav_jax.rewards.suite import RewardSuite
from pav_jax.video.generator import NOT_FINITE, Generator, VideoBatch

PROMPTS = tuple(f"thing{i} colour{i} moves{i} slowly{i}" for i in range(12))
NUM_FRAMES = 8
SIDE = 32
CAPTION_REFUSED = "no caption: <b>"


def make_pattern() -> np.ndarray:
    """float [NUM_FRAMES, SIDE, SIDE, 3]: a bright square moves across a dark background."""
    video = np.full((NUM_FRAMES, SIDE, SIDE, 3), 60.0)
    for t in range(NUM_FRAMES):
        video[t, 8:24, 2 + 2 * t : 14 + 2 * t] = (220, 180, 120)
    return video


class PatternGenerator(Generator):
    """Makes the pattern.

    Args:
      interrupt_after: number of calls before one is interrupted.
      failing_prompts: prompts whose videos are reported as not finite.

    Attributes:
      num_calls: of `generate`.
      requests: (prompt, seed) of every video, padding included.
    """

    fingerprint = "fake"

    def __init__(self, interrupt_after=None, failing_prompts=()):
        self.interrupt_after = interrupt_after
        self.failing_prompts = failing_prompts
        self.num_calls = 0
        self.requests = []

    def generate(self, prompts, *, seed):
        if self.num_calls == self.interrupt_after:
            raise KeyboardInterrupt
        self.num_calls += 1
        self.requests += zip(prompts, seed, strict=True)
        offsets = [
            zlib.crc32(f"{p} {s}".encode()) % 7 - 3 for p, s in zip(prompts, seed, strict=True)
        ]
        return (make_pattern() + np.reshape(offsets, (-1, 1, 1, 1, 1))).astype(np.uint8)

    def start(self, prompts, seed):
        errors = [NOT_FINITE if prompt in self.failing_prompts else None for prompt in prompts]
        return lambda: VideoBatch(self.generate(prompts, seed=seed), errors)


class FunctionReward(Reward):
    """A reward of one score from `function(videos, prompts, refined)`; can be interrupted.

    Attributes:
      num_calls: of `score`.
      batch_sizes: of all calls.
    """

    def __init__(self, name, function, interrupt_after=None):
        self.names = (name,)
        self.function = function
        self.interrupt_after = interrupt_after
        self.num_calls = 0
        self.batch_sizes = set()

    def score(self, videos, prompts, refined=None):
        if self.num_calls == self.interrupt_after:
            raise KeyboardInterrupt
        self.num_calls += 1
        self.batch_sizes.add(len(videos))
        scores = self.function(videos.astype(float), prompts, refined)
        return {self.names[0]: np.asarray(scores, np.float32)}


def similarity(videos, prompts, refined):
    """0 for the pattern, minus the mean absolute difference in grey levels otherwise."""
    return -np.abs(videos - make_pattern()).mean((1, 2, 3, 4))


def random_scores(videos, prompts, refined):
    return [
        zlib.crc32(video.tobytes() + prompt.encode()) / 2**32
        for video, prompt in zip(videos, prompts, strict=True)
    ]


def prompt_overlap(videos, prompts, refined):
    """Similarity and the share of the prompt's words that the video was made from."""
    shares = [
        len(set(p.split()) & set(r.split())) / max(len(set(p.split())), 1)
        for p, r in zip(prompts, refined, strict=True)
    ]
    return similarity(videos, prompts, refined) / 20 + 8 * np.asarray(shares)


def similarity_with_caption(videos, prompts, refined):
    """Similarity, but refuses empty captions."""
    if "" in prompts:
        raise ValueError(CAPTION_REFUSED)
    return similarity(videos, prompts, refined)


def make_suite(interrupt_after=None) -> RewardSuite:
    """AES is usable, VQ is noise, TVA is usable and reads the prompt, MPS ignores the prompt."""
    rewards = [
        FunctionReward("AES", similarity, interrupt_after),
        FunctionReward("VQ", random_scores),
        FunctionReward("TVA", prompt_overlap),
        FunctionReward("MPS", similarity_with_caption),
    ]
    return RewardSuite(rewards, {"AES": 1.0})
