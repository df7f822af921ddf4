import json

import pytest
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.records import Candidate
from pav_jax.storage.records import SegmentWriter
from pav_jax.trust import verdict
from pav_jax.trust.config import trust_config
from pav_jax.trust.corruptions import CORRUPTION_TYPES
from pav_jax.trust.table import one_screen, show
from pav_jax.trust.trust import trust
from tests.trust.fakes import PROMPTS, Generator, suite


def config(batch=4, **options):
    fields = trust_config().to_dict() | dict(seeds=(0, 1, 2), degraded=10, resamples=200) | options
    return ConfigDict(dict(generator=dict(batch=batch), trust=fields))


def run(folder, generator=None, rewards=None, **options):
    return trust(config(**options), PROMPTS, generator or Generator(), rewards or suite(), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def test_each_reward_gets_the_verdict_it_deserves(whole):
    rewards = whole[1]["rewards"]
    assert {name: entry["verdict"] for name, entry in rewards.items()} == {
        "AES": "usable",
        "VQ": "noisy",
        "TVA": "usable",
        "MPS": "does not read the prompt",
    }
    assert (
        rewards["TVA"]["shuffle"]["auc"] == 1.0
        and rewards["TVA"]["shuffle"]["minus_permuted"][1] > 0
    )
    assert (
        rewards["AES"]["shuffle"]["minus_permuted"] == [0, 0, 0]
        and not rewards["AES"]["reads_prompt"]
    )
    assert "need not read the prompt" in rewards["AES"]["why"]
    assert rewards["MPS"]["reads_prompt"] and "AUC 0.50" in rewards["MPS"]["why"][0]


def test_a_reward_that_refuses_the_empty_prompt_is_recorded(whole):
    shuffle = {name: entry["shuffle"] for name, entry in whole[1]["rewards"].items()}
    assert shuffle["MPS"]["empty_refused"] == "nothing to read: <b>"
    assert shuffle["MPS"]["minus_empty"] == [None] * 3
    assert shuffle["TVA"]["empty_refused"] is None and shuffle["TVA"]["minus_empty"][
        0
    ] == pytest.approx(8)


def test_thresholds_are_fixed_on_one_half_and_verified_on_the_other(whole):
    result = whole[1]
    assert sorted(result["halves"]["fixed"] + result["halves"]["verified"]) == sorted(
        CORRUPTION_TYPES
    )
    for name, entry in result["rewards"].items():
        assert set(entry["response"]) == set(CORRUPTION_TYPES)
        halves = entry["halves"]
        assert halves["fixed"]["threshold"] == halves["verified"]["threshold"] >= verdict.LEAST
        assert halves["verified"]["chance"] < 0.05, name
    good = result["rewards"]["AES"]
    assert (
        good["halves"]["verified"]["correlation"] < -0.9
        and good["halves"]["verified"]["noticed"] == 1
    )
    assert [k for k, r in good["response"].items() if r["claimed"]] == [
        "blur",
        "noise",
        "darkness",
        "low contrast",
    ]


def test_videos_are_made_once_in_one_shape(tmp_path):
    generator, rewards = Generator(), suite()
    run(tmp_path, generator, rewards, batch=5)
    assert (
        len(set(generator.made)) == 36 and len(generator.made) == 40
    )  # the last batch is filled up
    assert all(reward.shapes == {5} for reward in rewards.rewards)


@pytest.mark.parametrize("where", ["generator", "reward"])
def test_a_kill_loses_at_most_what_was_being_made(whole, tmp_path, where):
    died = (
        (Generator(dies_after=4), suite())
        if where == "generator"
        else (Generator(), suite(dies_after=30))
    )
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *died)
    assert not (tmp_path / "trust.json").exists()
    generator = Generator()
    assert run(tmp_path, generator) == whole[1]
    finished = 4 if where == "generator" else 0  # of the first batch some kinds of damage were left
    assert generator.calls == 9 - finished
    assert (tmp_path / "trust.json").read_bytes() == (whole[0] / "trust.json").read_bytes()
    again = Generator()
    run(tmp_path, again)
    assert again.calls == 0


def test_only_what_is_missing_is_scored_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Generator(), suite(dies_after=30))
    rewards = suite()
    run(tmp_path, Generator(), rewards)
    fresh = suite()
    run(tmp_path / "other", Generator(), fresh)
    assert fresh.rewards[0].calls - 30 <= rewards.rewards[0].calls < fresh.rewards[0].calls - 24


def test_what_came_out_as_nan_is_no_score(tmp_path):
    result = run(tmp_path, Generator(broken=PROMPTS))
    assert {entry["verdict"] for entry in result["rewards"].values()} == {"no scores"}
    json.loads((tmp_path / "trust.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert len(run(tmp_path / "b", Generator(broken=PROMPTS[:1]))["rewards"]) == 4


def test_rewrites_in_the_pool_show_what_length_does(tmp_path):
    SegmentWriter(tmp_path / "pool").write(
        [
            Candidate(
                f"{p}{n}", p, "word " * n, 1, n, (), "local", 0, {"AES": -float(n), "TVA": float(n)}
            )
            for p in "ab"
            for n in range(1, 5)
        ]
    )
    lengths = {name: entry["length"] for name, entry in run(tmp_path)["rewards"].items()}
    assert (lengths["AES"]["rewrites"], lengths["TVA"]["rewrites"], lengths["VQ"]["rewrites"]) == (
        -1,
        1,
        None,
    )
    assert lengths["AES"]["pool"] == 8


def test_claims_may_be_ones_own(tmp_path):
    result = run(tmp_path, claims={"MPS": ("picture",), "VQ": ("text",)})
    assert result["rewards"]["MPS"]["verdict"] == "usable"
    assert result["rewards"]["VQ"]["verdict"] == "does not read the prompt"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(count=1), "at least 2 are needed, so that they can be permuted"),
        (dict(seeds=(3,)), "trust.seeds"),
        (dict(severities=(1, 2, 3)), "give 0 and at least two others"),
        (dict(severities=(0, 2, 5)), "up to 4, rising"),
        (dict(degraded=0), "at least one video"),
        (dict(claims={"XX": ("text",)}), "trust.claims.XX: no entry"),
        (dict(claims={"AES": ("taste",)}), "'taste'] is no family"),
        (dict(batch=0), "generator.batch=0"),
    ],
)
def test_what_cannot_be_measured_is_said(tmp_path, options, message):
    with pytest.raises(BadInput) as caught:
        run(tmp_path, **options)
    assert message in str(caught.value) and not (tmp_path / "trust.json").exists()


def test_the_table_has_a_row_for_each_score(whole, capsys):
    rows = one_screen(whole[1])
    assert [row[0] for row in rows[1:]] == ["AES", "VQ", "TVA", "MPS"]
    assert len({len(row) for row in rows}) == 1
    show(whole[1])
    text = capsys.readouterr().out
    assert "does not read the prompt" in text and len(text.splitlines()) < 24
