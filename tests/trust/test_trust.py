import json
import types

import pytest
from ml_collections import ConfigDict

from pav_jax import budget
from pav_jax.defaults import TrustConfig
from pav_jax.errors import BadInput, BudgetReached
from pav_jax.records import Candidate
from pav_jax.storage.records import SegmentFolder
from pav_jax.trust import verdict
from pav_jax.trust.corruptions import CORRUPTION_TYPES
from pav_jax.trust.trust import plan_line, trust
from tests.budgets import limited
from tests.trust.fakes import CAPTION_REFUSED, PROMPTS, PatternGenerator, make_suite


def make_config(batch_size=4, **options):
    defaults = vars(TrustConfig()) | dict(seeds=(0, 1, 2), num_corrupted=10, num_resamples=200)
    return ConfigDict(dict(generator=dict(batch_size=batch_size), trust=defaults | options))


def run_trust(folder, generator=None, suite=None, progress=None, **options):
    return trust(
        make_config(**options),
        PROMPTS,
        generator or PatternGenerator(),
        suite or make_suite(),
        folder,
        progress,
    )


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """(work directory, content of trust.json)."""
    folder = tmp_path_factory.mktemp("trust")
    return folder, run_trust(folder)


def test_trust_verdicts(finished_run):
    rewards = finished_run[1]["rewards"]
    assert {name: entry["verdict"] for name, entry in rewards.items()} == {
        "AES": verdict.USABLE,
        "VQ": verdict.NOISY,
        "TVA": verdict.USABLE,
        "MPS": verdict.PROMPT_INSENSITIVE,
    }
    assert rewards["TVA"]["prompt"]["auc"] == 1.0
    assert rewards["TVA"]["prompt"]["true_minus_permuted"][1] > 0
    assert rewards["AES"]["prompt"]["true_minus_permuted"] == [0, 0, 0]
    assert not rewards["AES"]["should_read_prompt"]
    assert any("not expected to read the prompt" in reason for reason in rewards["AES"]["reasons"])
    assert rewards["MPS"]["should_read_prompt"]
    assert "AUC 0.50" in rewards["MPS"]["reasons"][0]


def test_trust_refused_caption(finished_run):
    rewards = finished_run[1]["rewards"]
    assert rewards["MPS"]["prompt"]["empty_refused"] == CAPTION_REFUSED
    assert rewards["MPS"]["prompt"]["true_minus_empty"] == [None] * 3
    assert rewards["TVA"]["prompt"]["empty_refused"] is None
    assert rewards["TVA"]["prompt"]["true_minus_empty"][0] == pytest.approx(8)


def test_plan_line():
    options = make_config(max_prompts=8).trust
    assert plan_line(options, 12).startswith(
        "trust, at most: 24 videos, of 8 prompts x 3 seeds; 8 of them also corrupted"
    )
    assert plan_line(options, 2).startswith("trust, at most: 6 videos, of 2 prompts x 3 seeds; 2 ")


def test_trust_tuning_and_validation_types(finished_run):
    result = finished_run[1]
    split = result["split"]
    assert sorted(split["tuning"] + split["validation"]) == sorted(CORRUPTION_TYPES)
    for name, entry in result["rewards"].items():
        assert set(entry["corruptions"]) == set(CORRUPTION_TYPES)
        tuning = entry["responses"]["tuning"]
        validation = entry["responses"]["validation"]
        assert tuning["threshold"] == validation["threshold"] >= verdict.MIN_THRESHOLD
        assert validation["false_positive_rate"] < 0.05, name
    aes = result["rewards"]["AES"]
    assert aes["responses"]["validation"]["correlation"] < -0.9
    assert aes["responses"]["validation"]["detected"] == 1
    expected = [kind for kind, entry in aes["corruptions"].items() if entry["expected"]]
    assert expected == ["blur", "noise", "darkness", "low contrast"]


def test_trust_batch_size(tmp_path):
    generator = PatternGenerator()
    suite = make_suite()
    run_trust(tmp_path, generator, suite, batch_size=5)
    assert len(set(generator.requests)) == 36
    assert len(generator.requests) == 40  # the last batch is padded
    assert all(reward.batch_sizes == {5} for reward in suite.rewards)


@pytest.mark.parametrize("interrupted", ["generator", "reward"])
def test_trust_continues_after_interrupt(finished_run, tmp_path, interrupted):
    folder, expected = finished_run
    generator = PatternGenerator(interrupt_after=4 if interrupted == "generator" else None)
    suite = make_suite(interrupt_after=30 if interrupted == "reward" else None)
    with pytest.raises(KeyboardInterrupt):
        run_trust(tmp_path, generator, suite)
    assert not (tmp_path / "trust.json").exists()
    generator = PatternGenerator()
    assert run_trust(tmp_path, generator) == expected
    # the interrupted reward had not finished the first batch's corruptions
    finished_batches = 4 if interrupted == "generator" else 0
    assert generator.num_calls == 9 - finished_batches
    assert (tmp_path / "trust.json").read_bytes() == (folder / "trust.json").read_bytes()
    generator = PatternGenerator()
    run_trust(tmp_path, generator)
    assert generator.num_calls == 0


@pytest.mark.parametrize(
    "limit, num_batches",
    [
        ("videos=10", 2),
        ("stage_videos={'trust': 11}", 2),
        ("hours=1.5", 3),  # the next batch starts while one is scored
        ("stage_hours={'trust': 1.5}", 3),
        ("usd=15", 3),
    ],
)
def test_trust_budget(finished_run, tmp_path, monkeypatch, limit, num_batches):
    """Each of the nine batches of four videos takes an hour, which costs 10 USD."""
    clock = types.SimpleNamespace(monotonic=lambda: 3600.0 * generator.num_calls)
    monkeypatch.setattr(budget, "time", clock)
    for expected in (num_batches, 0):  # the second time, it stops at once
        generator = PatternGenerator()
        with (
            pytest.raises(BudgetReached) as caught,
            limited(tmp_path, "trust", limit, "usd_per_hour=10") as progress,
        ):
            run_trust(tmp_path, generator, progress=progress)
        assert generator.num_calls == expected
        field = f"budget.{limit.partition('=')[0]}"
        assert caught.value.exit_status == 3 and caught.value.field.startswith(field)
        assert "stopped at trust: " in str(caught.value) and "samples;" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "trust.json").exists()
    generator = PatternGenerator()
    with limited(tmp_path, "trust", "videos=36", "hours=9") as progress:
        assert run_trust(tmp_path, generator, progress=progress) == finished_run[1]
    assert generator.num_calls + num_batches == 9
    with limited(tmp_path, "trust", "videos=0", "hours=0") as progress:  # nothing is left to make
        assert run_trust(tmp_path, generator, progress=progress) == finished_run[1]


def test_trust_estimate_counts_videos(tmp_path, caplog):
    with caplog.at_level("INFO"), limited(tmp_path, "trust") as progress:
        run_trust(tmp_path, progress=progress)
    lines = [r.getMessage() for r in caplog.records if "estimate after" in r.getMessage()]
    assert ["at most 32 more videos" in lines[0], "at most 28 more videos" in lines[1]] == [
        True
    ] * 2


def test_trust_scores_missing_samples_only(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_trust(tmp_path, suite=make_suite(interrupt_after=30))
    continued = make_suite()
    run_trust(tmp_path, suite=continued)
    uninterrupted = make_suite()
    run_trust(tmp_path / "other", suite=uninterrupted)
    num_calls = uninterrupted.rewards[0].num_calls
    assert num_calls - 30 <= continued.rewards[0].num_calls < num_calls - 24


def test_trust_failed_videos(tmp_path):
    result = run_trust(tmp_path, PatternGenerator(failing_prompts=PROMPTS))
    assert {entry["verdict"] for entry in result["rewards"].values()} == {verdict.NO_SCORES}
    text = (tmp_path / "trust.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not valid JSON"))
    one_prompt_failed = run_trust(tmp_path / "b", PatternGenerator(failing_prompts=PROMPTS[:1]))
    assert len(one_prompt_failed["rewards"]) == 4


def test_trust_length_correlation(tmp_path):
    SegmentFolder(tmp_path / "pool", Candidate).write(
        [
            Candidate(
                key=f"{prompt}{n}",
                prompt=prompt,
                refined="word " * n,
                round=1,
                index=n,
                parents=(),
                proposer="local",
                seed=0,
                scores={"AES": -float(n), "TVA": float(n)},
            )
            for prompt in "ab"
            for n in range(1, 5)
        ]
    )
    rewards = run_trust(tmp_path)["rewards"]
    assert rewards["AES"]["length_correlation"]["rewrites"] == -1
    assert rewards["TVA"]["length_correlation"]["rewrites"] == 1
    assert rewards["VQ"]["length_correlation"]["rewrites"] is None
    assert rewards["AES"]["length_correlation"]["num_candidates"] == 8


def test_trust_expected_sensitivities(tmp_path):
    expected = {"MPS": ("picture",), "VQ": ("text",)}
    rewards = run_trust(tmp_path, expected_sensitivities=expected)["rewards"]
    assert rewards["MPS"]["verdict"] == verdict.USABLE
    assert rewards["VQ"]["verdict"] == verdict.PROMPT_INSENSITIVE


@pytest.mark.parametrize(
    "options, field",
    [
        (dict(max_prompts=1), "trust.prompts"),
        (dict(seeds=(3,)), "trust.seeds"),
        (dict(severities=(1, 2, 3)), "trust.severities"),
        (dict(severities=(0, 2, 5)), "trust.severities"),
        (dict(num_corrupted=0), "trust.num_corrupted"),
        (dict(expected_sensitivities={"XX": ("text",)}), "trust.expected_sensitivities.XX"),
        (dict(expected_sensitivities={"AES": ("taste",)}), "trust.expected_sensitivities.AES"),
        (dict(expected_sensitivities={"AES": ()}), "trust.expected_sensitivities.AES"),
        (dict(batch_size=0), "generator.batch_size"),
    ],
)
def test_trust_invalid_options(tmp_path, options, field):
    with pytest.raises(BadInput) as error:
        run_trust(tmp_path, **options)
    assert error.value.field == field
    assert not (tmp_path / "trust.json").exists()
