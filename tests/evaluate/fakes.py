"""A generator and a suite without models: a video is its text's numbers, scores are read back from
the pixels."""

import zlib

import numpy as np

from pav_jax.video import generator


class Generator(generator.Generator):
    """Videos [B, 2, 4, 4, 3]; counts what it makes, can fail after so many calls."""

    fingerprint = "fake"
    fps = 4.0

    def __init__(self, dies_after: int | None = None):
        self.made, self.calls, self.shapes, self.dies_after = [], 0, set(), dies_after

    def generate(self, prompts, *, seed):
        if self.dies_after is not None and self.calls >= self.dies_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.shapes.add(len(prompts))
        self.made += list(zip(prompts, seed, strict=True))
        numbers = [zlib.crc32(f"{p}|{s}".encode()) for p, s in zip(prompts, seed, strict=True)]
        pixels = np.asarray(
            [
                [n >> 8 & 255, min(9 * len(p.split()), 255), s]
                for n, p, s in zip(numbers, prompts, seed, strict=True)
            ],
            np.uint8,
        )
        return np.broadcast_to(pixels[:, None, None, None], (len(prompts), 2, 16, 16, 3)).copy()


class Suite:
    """AES grows with the number of words, TVA is noise, FAITH asks for the prompt's words."""

    names = ("AES", "TVA", "FAITH")
    weights = {"AES": 1.0, "TVA": 1.0}

    def __init__(self, broken: str | None = None):
        self.broken, self.shapes = broken, set()

    def score(self, videos, prompts, refined=None):
        self.shapes.add(len(videos))
        flat = videos[:, 0, 0, 0].astype(np.float32)
        faith = [
            len(set(p.split()) & set(r.split())) / len(set(p.split()))
            for p, r in zip(prompts, refined, strict=True)
        ]
        aes = flat[:, 1] / 9
        aes[[p == self.broken for p in prompts]] = np.nan
        return {"AES": aes, "TVA": flat[:, 0] / 255, "FAITH": np.asarray(faith, np.float32)}
