"""Is the mini world worth optimising? `python -m pav_jax.mini.training.quality_check` prints the figures and fails
where one is missed.

- The oracle caption must beat the user's prompt on TVA and on AES by half a paired standard
  deviation or more.
- Another prompt's oracle caption must lose to the user's prompt on TVA: a fine video of something
  else is no use.
- CLIP must find subject, colour and motion of renders among their alternatives, 90 % or more each.
"""

import argparse
import json
import sys

import numpy as np

from pav_jax import defaults
from pav_jax.checkpoints.embedded import ROOT
from pav_jax.components import Parts
from pav_jax.mini import vocabulary as v
from pav_jax.mini import world as w
from pav_jax.mini.render import render
from pav_jax.mini.training.clip import FRAMES_SHOWN
from pav_jax.rewards.clip_tower import ClipTower

SEEDS = (0, 1)


def effects(parts: Parts, prompts: list[str], oracles: list[str]) -> dict[str, dict[str, float]]:
    """Mean and paired deviation units of (oracle - original) and (another's oracle - original) per
    reward."""
    scores = {}
    for name, texts in (
        ("original", prompts),
        ("oracle", oracles),
        ("shuffled", oracles[1:] + oracles[:1]),
    ):
        runs = []
        for seed in SEEDS:
            videos = parts.generator.generate(
                texts, seed=[seed * 10_000 + i for i in range(len(texts))]
            )
            runs.append(parts.suite.score(videos, prompts))
        scores[name] = {
            r: np.mean([run[r] for run in runs], axis=0) for r in ("TVA", "AES", "TC", "DD")
        }
    result = {}
    for name in ("oracle", "shuffled"):
        for reward, values in scores[name].items():
            gain = values - scores["original"][reward]
            result[f"{name} - original, {reward}"] = {
                "mean": float(gain.mean()),
                "d": float(gain.mean() / gain.std()),
            }
    return result


def retrieval(folder: str, count: int = 512) -> dict[str, float]:
    """Share of fresh renders whose true subject (colour, motion) CLIP ranks first, the other two
    being given."""
    rng = np.random.default_rng(71)
    scenes = [w.draw_scene(rng) for _ in range(count)]
    tower = ClipTower.load(folder)
    images = _unit(tower.embed_frames(render(scenes), FRAMES_SHOWN, "sheet")[:, 0])
    sizes = {"subject": w.SUBJECTS, "colour": w.COLOURS, "motion": w.MOTIONS}
    shares = {}
    for slot, names in sizes.items():
        right = 0
        for scene, image in zip(scenes, images, strict=True):
            truth = {s: getattr(scene, s) for s in sizes}
            texts = [_text(**(truth | {slot: i})) for i in range(len(names))]
            right += int((_unit(tower.embed_texts(texts)) @ image).argmax() == truth[slot])
        shares[slot] = right / count
    return shares


def _text(subject: int, colour: int, motion: int) -> str:
    noun = f"{v.COLOURS[w.COLOURS[colour]][0]} {v.SUBJECTS[w.SUBJECTS[subject]][0]}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} {v.MOTIONS[w.MOTIONS[motion]][0]}"


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--count", type=int, default=100, help="prompts of each evaluation set (default 100)"
    )
    count = parser.parse_args().count
    rows = []
    for name in ("in_domain", "held_out"):
        rows += [
            json.loads(line)
            for line in (ROOT / "prompts" / f"{name}.jsonl").read_text().splitlines()[:count]
        ]
    parts = Parts(defaults.get_config())
    found = retrieval(parts.suite.rewards[0].tower.folder)
    gains = effects(parts, [r["prompt"] for r in rows], [r["oracle"] for r in rows])
    checks = [(f"CLIP finds the {slot}", share, share >= 0.9) for slot, share in found.items()]
    checks += [
        (
            f"oracle - original, {r}: d",
            gains[f"oracle - original, {r}"]["d"],
            gains[f"oracle - original, {r}"]["d"] >= 0.5,
        )
        for r in ("TVA", "AES")
    ]
    checks += [
        (
            "shuffled - original, TVA: d",
            gains["shuffled - original, TVA"]["d"],
            gains["shuffled - original, TVA"]["d"] < 0,
        )
    ]
    for key, value in gains.items():
        print(f"{key}: mean {value['mean']:+.3f}, d {value['d']:+.2f}")
    for text, value, fine in checks:
        print(f"{'pass' if fine else 'MISS'}  {text} {value:.3f}")
    sys.exit(0 if all(fine for *_, fine in checks) else 1)


if __name__ == "__main__":
    main()
