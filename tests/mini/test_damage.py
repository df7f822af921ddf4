"""What the mini judges are taught: labels that fall with damage, and nothing of what is held
out."""

import numpy as np
import pytest

from pav_jax.mini.training import damage, mps, videoscore_examples
from pav_jax.mini.world import FRAMES, Scene, draw_scene, triples
from pav_jax.rewards.videoscore import NAMES
from pav_jax.trust.corruptions import CORRUPTION_TYPES, NUM_SEVERITIES, VIDEO_CORRUPTIONS

SCENE = Scene(0, 0, 1, 0, 0, 0, 0, (2, 2, 2, 2, 2), 0)
VQ, TC, DD, TVA, FC = range(5)


def test_labels_lie_in_1_to_4_and_fall_with_damage():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene, true = draw_scene(rng), rng.random()
        for kind, cost in damage.COST.items():
            assert len(cost) == len(NAMES)
            rows = np.array(
                [damage.labels(scene, true, [(kind, s)]) for s in range(NUM_SEVERITIES)]
            )
            assert (rows >= 1).all() and (rows <= 4).all()
            falls = (rows[:-1] > rows[1:]).all(0)
            assert (falls == ((np.array(cost) > 0) & (rows[0] > 1))).all()


def test_labels_mean_what_their_names_say():
    sound = damage.sound(SCENE, 1.0)
    poor = damage.sound(damage.dataclasses.replace(SCENE, quality=(0,) * 5), 1.0)
    assert sound[VQ] == 4 and poor[VQ] == 1 and sound[TC] > poor[TC]
    assert damage.labels(SCENE, 1.0, [("freeze", 4)])[DD] == 1
    assert damage.sound(SCENE, 1 / 3)[TVA] == pytest.approx(2)
    jumped = damage.labels(SCENE, 1.0, [("jump", 4)])
    assert jumped[FC] < 1.5 and jumped[VQ] == 4


def test_no_training_sees_what_is_held_out():
    held = {kind for kinds in damage.HELD_OUT.values() for kind in kinds}
    assert set(damage.HELD_OUT) == set(NAMES) and all(damage.HELD_OUT.values())
    assert not held & {
        *damage.COST,
        *videoscore_examples.PLAIN_KINDS,
        *videoscore_examples.clips.TURN_KINDS,
        "cut",
        *mps.KINDS,
        "wrong caption",
    }
    assert held <= {*CORRUPTION_TYPES, *damage.TURNS}


def test_a_wrong_prompt_is_wrong_in_the_slots_it_says_and_of_no_held_out_triple():
    rng = np.random.default_rng(1)
    for _ in range(60):
        scene = draw_scene(rng)
        for wrong in ((), ("colour",), ("subject", "motion"), damage.SAID):
            prompt, asked, right = damage.ask(scene, wrong, rng)
            assert asked.triple == scene.triple or asked.triple in damage._seen()
            assert {slot for slot, fine in right.items() if not fine} == set(wrong)
            assert damage.truth(prompt, scene, right) == pytest.approx(1 - len(wrong) / 3)
    assert not set(triples()[1]) & damage._seen()


def test_the_place_counts_where_it_is_said():
    right = dict.fromkeys(damage.SAID, True)
    assert damage.truth("a red ball rises over the sea", SCENE, right) == pytest.approx(5 / 6)
    assert damage.truth("a red ball rises over a pasture", SCENE, right) == 1
    assert damage.truth("a red ball rises", SCENE, right) == 1


@pytest.mark.parametrize("kind", [*damage.TURNS, "cut"])
def test_a_turn_fades_further_with_severity(kind):
    video, other = (
        np.full((FRAMES, 4, 4, 3), 200, np.uint8),
        np.full((FRAMES, 4, 4, 3), 100, np.uint8),
    )
    levels = [
        damage.damaged(video, kind, s, 0, other)[:, 0, 0, 0].tolist() for s in range(NUM_SEVERITIES)
    ]
    assert [row[-1] for row in levels] == [200, 175, 150, 125, 100] and all(
        row[:5] == [200] * 5 for row in levels
    )


def test_other_damage_is_that_of_the_trust_report():
    video = np.random.default_rng(2).integers(0, 256, (FRAMES, 16, 16, 3), np.uint8)
    for kind in set(damage.COST) & set(VIDEO_CORRUPTIONS):
        assert (damage.damaged(video, kind, 4, 3) != video).any()
    tints = [
        np.abs(damage.damaged(video, "tint", s, 3) - video.astype(float)).mean()
        for s in range(NUM_SEVERITIES)
    ]
    assert tints[0] == 0 and np.all(np.diff(tints) > 0)
