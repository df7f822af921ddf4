"""Labels of corrupted videos, held-out corruption types, wrong prompts and fades."""

import dataclasses

import numpy as np
import pytest

from pav_jax.mini.training import corruption_labels, mps, training_videos, videoscore_examples
from pav_jax.mini.world import FRAMES, Scene, draw_scene, split_triples
from pav_jax.rewards.videoscore import NAMES
from pav_jax.trust.corruptions import CORRUPTION_TYPES, NUM_SEVERITIES, VIDEO_CORRUPTIONS

SCENE = Scene(0, 0, 1, 0, 0, 0, 0, (2, 2, 2, 2, 2), 0)
VQ, TC, DD, TVA, FC = range(5)


def test_corrupted_labels_range_and_monotony():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = draw_scene(rng)
        accuracy = rng.random()
        for kind, cost in corruption_labels.LOST_SHARE.items():
            assert len(cost) == len(NAMES)
            rows = np.array(
                [
                    corruption_labels.corrupted_labels(scene, accuracy, [(kind, s)])
                    for s in range(NUM_SEVERITIES)
                ]
            )
            assert (rows >= 1).all() and (rows <= 4).all()
            is_decreasing = (rows[:-1] > rows[1:]).all(0)
            assert (is_decreasing == ((np.array(cost) > 0) & (rows[0] > 1))).all()


def test_labels_of_dimensions():
    clean = corruption_labels.clean_labels(SCENE, 1.0)
    poor = corruption_labels.clean_labels(dataclasses.replace(SCENE, quality=(0,) * 5), 1.0)
    assert clean[VQ] == 4 and poor[VQ] == 1 and clean[TC] > poor[TC]
    assert corruption_labels.corrupted_labels(SCENE, 1.0, [("freeze", 4)])[DD] == 1
    assert corruption_labels.clean_labels(SCENE, 1 / 3)[TVA] == pytest.approx(2)
    jumped = corruption_labels.corrupted_labels(SCENE, 1.0, [("jump", 4)])
    assert jumped[FC] < 1.5 and jumped[VQ] == 4


def test_held_out_types_unused_in_training():
    held_out = {kind for kinds in corruption_labels.HELD_OUT.values() for kind in kinds}
    assert set(corruption_labels.HELD_OUT) == set(NAMES)
    assert all(corruption_labels.HELD_OUT.values())
    assert not held_out & {
        *corruption_labels.LOST_SHARE,
        *videoscore_examples.PLAIN_KINDS,
        *training_videos.CHANGE_KINDS,
        "cut",
        *mps.KINDS,
        "wrong caption",
    }
    assert held_out <= {*CORRUPTION_TYPES, *corruption_labels.CHANGES}


def test_draw_prompt_wrong_slots():
    rng = np.random.default_rng(1)
    for _ in range(60):
        scene = draw_scene(rng)
        for wrong in ((), ("colour",), ("subject", "motion"), corruption_labels.PROMPT_SLOTS):
            prompt, described, is_right = corruption_labels.draw_prompt(scene, wrong, rng)
            assert (
                described.triple == scene.triple
                or described.triple in corruption_labels.training_triples()
            )
            assert {slot for slot, right in is_right.items() if not right} == set(wrong)
            assert corruption_labels.prompt_accuracy(prompt, scene, is_right) == pytest.approx(
                1 - len(wrong) / 3
            )
    assert not set(split_triples()[1]) & corruption_labels.training_triples()


def test_prompt_accuracy_place():
    is_right = dict.fromkeys(corruption_labels.PROMPT_SLOTS, True)
    assert corruption_labels.prompt_accuracy(
        "a red ball rises over the sea", SCENE, is_right
    ) == pytest.approx(5 / 6)
    assert (
        corruption_labels.prompt_accuracy("a red ball rises over a pasture", SCENE, is_right) == 1
    )
    assert corruption_labels.prompt_accuracy("a red ball rises", SCENE, is_right) == 1


@pytest.mark.parametrize("kind", [*corruption_labels.CHANGES, "cut"])
def test_corrupt_fades_with_severity(kind):
    video = np.full((FRAMES, 4, 4, 3), 200, np.uint8)
    other = np.full((FRAMES, 4, 4, 3), 100, np.uint8)
    levels = [
        corruption_labels.corrupt(video, kind, s, 0, other)[:, 0, 0, 0].tolist()
        for s in range(NUM_SEVERITIES)
    ]
    assert [row[-1] for row in levels] == [200, 175, 150, 125, 100] and all(
        row[:5] == [200] * 5 for row in levels
    )


def test_corrupt_other_types():
    video = np.random.default_rng(2).integers(0, 256, (FRAMES, 16, 16, 3), np.uint8)
    for kind in set(corruption_labels.LOST_SHARE) & set(VIDEO_CORRUPTIONS):
        assert (corruption_labels.corrupt(video, kind, 4, 3) != video).any()
    tints = [
        np.abs(corruption_labels.corrupt(video, "tint", s, 3) - video.astype(float)).mean()
        for s in range(NUM_SEVERITIES)
    ]
    assert tints[0] == 0 and np.all(np.diff(tints) > 0)
