"""A generator and rewards without models: videos show one pattern that the rewards know, a little
off by the seed."""

import zlib

import numpy as np

from pav_jax.rewards.suite import RewardSuite
from pav_jax.video import generator
from pav_jax.video.generator import NOT_FINITE, VideoBatch

PROMPTS = tuple(f"thing{i} colour{i} moves{i} slowly{i}" for i in range(12))
T, SIDE = 8, 32


def pattern() -> np.ndarray:
    """float [T, SIDE, SIDE, 3]: a bright and coloured square that walks over a dark ground."""
    video = np.full((T, SIDE, SIDE, 3), 60.0)
    for t in range(T):
        video[t, 8:24, 2 + 2 * t : 14 + 2 * t] = (220, 180, 120)
    return video


class Generator(generator.Generator):
    """Counts what it makes, can fail after so many calls; a text in `broken` comes out as NaN."""

    fingerprint = "fake"

    def __init__(self, dies_after=None, broken=()):
        self.made, self.dies_after, self.calls, self.broken = [], dies_after, 0, broken

    def generate(self, prompts, *, seed):
        if self.calls == self.dies_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.made += list(zip(prompts, seed, strict=True))
        off = [zlib.crc32(f"{p} {s}".encode()) % 7 - 3 for p, s in zip(prompts, seed, strict=True)]
        return (pattern() + np.reshape(off, (-1, 1, 1, 1, 1))).astype(np.uint8)

    def start(self, prompts, seed):
        errors = [NOT_FINITE if prompt in self.broken else None for prompt in prompts]
        return lambda: VideoBatch(self.generate(prompts, seed=seed), errors)


def likeness(videos) -> np.ndarray:
    """0 for the pattern itself, falling with the mean difference in grey levels."""
    return -np.abs(videos - pattern()).mean((1, 2, 3, 4))


class Reward:
    """A reward of one score; counts its calls' rows and can fail after so many calls."""

    def __init__(self, name, function, dies_after=None):
        self.names, self.function, self.calls, self.dies_after = (name,), function, 0, dies_after
        self.shapes = set()

    def score(self, videos, prompts, refined=None):
        if self.calls == self.dies_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.shapes.add(len(videos))
        return {
            self.names[0]: np.asarray(
                self.function(videos.astype(float), prompts, refined), np.float32
            )
        }


def watches(videos, prompts, refined):
    return likeness(videos)


def gambles(videos, prompts, refined):
    return [
        zlib.crc32(video.tobytes() + prompt.encode()) / 2**32
        for video, prompt in zip(videos, prompts, strict=True)
    ]


def reads(videos, prompts, refined):
    shared = [
        len(set(p.split()) & set(r.split())) / max(len(set(p.split())), 1)
        for p, r in zip(prompts, refined, strict=True)
    ]
    return likeness(videos) / 20 + 8 * np.asarray(shared)


def refuses_empty(videos, prompts, refined):
    if "" in prompts:
        raise ValueError("nothing to read: <b>")
    return likeness(videos)


def suite(dies_after=None) -> RewardSuite:
    """AES is good, VQ noise, TVA good and reads, MPS claims to read and does not."""
    rewards = [
        Reward("AES", watches, dies_after),
        Reward("VQ", gambles),
        Reward("TVA", reads),
        Reward("MPS", refuses_empty),
    ]
    return RewardSuite(rewards, {"AES": 1.0})
