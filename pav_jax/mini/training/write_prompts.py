"""Writes the mini configuration's prompt files: `python -m pav_jax.mini.training.write_prompts`.

Training prompts (evolve, prefer) and the `in_domain` set are of seen (subject, colour, motion)
triples, all prompts different from each other; the `held_out` set is of triples no model has seen.
The two evaluation sets carry the oracle: the generator's own caption of a scene that fits the
prompt, asking for good picture quality. `wan_in_domain` and `wan_held_out` are the same prompts and
scenes with the second generator's captions.
"""

import collections
import dataclasses
import json
from collections.abc import Callable

import numpy as np

from pav_jax.checkpoints.embedded import ROOT
from pav_jax.mini.captions import caption, tag_caption, user_prompt
from pav_jax.mini.world import QUALITIES, Scene, draw_scene, triples

FOLDER = ROOT / "prompts"
EVALUATION = ("in_domain", "held_out")
# How many of which file, in the order they are drawn. The sets of evaluation have grown: what is
# drawn last changes nothing that came before.
DRAWN = (
    ("in_domain", 100),
    ("held_out", 100),
    ("evolve", 128),
    ("prefer", 256),
    ("in_domain", 100),
    ("held_out", 100),
)
ORACLES = {"": caption, "wan_": tag_caption}  # before a file's name: whose captions


def oracle(scene: Scene, rng: np.random.Generator, speak: Callable[..., str] = caption) -> str:
    good = dataclasses.replace(scene, quality=(2,) * len(QUALITIES))
    return speak(good, rng, canonical=1.0)


def main() -> None:
    rng = np.random.default_rng(61)
    rngs = {"": rng, "wan_": np.random.default_rng(62)}
    seen: set[str] = set()

    def draw(held_out: bool, triple=None) -> tuple[Scene, str]:
        while True:
            scene = draw_scene(rng, held_out, triple)
            prompt = user_prompt(scene, rng)
            if prompt not in seen:
                seen.add(prompt)
                return scene, prompt

    lines: dict[str, list[str]] = collections.defaultdict(list)
    for name, count in DRAWN:
        held = triples()[1] if name == "held_out" else []
        for i in range(count):
            scene, prompt = draw(name == "held_out", held[i % len(held)] if held else None)
            if name not in EVALUATION:
                lines[f"{name}.txt"].append(prompt)
                continue
            for prefix, speak in ORACLES.items():
                row = {"prompt": prompt, "oracle": oracle(scene, rngs[prefix], speak)}
                lines[f"{prefix}{name}.jsonl"].append(json.dumps(row))
    FOLDER.mkdir(exist_ok=True)
    for name, text in lines.items():
        (FOLDER / name).write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
