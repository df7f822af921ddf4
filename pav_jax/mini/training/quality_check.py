"""Checks that the mini world can be optimised. Prints the figures; exit status 1 if a check fails:

    python -m pav_jax.mini.training.quality_check

- The oracle caption must beat the user's prompt on TVA and on AES by at least half a paired
  standard deviation.
- The oracle caption of another prompt must lose to the user's prompt on TVA: a good video of
  something else must not win.
- CLIP must recognise the subject, colour and motion of renders in at least 90 % of the cases each.
"""

import argparse
import sys

import numpy as np

from pav_jax import defaults
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.components import Components
from pav_jax.mini import vocabulary as v
from pav_jax.mini import world as w
from pav_jax.mini.captions import with_article
from pav_jax.mini.render import render
from pav_jax.mini.training.clip import FRAMES_SHOWN
from pav_jax.mini.training.write_prompts import EVALUATION_SETS, read_evaluation_set
from pav_jax.rewards.clip_tower import ClipTower

SEEDS = (0, 1)
REWARDS = ("TVA", "AES", "TC", "DD")
MIN_EFFECT = 0.5  # paired standard deviations
MIN_RECOGNITION = 0.9


def reward_differences(
    components: Components, prompts: list[str], oracles: list[str]
) -> dict[str, dict[str, float]]:
    """Compares the videos of oracle captions, and of other prompts' oracle captions, with those of
    the prompts.

    Returns:
      {"oracle - original, REWARD" and "shuffled - original, REWARD": mean difference `mean`, and
      `d` in paired standard deviations}.
    """
    scores = {}
    systems = {"original": prompts, "oracle": oracles, "shuffled": oracles[1:] + oracles[:1]}
    for name, texts in systems.items():
        runs = []
        for seed in SEEDS:
            seeds = [seed * 10_000 + i for i in range(len(texts))]
            videos = components.generator.generate(texts, seed=seeds)
            runs.append(components.suite.score(videos, prompts))
        scores[name] = {r: np.mean([run[r] for run in runs], axis=0) for r in REWARDS}
    differences = {}
    for name in ("oracle", "shuffled"):
        for reward, values in scores[name].items():
            gain = values - scores["original"][reward]
            differences[f"{name} - original, {reward}"] = {
                "mean": float(gain.mean()),
                "d": float(gain.mean() / gain.std()),
            }
    return differences


def recognition(num_scenes: int = 512) -> dict[str, float]:
    """The share of fresh renders whose true subject (colour, motion) CLIP ranks first, given the
    other two."""
    rng = np.random.default_rng(71)
    scenes = [w.draw_scene(rng) for _ in range(num_scenes)]
    tower = ClipTower.load(CHECKPOINTS / "clip")
    images = _normalise(tower.embed_frames(render(scenes), FRAMES_SHOWN, "sheet")[:, 0])
    slots = {"subject": w.SUBJECTS, "colour": w.COLOURS, "motion": w.MOTIONS}
    shares = {}
    for slot, names in slots.items():
        num_correct = 0
        for scene, image in zip(scenes, images, strict=True):
            truth = {name: getattr(scene, name) for name in slots}
            texts = [_describe(**(truth | {slot: i})) for i in range(len(names))]
            ranked_first = (_normalise(tower.embed_texts(texts)) @ image).argmax()
            num_correct += int(ranked_first == truth[slot])
        shares[slot] = num_correct / num_scenes
    return shares


def _describe(subject: int, colour: int, motion: int) -> str:
    noun = f"{v.COLOURS[w.COLOURS[colour]][0]} {v.SUBJECTS[w.SUBJECTS[subject]][0]}"
    return f"{with_article(noun)} {v.MOTIONS[w.MOTIONS[motion]][0]}"


def _normalise(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def main() -> None:
    """Runs all checks."""
    parser = argparse.ArgumentParser(description="Checks that the mini world can be optimised.")
    parser.add_argument(
        "--count", type=int, default=100, help="prompts of each evaluation set (default 100)"
    )
    count = parser.parse_args().count
    rows = [row for name in EVALUATION_SETS for row in read_evaluation_set(name)[:count]]
    checks = [
        (f"CLIP recognises the {slot}", share, share >= MIN_RECOGNITION)
        for slot, share in recognition().items()
    ]
    differences = reward_differences(
        Components(defaults.get_config()),
        [row["prompt"] for row in rows],
        [row["oracle"] for row in rows],
    )
    for name in ("oracle - original, TVA", "oracle - original, AES"):
        effect = differences[name]["d"]
        checks.append((f"{name}: d", effect, effect >= MIN_EFFECT))
    effect = differences["shuffled - original, TVA"]["d"]
    checks.append(("shuffled - original, TVA: d", effect, effect < 0))
    for name, difference in differences.items():
        print(f"{name}: mean {difference['mean']:+.3f}, d {difference['d']:+.2f}")
    for text, value, passed in checks:
        print(f"{'pass' if passed else 'FAIL'}  {text} {value:.3f}")
    sys.exit(0 if all(passed for _, _, passed in checks) else 1)


if __name__ == "__main__":
    main()
