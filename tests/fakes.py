"""A generator, a suite and a rewriter that answer at once, each from the words alone, and count
what they are asked."""

import hashlib

import numpy as np
from ml_collections import ConfigDict

from pav_jax.video import generator


def number(*parts) -> float:
    """In [0, 1), from the words."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


class Generator(generator.Generator):
    fingerprint = "stand-in"
    fps = 8

    def __init__(self, dtype=np.uint8, broken=()):
        self.made, self.sizes, self.dtype, self.broken = [], [], dtype, set(broken)

    def generate(self, prompts, *, seed):
        self.sizes.append(len(prompts))
        self.made += list(dict.fromkeys(zip(prompts, seed, strict=True)))
        values = [int(256 * number("video", p, s)) for p, s in zip(prompts, seed, strict=True)]
        videos = np.ones((len(values), 2, 8, 8, 3), self.dtype) * np.asarray(
            values, self.dtype
        ).reshape(-1, 1, 1, 1, 1)
        for i, p in enumerate(prompts):
            if p in self.broken:
                videos[i] = np.nan
        return videos


class Suite:
    names = ("AES", "TVA", "FAITH")
    weights = {"AES": 1.0, "TVA": 1.0}
    thresholds: dict = {}
    constraints: dict = {}

    def __init__(self, nan=(), value=None):
        self.nan, self.sizes, self.value = set(nan), [], value

    def score(self, videos, prompts, refined=None):
        self.sizes.append(len(videos))
        aes = videos.reshape(len(videos), -1).mean(axis=1).astype(np.float32) / 255
        if self.value:
            aes = np.asarray(
                [self.value(p, r) for p, r in zip(prompts, refined, strict=True)], np.float32
            )
        tva = np.asarray(
            [
                np.nan if r in self.nan else number("tva", p, r)
                for p, r in zip(prompts, refined, strict=True)
            ]
        )
        return {
            "AES": aes,
            "TVA": tva.astype(np.float32) * (0 if self.value else 1),
            "FAITH": np.ones(len(videos), np.float32),
        }

    def overall(self, scores, weights=None):
        return sum(w * np.asarray(scores[n]) for n, w in (weights or self.weights).items())


class Rewriter:
    """The part of a LanguageModel that stages use."""

    def __init__(
        self,
        answer=lambda prompt, k, seed: f"{prompt}, take {k}, {int(1e6 * number(prompt, k, seed))}",
    ):
        self.asked, self.answer = [], answer

    def generate(self, prompts, num_return_sequences=1, seed=0, **sampling):
        assert all(isinstance(chat, list) and chat[-1]["role"] == "user" for chat in prompts)
        self.asked += [(chat[-1]["content"], s) for chat, s in zip(prompts, seed, strict=True)]
        return [
            [self.answer(chat[-1]["content"], k, s) for k in range(num_return_sequences)]
            for chat, s in zip(prompts, seed, strict=True)
        ]


def config(**changes) -> ConfigDict:
    settings = ConfigDict(
        {
            "seed": 7,
            "generator": {"batch_size": 4},
            "proposers": {"local": {"kind": "local"}},
            "evolve": {
                "rounds": 2,
                "children": 3,
                "top": 2,
                "keep_videos": "none",
                "propose_batch": 2,
            },
            "select": {"min_gain": 0.0},
            "prefer": {"samples": 3, "margin": 0.1, "sample_batch": 2},
        }
    )
    for key, value in changes.items():
        room, _, field = key.partition("__")
        settings[room][field] = value
    return settings


PROMPTS = [
    "a red ball bouncing",
    "a blue fish swims",
    "two dogs run",
    "a girl is playing guitar",
    "rain on a window",
]
