import pytest

from pav_jax.booster.guard import Guard
from pav_jax.errors import BadInput
from pav_jax.evolve.mixture import Mixture, MixtureEntry, split_by_share
from pav_jax.evolve.proposer import ProposalRequest, Proposer


class RecordingProposer(Proposer):
    """Writes "<name> <seed> <i>", or what `reply` returns for the request."""

    def __init__(self, name, reply=None):
        self.name = name
        self.reply = reply
        self.requests = []

    def propose(self, requests):
        self.requests += requests
        return [
            self.reply(r)
            if self.reply
            else [f"{self.name} {r.seed} {i}" for i in range(r.num_rewrites)]
            for r in requests
        ]


def make_request(num_rewrites=3, seed=0, round=1, tried=()):
    return ProposalRequest("a dog", (("a dog", {}),), num_rewrites, seed, round, frozenset(tried))


def test_propose_splits_by_share():
    entries = [
        MixtureEntry(RecordingProposer("a"), 0.75),
        MixtureEntry(RecordingProposer("b"), 0.25),
    ]
    rows = Mixture(entries).propose([make_request(seed=i) for i in range(400)])
    assert all(len(row) == 3 for row in rows)
    share = sum(name == "a" for row in rows for name, _ in row) / 1200
    assert abs(share - 0.75) < 0.03


def test_propose_first_and_last_round():
    a = RecordingProposer("a")
    b = RecordingProposer("b")
    mixture = Mixture([MixtureEntry(a, last_round=1), MixtureEntry(b, first_round=2)])
    assert {name for name, _ in mixture.propose([make_request(round=1)])[0]} == {"a"}
    assert {name for name, _ in mixture.propose([make_request(round=5)])[0]} == {"b"}
    with pytest.raises(BadInput) as caught:
        Mixture([MixtureEntry(a, last_round=1)]).propose([make_request(round=2)])
    assert caught.value.field == "proposers"


def test_propose_missing_rewrites_from_others():
    entries = [
        MixtureEntry(RecordingProposer("mute", lambda request: [])),
        MixtureEntry(RecordingProposer("able")),
    ]
    rows = Mixture(entries, max_attempts=3).propose([make_request(seed=i) for i in range(10)])
    assert all(len(row) == 3 and {name for name, _ in row} == {"able"} for row in rows)


def test_propose_unusable_rewrites(caplog):
    texts = ["", " \n", "a dog", "old one", "new\none", "new one", "w " * 201, "ok"]
    mixture = Mixture.from_proposers(RecordingProposer("w", lambda request: texts))
    (row,) = mixture.propose([make_request(8, tried=["old one"])])
    assert [text for _, text in row] == ["new one", "ok"]
    assert "6 of 8 rewrites are missing" in caplog.text


def test_propose_attempts_differ():
    proposer = RecordingProposer("w", lambda request: ["one"])
    Mixture.from_proposers(proposer).propose([make_request(2)])
    first, second = proposer.requests
    assert first.seed != second.seed
    assert second.num_rewrites == 1 and second.tried == {"one"}


def test_of_equal_shares():
    mixture = Mixture.from_proposers(RecordingProposer("a"), RecordingProposer("b"))
    (row,) = mixture.propose([make_request(2)])
    assert {name for name, _ in row} == {"a", "b"}


def test_mixture_without_entries():
    with pytest.raises(BadInput) as caught:
        Mixture([])
    assert caught.value.field == "proposers"


def test_split_by_share_total():
    for seed in range(20):
        counts = split_by_share(5, [1.0, 3.0, 0.5], seed)
        assert sum(counts) == 5 and counts[0] in (1, 2) and counts[1] in (3, 4)


def test_propose_guarded_rewrites_only():
    texts = ["a dog runs on sand", "a cat sleeps", "a dog in soft light"]
    proposer = RecordingProposer("w", lambda request: texts)
    (row,) = Mixture.from_proposers(proposer, guard=Guard("on")).propose([make_request(3)])
    assert [text for _, text in row] == [texts[0], texts[2]]
