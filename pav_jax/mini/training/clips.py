"""The videos that the mini judges learn from: renders, their VAE reconstructions, and what the
generator makes.

They are made once, in a few minutes, and kept under `fit.WORK`. Picture qualities are drawn evenly,
so that there are as many good and poor videos as middling ones; scenes are of seen triples only.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from rich.progress import track

from pav_jax import defaults
from pav_jax.components import Parts
from pav_jax.mini.captions import caption
from pav_jax.mini.render import render
from pav_jax.mini.training import fit
from pav_jax.mini.training.clip import rebuilder
from pav_jax.mini.training.damage import DOUBLE_TURN, turned
from pav_jax.mini.world import QUALITIES, Scene, draw_scene

RENDERS, REBUILT = (
    12288,
    1024,
)  # VideoScore's; the first REBUILT of the renders have been through the VAE
TURNED = 2048  # for each kind of turn: second videos of so many of the plain renders
GENERATED = (
    768  # pairs of neighbours show one scene, with one seed, in two sets of picture qualities
)
TURN_KINDS = ("colour turn", "place turn", DOUBLE_TURN)

Videos = UInt8[np.ndarray, "B T H W 3"]


def scenes(count: int, seed: int, same: int = 1) -> list[Scene]:
    """Scenes with picture qualities drawn evenly; runs of `same` scenes differ in these alone."""
    rng = np.random.default_rng(seed)
    drawn = [draw_scene(rng) for _ in range(count // same)]
    return [
        dataclasses.replace(
            scene, quality=tuple(int(q) for q in rng.integers(0, 3, len(QUALITIES)))
        )
        for scene in drawn
        for _ in range(same)
    ]


def generated_scenes() -> list[Scene]:
    """Every fourth scene asks for good pictures throughout, the one before it for poor ones."""
    listed = scenes(GENERATED, 83, same=2)
    return [
        dataclasses.replace(s, quality=(2 * (i % 2),) * len(QUALITIES)) if i % 4 > 1 else s
        for i, s in enumerate(listed)
    ]


def turn_scenes(listed: list[Scene]) -> list[tuple[int, str, Scene]]:
    """(number of the render, kind, the scene it turns to)."""
    rng = np.random.default_rng(82)
    return [
        (REBUILT + k * TURNED + i, kind, turned(listed[REBUILT + k * TURNED + i], kind, rng))
        for k, kind in enumerate(TURN_KINDS)
        for i in range(TURNED)
    ]


def rendered(count: int = RENDERS, rebuilt: int = REBUILT) -> tuple[list[Scene], Videos]:
    """`count` renders, the first `rebuilt` of which have been through the VAE."""
    listed = scenes(count, 81)

    def make():
        videos = render(listed)
        videos[:rebuilt] = rebuilder()(videos[:rebuilt])
        return videos

    return listed, _kept(f"clips_rendered_{count}_{rebuilt}", make)


def turns() -> tuple[list[tuple[int, str, Scene]], Videos]:
    listed = turn_scenes(scenes(RENDERS, 81))
    return listed, _kept("clips_turned", lambda: render([scene for _, _, scene in listed]))


def generated() -> tuple[list[Scene], Videos]:
    listed = generated_scenes()

    def make():
        config = defaults.get_config()
        config.mesh.data = -1
        generator = Parts(config).generator
        rng = np.random.default_rng(84)
        texts, parts = [caption(s, rng, canonical=1.0) for s in listed], []
        for start in track(range(0, len(texts), 16), "generating videos"):
            seeds = [i // 2 for i in range(start, start + 16)]
            parts.append(generator.generate(texts[start : start + 16], seed=seeds))
        return np.concatenate(parts)

    return listed, _kept("clips_generated", make)


def _kept(name: str, make) -> Videos:
    path = fit.WORK / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npy")
        np.save(part, make())
        part.replace(path)
    return np.load(path, mmap_mode="r")


def main() -> None:
    fit.use_every_core()
    for made in (rendered, turns, generated):
        print(made.__name__, made()[1].shape, flush=True)


if __name__ == "__main__":
    main()
