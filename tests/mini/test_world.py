"""Scenes: attributes, held-out triples and their frequencies."""

import dataclasses

import numpy as np

from pav_jax.mini import vocabulary, world
from pav_jax.mini.world import Scene, draw_scene, split_triples


def scenes(count, seed=0, **options) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, **options) for _ in range(count)]


def test_split_triples_partition():
    seen, held = split_triples()
    possible = len(world.SUBJECTS) * len(world.COLOURS) * len(world.MOTIONS)
    assert len(set(seen) | set(held)) == len(seen) + len(held) == possible
    assert len(held) == possible // world.HELD_OUT_EVERY


def test_split_triples_only_combinations_are_new():
    seen, held = split_triples()
    for part in range(3):  # only the combination is new
        assert {t[part] for t in held} <= {t[part] for t in seen}


def test_draw_scene_held_out():
    seen, held = map(set, split_triples())
    assert {s.triple for s in scenes(4000)} <= seen
    drawn = {s.triple for s in scenes(1500, held_out=True)}
    assert drawn == held


def test_draw_scene_triple():
    _, held = split_triples()
    assert {s.triple for s in scenes(5, triple=held[3])} == {held[3]}


def test_draw_scene_quality_frequencies():
    levels = np.array([s.quality for s in scenes(4000)])
    assert levels.shape == (4000, len(world.QUALITIES))
    for quality in levels.T:
        share = np.bincount(quality, minlength=3) / len(quality)
        np.testing.assert_allclose(share, world.LEVELS, atol=0.03)  # four standard errors


def test_draw_scene_covers_all_values():
    drawn = scenes(2000)
    sizes = {
        "subject": world.SUBJECTS,
        "colour": world.COLOURS,
        "size": world.SIZES,
        "material": world.MATERIALS,
        "motion": world.MOTIONS,
        "background": world.BACKGROUNDS,
        "camera": world.CAMERAS,
    }
    for field, names in sizes.items():
        assert {getattr(s, field) for s in drawn} == set(range(len(names))), field


def test_draw_scene_follows_seed():
    assert scenes(50, seed=7) == scenes(50, seed=7) != scenes(50, seed=8)
    assert (
        len({dataclasses.replace(s, seed=0) for s in scenes(500)}) > 450
    )  # and the scenes themselves differ


def test_vocabulary_matches_world():
    for name in (
        "SUBJECTS",
        "COLOURS",
        "SIZES",
        "MATERIALS",
        "MOTIONS",
        "BACKGROUNDS",
        "CAMERAS",
        "QUALITIES",
    ):
        assert tuple(getattr(vocabulary, name)) == getattr(world, name)
    assert (
        tuple(vocabulary.GERUNDS) == world.MOTIONS
        and tuple(vocabulary.QUALITY_TAGS) == world.QUALITIES
    )
