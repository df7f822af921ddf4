"""Scenes: what exists, what is held out, how often."""

import dataclasses

import numpy as np

from pav_jax.mini import vocabulary, world
from pav_jax.mini.world import Scene, draw_scene, triples


def scenes(count, seed=0, **options) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, **options) for _ in range(count)]


def test_every_triple_is_either_seen_or_held_out():
    seen, held = triples()
    possible = len(world.SUBJECTS) * len(world.COLOURS) * len(world.MOTIONS)
    assert len(set(seen) | set(held)) == len(seen) + len(held) == possible
    assert len(held) == possible // world.HELD_OUT_EVERY


def test_held_out_triples_share_every_part_with_seen_ones():
    seen, held = triples()
    for part in range(3):  # only the combination is new
        assert {t[part] for t in held} <= {t[part] for t in seen}


def test_scenes_are_of_seen_triples_unless_held_out_ones_are_asked_for():
    seen, held = map(set, triples())
    assert {s.triple for s in scenes(4000)} <= seen
    drawn = {s.triple for s in scenes(1500, held_out=True)}
    assert drawn == held


def test_a_triple_that_is_asked_for_is_drawn():
    _, held = triples()
    assert {s.triple for s in scenes(5, triple=held[3])} == {held[3]}


def test_qualities_come_as_often_as_declared():
    levels = np.array([s.quality for s in scenes(4000)])
    assert levels.shape == (4000, len(world.QUALITIES))
    for quality in levels.T:
        share = np.bincount(quality, minlength=3) / len(quality)
        np.testing.assert_allclose(share, world.LEVELS, atol=0.03)  # four standard errors


def test_every_value_of_every_attribute_is_drawn():
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


def test_equal_seeds_draw_equal_scenes():
    assert scenes(50, seed=7) == scenes(50, seed=7) != scenes(50, seed=8)
    assert (
        len({dataclasses.replace(s, seed=0) for s in scenes(500)}) > 450
    )  # and the scenes themselves differ


def test_the_vocabulary_names_what_the_world_has_in_its_order():
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
