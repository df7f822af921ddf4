"""Alarms go off for what they are there for, say it with figures, and are silent otherwise."""

import dataclasses
import logging
import math

import numpy as np
import pytest

from pav_jax.candidates import reward_hacking
from pav_jax.candidates.reward_hacking_rounds import overall, pair_signs, read_signs
from pav_jax.records import Candidate, Preference
from pav_jax.storage.records import SegmentWriter, write_jsonl

JUDGE = "held_out:VQ"
CONFIG = {"rewards": {"weights": {"AES": 1.0}}}


def rows(round, scores, prompts=20, each=3, words=10, seed=0):
    """Valued candidates; `scores` is a function of (generator of chance, the candidate's overall)
    -> more scores."""
    rng, found = np.random.default_rng([seed, round]), []
    for p in range(prompts):
        for i in range(each if round else 1):
            value = float(rng.normal())
            refined = (
                f"prompt number {p}" if round == 0 else " ".join([f"{p}-{i}"] + ["w"] * (words - 1))
            )
            found.append(
                (
                    Candidate(
                        f"{seed} {round} {p} {i}",
                        f"prompt number {p}",
                        refined,
                        round,
                        i,
                        (),
                        "local",
                        1,
                        {"AES": value, "FAITH": 1.0} | scores(rng, value),
                        None,
                        None,
                    ),
                    value,
                )
            )
    return found


def calm(rng, value):
    return {"DD": float(rng.normal(0.5, 0.1)), JUDGE: value + float(rng.normal(0, 0.3))}


def shifted(found, **by):
    """The same rows with scores and overall moved."""
    moved = []
    for c, value in found:
        scores = {n: s + by.get(n.removeprefix("held_out:"), 0.0) for n, s in c.scores.items()}
        moved.append((dataclasses.replace(c, scores=scores), value + by.get("AES", 0.0)))
    return moved


def test_a_healthy_round_is_silent_and_still_has_its_figures(caplog):
    found = reward_hacking.evolution(2, rows(0, calm) + rows(1, calm) + rows(2, calm, words=12))
    assert found.alarms == () and (found.round, found.rewrites) == ("evolve, round 2", 60)
    assert (found.words, found.own_words, found.first_words) == (12, 3, 10)
    assert set(found.motion) == {"best", "all"} and found.judges[0].correlation > 0.8
    assert set(found.saturated) == {"AES", "DD"}  # neither the floor nor the held-out judge
    found.warn(logging.getLogger("somewhere"))
    assert not caplog.records


def test_rewrites_that_grow_are_an_alarm(caplog):
    pool = rows(0, calm) + rows(1, calm) + rows(2, calm, words=16)
    found = reward_hacking.evolution(2, pool)
    assert found.alarms == ("the rewrites have 16.0 words, 1.60 times the 10.0 of the first round",)
    assert reward_hacking.evolution(1, pool).alarms == ()
    found.warn(logging.getLogger("somewhere"))
    (record,) = caplog.records
    assert record.getMessage() == f"evolve, round 2: signs of reward hacking: {found.alarms[0]}"


def test_motion_that_falls_is_an_alarm_and_noise_is_not():
    own = rows(0, calm)
    (sentence,) = reward_hacking.evolution(1, own + shifted(rows(1, calm), DD=-0.3)).alarms
    assert (
        sentence.startswith("DD of each prompt's best rewrite is 0.")
        and "of the user's own prompts" in sentence
    )
    assert not reward_hacking.evolution(1, own + shifted(rows(1, calm), DD=-0.01)).alarms
    few = [
        row
        for row in own + shifted(rows(1, calm), DD=-0.3)
        if row[0].prompt[-1] in "123" and len(row[0].prompt) == len("prompt number 1")
    ]
    assert few and not reward_hacking.evolution(1, few).alarms  # too few prompts to say


def test_a_judge_that_falls_while_overall_rises_is_an_alarm():
    own, later = rows(0, calm), rows(1, calm)
    (sentence,) = reward_hacking.evolution(1, own + shifted(later, AES=3.0, VQ=-3.0)).alarms
    assert sentence.startswith(f"{JUDGE} is") and "while overall is" in sentence
    assert not reward_hacking.evolution(1, own + shifted(later, AES=3.0, VQ=3.0)).alarms
    assert not reward_hacking.evolution(
        1, own + shifted(later, AES=-3.0, VQ=-3.0)
    ).alarms  # a bad round, but honest


def test_a_judge_that_does_not_follow_overall_is_an_alarm():
    def against(rng, value):
        return calm(rng, value) | {JUDGE: -value + float(rng.normal(0, 0.3))}

    (sentence,) = reward_hacking.evolution(1, rows(0, calm) + rows(1, against)).alarms
    assert (
        sentence.startswith(f"{JUDGE} does not follow overall") and "over 60 rewrites" in sentence
    )


def test_a_highest_score_that_many_share_is_an_alarm():
    def capped(rng, value):
        return {"TC": min(float(rng.normal(0.95, 0.1)), 1.0)}

    (sentence,) = reward_hacking.evolution(1, rows(0, capped) + rows(1, capped)).alarms
    assert sentence.endswith("% of the rewrites share the highest score of TC")
    # one rewrite in several pairs counts once
    row = rows(1, calm, prompts=1)
    assert reward_hacking.signs("x", row * 9).saturated["AES"] == pytest.approx(1 / 3)


def test_what_has_no_overall_takes_no_part_and_nothing_at_all_is_silent():
    broken = [(dataclasses.replace(c, error="x"), 99.0) for c, _ in rows(1, calm, seed=1)]
    lost = [(c, math.nan) for c, _ in rows(1, calm, seed=2)]
    assert reward_hacking.evolution(
        1, rows(0, calm) + rows(1, calm) + broken + lost
    ) == reward_hacking.evolution(1, rows(0, calm) + rows(1, calm))
    empty = reward_hacking.signs("nothing", [])
    assert (
        empty.rewrites == 0
        and empty.alarms == ()
        and math.isnan(empty.words)
        and empty.overall is None
    )


def test_pairs_are_judged_chosen_against_rejected():
    pool = rows(1, calm, each=2)
    by_prompt = {}
    for c, value in pool:
        by_prompt.setdefault(c.prompt, []).append((c, value))
    preferences, slow = [], []
    for prompt, ((a, _), (b, _)) in by_prompt.items():
        longer = f"{a.refined} " + "more " * 20
        still = a.scores | {"DD": b.scores["DD"] - 0.3}
        slow += [(dataclasses.replace(a, refined=longer, scores=still), 1.0), (b, 0.0)]
        preferences.append(Preference(prompt, longer, b.refined, 1.0))
    found = reward_hacking.pairs(1, preferences, slow)
    assert (found.rewrites, found.words, found.first_words) == (20, 30, 10)
    assert (
        found.alarms[0]
        == "the chosen rewrites have 30.0 words, 3.00 times the 10.0 of the rejected rewrites"
    )
    assert found.alarms[1] == "DD of the chosen rewrites is 0.3 lower than of the rejected rewrites"
    assert reward_hacking.pairs(1, [Preference("elsewhere", "a", "b", 1.0)], slow).rewrites == 0


def test_steps_are_read_once_and_compared_with_the_first_window():
    read = []

    def step(number):
        read.append(number)
        return rows(1, calm, prompts=2, words=10 if number <= 10 else 20, seed=number)

    watch = reward_hacking.Steps(step)
    found = [watch(n) for n in range(1, 22)]
    assert read == list(range(1, 22))
    assert [f.round for f in (found[0], found[9], found[20])] == [
        "grpo, steps 1 to 1",
        "grpo, steps 1 to 10",
        "grpo, steps 12 to 21",
    ]
    assert not any(f.alarms for f in found[:19]) and "20.0 words, 2.00 times" in found[19].alarms[0]
    resumed = reward_hacking.Steps(step)
    assert resumed(21) == found[20]


# ------------------------------------------------------------------------------------ from the disk


def fill(folder):
    """A work directory of two rounds of evolution, two of preferences and twelve steps."""
    every = [c for n in range(3) for c, _ in rows(n, calm)]
    SegmentWriter(folder / "pool").write(every)
    for n in (1, 2):
        written = [c for c, _ in rows(1, calm, words=10 * n, seed=n)]
        SegmentWriter(folder / f"round_{n}" / "candidates").write(written)
        write_jsonl(
            folder / f"round_{n}" / "preferences.jsonl",
            [
                Preference(a.prompt, a.refined, b.refined, 1.0)
                for a, b in zip(written[::3], written[1::3], strict=True)
            ],
        )
    for n in range(1, 13):
        SegmentWriter(folder / "grpo" / "candidates" / f"{n:06d}").write(
            [c for c, _ in rows(1, calm, prompts=2, seed=n)]
        )


def test_every_round_on_disk_has_a_row_in_its_order(tmp_path):
    fill(tmp_path)
    found = read_signs(tmp_path, CONFIG)
    assert [s.round for s in found] == [
        "evolve, round 1",
        "evolve, round 2",
        "prefer, round 1",
        "dpo, round 1",
        "prefer, round 2",
        "dpo, round 2",
        "grpo, steps 1 to 10",
        "grpo, steps 3 to 12",
    ]
    assert "20.0 words, 2.00 times the 10.0" in found[4].alarms[0]
    assert (
        found[2].against == reward_hacking.OWN
        and found[3].against == reward_hacking.REJECTED
        and found[6].against == reward_hacking.FIRST
    )
    assert found[3] == pair_signs(tmp_path, CONFIG, 1)
    assert read_signs(tmp_path / "empty", CONFIG) == [] and pair_signs(tmp_path, CONFIG, 3) is None


def test_a_stages_own_weights_make_its_overall(tmp_path):
    fill(tmp_path)
    config = CONFIG | {"evolve": {"weights": {"AES": 2.0}}, "prefer": {"weights": None}}
    doubled, plain = read_signs(tmp_path, config), read_signs(tmp_path, CONFIG)
    assert (
        doubled[0].overall.mean == pytest.approx(2 * plain[0].overall.mean)
        and doubled[2] == plain[2]
    )
    assert read_signs(tmp_path, {})[0].rewrites == 0  # no weights known
    assert math.isnan(overall(rows(1, calm)[0][0], {"MPS": 1.0}))
