"""Records: keys, seeds and their JSON form."""

import dataclasses
import json
import math

import numpy as np
import pytest

from pav_jax.records import (
    Candidate,
    Preference,
    Proposal,
    candidate_key,
    from_json,
    stable_seed,
    to_json,
)

CANDIDATE = Candidate(
    key="key",
    prompt="emoji 🎈 \u2028 <b>\t\x07",
    refined='"quoted"\nand broken',
    round=1,
    index=2,
    parents=("a", "b"),
    proposer="local",
    seed=7,
    scores={"AES": 0.5, "TVA": 1.25},
    video="videos/x.mp4",
    error="no score: X",
)


def test_to_json_round_trip():
    line = to_json(CANDIDATE)
    assert "\n" not in line
    names = [field.name for field in dataclasses.fields(Candidate)]
    assert [*json.loads(line), "image"] == names  # left out where there is none
    with_image = dataclasses.replace(CANDIDATE, image="0" * 32)
    assert list(json.loads(to_json(with_image))) == names
    assert from_json(Candidate, to_json(with_image)).image == "0" * 32
    assert from_json(Candidate, line) == CANDIDATE


def test_to_json_non_finite_scores_become_null():
    scores = {"AES": np.float32("nan"), "TVA": np.float32(0.1), "DD": math.inf}
    line = to_json(dataclasses.replace(CANDIDATE, scores=scores))
    assert json.loads(line)["scores"] == {"AES": None, "TVA": pytest.approx(0.1), "DD": None}
    back = from_json(Candidate, line)
    assert math.isnan(back.scores["AES"])
    assert back.scores["TVA"] == float(np.float32(0.1))


def test_from_json_default_fields_may_be_absent():
    values = json.loads(to_json(CANDIDATE))
    del values["video"], values["error"]
    back = from_json(Candidate, json.dumps(values))
    assert back == dataclasses.replace(CANDIDATE, video=None, error=None)


@pytest.mark.parametrize(
    "line, field",
    [
        ("[1, 2]", "JSON object"),
        ('{"prompt": "p", "chosen": "c", "rejected": "r"}', "margin"),
        ('{"prompt": "p", "chosen": "c", "rejected": "r", "margin": true}', "margin"),
        ('{"prompt": 1, "chosen": "c", "rejected": "r", "margin": 1.0}', "prompt"),
        ('{"prompt": "p", "chosen": "c", "rejected": "r", "margin": 1.0, "x": 1}', "x"),
    ],
)
def test_from_json_wrong_fields(line, field):
    with pytest.raises(ValueError, match=field):
        from_json(Preference, line)


def test_candidate_key_depends_on_every_part():
    parts = [
        ("p", "r", 1, "f"),
        ("p2", "r", 1, "f"),
        ("p", "r2", 1, "f"),
        ("p", "r", 2, "f"),
        ("p", "r", 1, "f2"),
        ("pr", "", 1, "f"),
        ("p", "r", 1, "f", "0" * 32),
        ("p", "r", 1, "f", "1" * 32),
    ]
    assert len({candidate_key(*part) for part in parts}) == len(parts)
    assert candidate_key("p", "r", 1, "f") == candidate_key("p", "r", np.int64(1), "f")
    # keys of existing videos, which have no image
    assert candidate_key("p", "r", 1, "f") == "597270849e75bac9833da4fa8dbb913c"


def test_stable_seed_is_fixed_and_distinct():
    assert stable_seed("evolve", "p", 1) == 392354638
    seeds = {stable_seed("evolve", f"p{i}", r) for i in range(500) for r in range(4)}
    assert len(seeds) == 2000
    assert min(seeds) >= 0 and max(seeds) < 2**31
    assert stable_seed("lone \ud800") == stable_seed("lone \ud800")


@pytest.mark.parametrize(
    "cls, changes, field",
    [
        (Candidate, {"key": ""}, "key"),
        (Candidate, {"round": -1}, "round"),
        (Candidate, {"index": -1}, "index"),
        (Candidate, {"seed": -1}, "seed"),
        (Candidate, {"seed": 10**30}, "seed"),
        (Candidate, {"scores": {"AES": 10**400}}, "scores.AES"),
        (Candidate, {"scores": [1]}, "scores"),
        (Candidate, {"video": 3}, "video"),
        (Proposal, {"proposers": ["a", "b"]}, "proposers"),
        (Proposal, {"refined": []}, "refined"),
    ],
)
def test_from_json_impossible_record(cls, changes, field):
    values = {"key": "k", "prompt": "a", "round": 1, "parents": []}
    if cls is Candidate:
        values |= {"refined": "b", "index": 0, "proposer": "p", "seed": 0, "scores": {}}
    else:
        values |= {"refined": ["b"], "proposers": ["p"]}
    from_json(cls, json.dumps(values))
    with pytest.raises(ValueError, match=field):
        from_json(cls, json.dumps(values | changes))


def test_from_json_nested_too_deeply():
    with pytest.raises(ValueError, match="nested"):
        from_json(Candidate, "[" * 100_000)
