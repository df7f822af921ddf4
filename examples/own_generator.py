"""Use your own video generator.

    python examples/own_generator.py --workdir=runs/own_generator

Subclass `pav.Generator`: `generate` makes one uint8 video per prompt and seed, `fingerprint` names
what made them (weights and settings), so that recorded videos are found again. In a configuration
file the same generator is `generator.path = "examples.own_generator:Bouncing"`.
"""

import argparse
from collections.abc import Sequence

import numpy as np

import pav_jax as pav

COLORS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
NUM_FRAMES = 9
HEIGHT = 64
WIDTH = 64


class Bouncing(pav.Generator):
    """A ball in the color that the prompt names, on a background of random brightness."""

    fingerprint = "bouncing-1"
    fps = 8.0

    def generate(self, prompts: Sequence[str], *, seed: Sequence[int]) -> np.ndarray:
        """Return uint8 videos [B, T, H, W, 3]."""
        return np.stack([self._video(p, s) for p, s in zip(prompts, seed, strict=True)])

    def _video(self, prompt: str, seed: int) -> np.ndarray:
        color = next((rgb for name, rgb in COLORS.items() if name in prompt.lower()), (90, 90, 90))
        rng = np.random.default_rng(seed)
        video = np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), rng.integers(100, 255), np.uint8)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        for t, frame in enumerate(video):
            y = HEIGHT - 12 - abs(np.sin(t * np.pi / 4)) * 30
            frame[(rows - y) ** 2 + (columns - WIDTH / 2) ** 2 < 100] = color
        return video


def main(workdir: str, config_name: str = "smoke") -> None:
    config = pav.load_config(config_name)
    config.rewards.thresholds = {}  # they fit the scores of the embedded generator
    report = pav.Recipe(config, generator=Bouncing()).run(workdir)
    print(f"report: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/own_generator")
    main(parser.parse_args().workdir)
