"""Writes the prompt files of the mini configuration:

    python -m pav_jax.mini.training.write_prompts

The training sets (evolve, prefer) and `in_domain` have training (subject, colour, motion) triples,
`held_out` has held-out triples. All prompts differ. The rows of the two evaluation sets also have
an
oracle: the generator's own caption of a scene that fits the prompt, with good picture quality.
`wan_in_domain` and `wan_held_out` have the same prompts and scenes with the second generator's
captions.
"""

import collections
import dataclasses
import json
from collections.abc import Callable

import numpy as np

from pav_jax.checkpoints.embedded import ROOT
from pav_jax.mini.captions import caption, tag_caption, user_prompt
from pav_jax.mini.world import QUALITIES, Scene, draw_scene, split_triples, to_quality

FOLDER = ROOT / "prompts"
EVALUATION_SETS = ("in_domain", "held_out")
# (file, number of prompts) in the order in which they are drawn. The evaluation sets were extended
# later: what is drawn last leaves the earlier prompts unchanged.
DRAWN = (
    ("in_domain", 100),
    ("held_out", 100),
    ("evolve", 128),
    ("prefer", 256),
    ("in_domain", 100),
    ("held_out", 100),
)
ORACLES = {"": caption, "wan_": tag_caption}  # prefix of the file's name -> whose captions


def oracle_caption(
    scene: Scene, rng: np.random.Generator, make_caption: Callable[..., str] = caption
) -> str:
    """The caption of the scene with good picture quality and the generator's favourite words."""
    good = dataclasses.replace(scene, quality=to_quality((2,) * len(QUALITIES)))
    return make_caption(good, rng, canonical=1.0)


def read_evaluation_set(name: str) -> list[dict[str, str]]:
    """The rows of an evaluation set: {"prompt": ..., "oracle": ...}."""
    lines = (ROOT / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class _PromptDrawer:
    """Draws scenes until their prompt is new."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._seen: set[str] = set()

    def __call__(self, held_out: bool, triple=None) -> tuple[Scene, str]:
        while True:
            scene = draw_scene(self._rng, held_out, triple)
            prompt = user_prompt(scene, self._rng)
            if prompt not in self._seen:
                self._seen.add(prompt)
                return scene, prompt


def main() -> None:
    """Writes all files."""
    rng = np.random.default_rng(61)
    rngs = {"": rng, "wan_": np.random.default_rng(62)}
    draw = _PromptDrawer(rng)
    lines: dict[str, list[str]] = collections.defaultdict(list)
    for name, count in DRAWN:
        held_out = split_triples()[1] if name == "held_out" else []
        for i in range(count):
            triple = held_out[i % len(held_out)] if held_out else None
            scene, prompt = draw(name == "held_out", triple)
            if name not in EVALUATION_SETS:
                lines[f"{name}.txt"].append(prompt)
                continue
            for prefix, make_caption in ORACLES.items():
                oracle = oracle_caption(scene, rngs[prefix], make_caption)
                row = {"prompt": prompt, "oracle": oracle}
                lines[f"{prefix}{name}.jsonl"].append(json.dumps(row))
    FOLDER.mkdir(exist_ok=True)
    for name, text in lines.items():
        (FOLDER / name).write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
