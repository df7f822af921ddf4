"""Drafts: who survives, that a stopped run ends the same, and what drafts.json says of them."""

import dataclasses
import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.candidates.preview import Screen, judge, relative_cost, saved
from pav_jax.candidates.store import Draft, Pool
from pav_jax.errors import BadInput
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.report import write_report
from pav_jax.rewards.suite import RewardSuite
from tests.fakes import Generator, Rewriter, Suite, config, number

PROMPTS = [f"a prompt number {i}" for i in range(12)]


@dataclasses.dataclass(frozen=True)
class Settings:
    num_inference_steps: int = 10
    num_frames: int = 8
    height: int = 8
    width: int = 8


class WithDrafts(Generator):
    """Its drafts show the full video's brightness, and `noise` of their own."""

    def __init__(self, noise=0.0, settings=Settings(), stop_after=None):
        super().__init__()
        self.noise, self.settings, self.stop_after = noise, settings, stop_after
        self.fingerprint = f"stand-in of {settings.num_inference_steps}"
        self.variants = []

    def with_settings(self, **fields):
        other = WithDrafts(
            self.noise, dataclasses.replace(self.settings, **fields), self.stop_after
        )
        self.variants.append(other)
        return other

    def generate(self, prompts, *, seed):
        if self.stop_after is not None and len(self.sizes) >= self.stop_after:
            raise KeyboardInterrupt
        videos = super().generate(prompts, seed=seed).astype(float)
        if self.settings.num_inference_steps < 10 and self.noise:
            videos += self.noise * np.asarray([number("draft", p) - 0.5 for p in prompts]).reshape(
                -1, 1, 1, 1, 1
            )
        return videos.clip(0, 255).astype(np.uint8)


def settings(**draft):
    changed = config(evolve__rounds=2, evolve__children=4)
    changed.evolve.draft = ConfigDict(dict(keep=0.5, audit=0.0, num_inference_steps=3) | draft)
    return changed


def run(workdir, generator, **draft):
    return evolve(
        settings(**draft), PROMPTS, LocalProposer(Rewriter()), generator, Suite(), workdir
    )


def words(candidates):
    return {(c.prompt, c.refined) for c in candidates}


def test_half_of_a_prompts_rewrites_are_made_in_full_and_they_are_the_best_drafts(tmp_path):
    generator = WithDrafts()
    pool = run(tmp_path, generator)
    for prompt in PROMPTS:
        for round in (1, 2):
            assert sum(c.prompt == prompt and c.round == round for c in pool) == 2
    drafts = Pool(
        generator.variants[0], Suite(), tmp_path / "drafts", tmp_path, seed=7, batch=4
    ).candidates
    assert len(drafts) == len(PROMPTS) * 8 and {c.round for c in drafts} == {1, 2}
    overall = {(c.prompt, c.refined): c.scores["AES"] + c.scores["TVA"] for c in drafts}
    for c in (c for c in drafts if c.round == 1):
        beaten = sum(
            overall[o.prompt, o.refined] > overall[c.prompt, c.refined]
            for o in drafts
            if (o.prompt, o.round) == (c.prompt, 1)
        )
        assert ((c.prompt, c.refined) in words(pool)) == (beaten < 2)
    assert (
        "Drafts: 48 of 96 rewrites made in full, 20% of the work saved; none was audited."
        in write_report(tmp_path).read_text()
    )


def test_a_stopped_run_goes_on_to_the_same_pool(tmp_path):
    whole = run(tmp_path / "whole", WithDrafts(100.0))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", WithDrafts(100.0, stop_after=5))
    assert run(tmp_path / "cut", WithDrafts(100.0)) == whole
    assert (tmp_path / "cut/drafts.json").read_text() == (
        tmp_path / "whole/drafts.json"
    ).read_text()


@pytest.mark.parametrize("noise, good", [(0.0, True), (3000.0, False)])
def test_audited_prompts_tell_good_drafts_from_bad_ones(tmp_path, noise, good):
    pool = run(tmp_path, WithDrafts(noise), audit=1.0)
    assert len(pool) == len(PROMPTS) * 9  # all were made in full
    found = json.loads((tmp_path / "drafts.json").read_text())
    assert (
        found["audited"] == 24
        and found["cost of a draft"] == 0.3
        and found["saved"] == pytest.approx(-0.3)
    )
    assert (found["rank correlation"] > 0.95) == good and (found["best survives"] == 1.0) == good
    assert (found["loss of the best"] < 0.01) == good
    page = write_report(tmp_path).read_text()
    assert (
        f"by 24 audited groups ranks correlate at {found['rank correlation']:.2f}, and the best"
        f" survives in {found['best survives']:.0%}." in page
    )


def test_what_is_saved_is_counted_from_drafts_and_videos():
    assert saved(100, 50, 0.25) == pytest.approx(0.25)
    assert saved(100, 50, None) is None and saved(0, 0, 0.25) is None
    cheap = WithDrafts(settings=Settings(5, 4, 4, 4))
    assert relative_cost(cheap, WithDrafts()) == 5 * 4 * 16 / (10 * 8 * 64)


def test_rank_correlation_is_within_a_prompt_only():
    """Drafts that know the prompt but not the rewrite are worth nothing, though they correlate over
    all."""
    groups = [[(10.0 * g + d, 10.0 * g - d) for d in range(4)] for g in range(5)]
    found = judge(groups, 0.5)
    assert found["rank correlation"] == pytest.approx(-1) and found["best survives"] == 0
    assert found["loss of the best"] == 2
    assert judge([[(1.0, float("nan")), (2.0, 3.0)]], 0.5)["audited"] == 0


def test_a_best_rewrite_whose_draft_failed_counts_as_screened_out():
    found = judge([[(-math.inf, 5.0), (2.0, 3.0), (1.0, 2.0), (0.0, 1.0)]], 0.5)
    assert found["best survives"] == 0 and found["loss of the best"] == 2
    assert found["rank correlation"] == pytest.approx(
        -0.2
    )  # ranks 1 4 3 2 and 4 3 2 1: 1 - 6 * 12 / 60


@pytest.mark.parametrize(
    "draft, named",
    [
        ({"keep": 0.0}, "evolve.draft.keep"),
        ({"audit": 2.0}, "evolve.draft.audit"),
        ({"num_inference_steps": None}, "evolve.draft"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(tmp_path, draft, named):
    with pytest.raises(BadInput, match=named):
        Screen.from_config(settings(**draft), WithDrafts(), Suite(), tmp_path)


def test_drafts_of_one_frame_are_refused_where_frames_are_compared(tmp_path):
    suite = RewardSuite.from_config(ConfigDict(dict(entries=dict(motion={}), weights=dict(TC=1.0))))
    assert Screen.from_config(settings(num_frames=2), WithDrafts(), suite, tmp_path)
    with pytest.raises(BadInput, match="TC, DD judge how frames follow each other"):
        Screen.from_config(settings(num_frames=1), WithDrafts(), suite, tmp_path)


def test_processes_that_share_the_prompts_keep_what_one_would(tmp_path):
    def kept(name, prompts):
        pool = Pool(WithDrafts(), Suite(), tmp_path / name, tmp_path, seed=0, batch=4)
        rows = [Draft(p, f"{p}, {i}", 1, i, (), "x") for p in prompts for i in range(4)]
        return [(d.prompt, d.index) for d in Screen(pool, 0.5, 0.2).survivors(rows, 1)]

    together = kept("one", PROMPTS)
    assert sorted(kept("first", PROMPTS[::2]) + kept("second", PROMPTS[1::2])) == sorted(together)
    assert sorted(kept("one", PROMPTS[::-1])) == sorted(together)  # again, with all drafts on disk


def test_a_generator_without_settings_is_refused(tmp_path):
    with pytest.raises(BadInput, match="evolve.draft"):
        Screen.from_config(settings(), Generator(), Suite(), tmp_path)


def test_the_share_that_survives_is_rounded_up(tmp_path):
    pool = Pool(WithDrafts(), Suite(), tmp_path / "drafts", tmp_path, seed=0, batch=4)
    rows = [Draft("p", text, 1, i, (), "x") for i, text in enumerate(["one", "two", "three"])]
    assert len(Screen(pool, 0.5, 0.0).survivors(rows, 1)) == 2
    assert judge([[(3.0, 1.0), (2.0, 5.0), (1.0, 0.0)]], 0.5)["best survives"] == 1


def test_a_draft_that_failed_survives_last(tmp_path):
    pool = Pool(WithDrafts(), Suite(nan={"bad"}), tmp_path / "drafts", tmp_path, seed=0, batch=4)
    rows = [
        Draft("p", text, 1, i, (), "x") for i, text in enumerate(["bad", "one", "two", "three"])
    ]
    assert "bad" not in [d.refined for d in Screen(pool, 0.5, 0.0).survivors(rows, 1)]
