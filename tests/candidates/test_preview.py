import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.preview import (
    PreviewFilter,
    ranking_quality,
    relative_cost,
    saved_share,
    summary_line,
)
from pav_jax.candidates.scoring import overall_scores
from pav_jax.errors import BadInput
from pav_jax.evolve.evolve import evolve
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.rewards.suite import RewardSuite
from tests.fakes import FakeGenerator, FakeLanguageModel, FakeSuite, make_config, unit_number

PROMPTS = [f"a prompt number {i}" for i in range(12)]
FULL_STEPS = 10


class PreviewGenerator(FakeGenerator):
    """Its previews have the brightness of the full video plus noise.

    Args:
      noise: of previews, in levels of brightness.
      steps: of a video; fewer than FULL_STEPS make it a preview.
    """

    def __init__(self, noise=0.0, interrupt_after=None, steps=FULL_STEPS, num_frames=8):
        super().__init__(interrupt_after=interrupt_after)
        self.noise = noise
        self.steps = steps
        self.num_frames = num_frames
        self.fingerprint = f"fake generator, {steps} steps"
        self.previews = []

    def with_settings(self, num_inference_steps=FULL_STEPS, num_frames=8):
        preview = PreviewGenerator(
            self.noise, self.interrupt_after, num_inference_steps, num_frames
        )
        self.previews.append(preview)
        return preview

    def cost(self):
        return float(self.steps * self.num_frames)

    def generate(self, prompts, *, seed):
        videos = super().generate(prompts, seed=seed).astype(float)
        if self.steps < FULL_STEPS:
            noise_B = np.asarray([unit_number("preview", p) - 0.5 for p in prompts])
            videos += self.noise * noise_B.reshape(-1, 1, 1, 1, 1)
        return videos.clip(0, 255).astype(np.uint8)


def preview_config(**preview):
    config = make_config(evolve__rounds=2, evolve__num_rewrites=4)
    config.evolve.preview.update(dict(keep=0.5, audit=0.0, num_inference_steps=3) | preview)
    return config


def run(workdir, generator, **preview):
    proposer = LocalProposer(FakeLanguageModel())
    return evolve(preview_config(**preview), PROMPTS, proposer, generator, FakeSuite(), workdir)


def make_filter(folder, suite=None, keep=0.5, audit=0.0):
    pool = CandidatePool(
        PreviewGenerator(), suite or FakeSuite(), folder / "previews", folder, seed=0, batch_size=4
    )
    return PreviewFilter(pool, keep, audit)


def pending(texts, prompt="a prompt"):
    return [PendingCandidate(prompt, text, 1, i, (), "x") for i, text in enumerate(texts)]


def test_evolve_with_previews_best_get_full_videos(tmp_path):
    generator = PreviewGenerator()
    pool = run(tmp_path, generator)
    for prompt in PROMPTS:
        for round in (1, 2):
            assert sum(c.prompt == prompt and c.round == round for c in pool) == 2
    previews = CandidatePool(
        generator.previews[0], FakeSuite(), tmp_path / "previews", tmp_path, seed=7, batch_size=4
    ).candidates
    assert len(previews) == len(PROMPTS) * 8 and {c.round for c in previews} == {1, 2}
    values = overall_scores(previews, FakeSuite().weights)
    overall = {c.key: value for c, value in zip(previews, values, strict=True)}
    selected = {(c.prompt, c.refined) for c in pool}
    for c in previews:
        siblings = [o for o in previews if (o.prompt, o.round) == (c.prompt, c.round)]
        num_better = sum(overall[o.key] > overall[c.key] for o in siblings)
        assert ((c.prompt, c.refined) in selected) == (num_better < 2)
    report = json.loads((tmp_path / "preview.json").read_text())
    assert summary_line(report) == (
        "previews: 48 of 96 rewrites made in full, 20% of the work saved; no prompt was audited"
    )


def test_evolve_with_previews_interrupted(tmp_path):
    expected = run(tmp_path / "whole", PreviewGenerator(100.0))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", PreviewGenerator(100.0, interrupt_after=5))
    assert run(tmp_path / "cut", PreviewGenerator(100.0)) == expected
    report = (tmp_path / "whole" / "preview.json").read_text()
    assert (tmp_path / "cut" / "preview.json").read_text() == report


@pytest.mark.parametrize("noise, is_good", [(0.0, True), (3000.0, False)])
def test_write_report_audited(tmp_path, noise, is_good):
    pool = run(tmp_path, PreviewGenerator(noise), audit=1.0)
    assert len(pool) == len(PROMPTS) * 9  # all were made in full
    report = json.loads((tmp_path / "preview.json").read_text())
    assert report["num_groups"] == 24
    assert report["relative_cost"] == 0.3
    assert report["saved"] == pytest.approx(-0.3)
    assert (report["rank_correlation"] > 0.95) == is_good
    assert (report["best_selected"] == 1.0) == is_good
    assert (report["mean_loss"] < 0.01) == is_good
    line = summary_line(report)
    assert "in 24 audited groups" in line and f"is {report['rank_correlation']:.2f}" in line


def test_saved_share():
    assert saved_share(100, 50, 0.25) == pytest.approx(0.25)
    assert saved_share(100, 50, None) is None
    assert saved_share(0, 0, 0.25) is None


def test_relative_cost():
    preview = PreviewGenerator(steps=5, num_frames=4)
    assert relative_cost(preview, PreviewGenerator()) == 5 * 4 / (10 * 8)
    assert relative_cost(FakeGenerator(), PreviewGenerator()) is None


def test_ranking_quality_within_groups():
    """Previews that know the prompt but not the rewrite are of no use."""
    groups = [[(10.0 * g + d, 10.0 * g - d) for d in range(4)] for g in range(5)]
    quality = ranking_quality(groups, 0.5)
    assert quality["rank_correlation"] == pytest.approx(-1)
    assert quality["best_selected"] == 0
    assert quality["mean_loss"] == 2


def test_ranking_quality_failed_videos():
    assert ranking_quality([[(1.0, math.nan), (2.0, 3.0)]], 0.5)["num_groups"] == 0
    quality = ranking_quality([[(-math.inf, 5.0), (2.0, 3.0), (1.0, 2.0), (0.0, 1.0)]], 0.5)
    assert quality["best_selected"] == 0 and quality["mean_loss"] == 2
    # ranks 1 4 3 2 and 4 3 2 1: 1 - 6 * 12 / 60
    assert quality["rank_correlation"] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    "options, field",
    [
        ({"keep": 0.0}, "evolve.preview.keep"),
        ({"audit": 2.0}, "evolve.preview.audit"),
        ({"num_inference_steps": None}, "evolve.preview"),
    ],
)
def test_from_config_unusable_settings(tmp_path, options, field):
    with pytest.raises(BadInput) as caught:
        PreviewFilter.from_config(
            preview_config(**options), PreviewGenerator(), FakeSuite(), tmp_path
        )
    assert caught.value.field == field


def test_from_config_single_frame(tmp_path):
    rewards = ConfigDict(dict(entries=dict(motion={}), weights=dict(TC=1.0)))
    suite = RewardSuite.from_config(rewards)
    generator = PreviewGenerator()
    assert PreviewFilter.from_config(preview_config(num_frames=2), generator, suite, tmp_path)
    with pytest.raises(BadInput, match="TC, DD compare frames") as caught:
        PreviewFilter.from_config(preview_config(num_frames=1), generator, suite, tmp_path)
    assert caught.value.field == "rewards.skip"


def test_from_config_off_or_fixed_settings(tmp_path):
    config = preview_config(keep=1.0)
    assert PreviewFilter.from_config(config, FakeGenerator(), FakeSuite(), tmp_path) is None
    with pytest.raises(BadInput, match="num_inference_steps") as caught:
        PreviewFilter.from_config(preview_config(), FakeGenerator(), FakeSuite(), tmp_path)
    assert caught.value.source == "generator"


def test_select_does_not_depend_on_other_prompts(tmp_path):
    def selected(name, prompts):
        rows = [c for p in prompts for c in pending([f"{p}, {i}" for i in range(4)], p)]
        preview_filter = make_filter(tmp_path / name, audit=0.2)
        return [(c.prompt, c.index) for c in preview_filter.select(rows, 1)]

    together = selected("one", PROMPTS)
    apart = selected("first", PROMPTS[::2]) + selected("second", PROMPTS[1::2])
    assert sorted(apart) == sorted(together)
    assert sorted(selected("one", PROMPTS[::-1])) == sorted(together)  # all previews are recorded


def test_select_rounds_up(tmp_path):
    assert len(make_filter(tmp_path).select(pending(["one", "two", "three"]), 1)) == 2
    assert ranking_quality([[(3.0, 1.0), (2.0, 5.0), (1.0, 0.0)]], 0.5)["best_selected"] == 1


def test_select_failed_preview_is_last(tmp_path):
    preview_filter = make_filter(tmp_path, FakeSuite(nan={"bad"}))
    selected = preview_filter.select(pending(["bad", "one", "two", "three"]), 1)
    assert "bad" not in [c.refined for c in selected]
