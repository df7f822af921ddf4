"""Mixtures of proposers, and building them from a configuration."""

import pytest
from ml_collections import ConfigDict

from pav_jax.errors import BadInput
from pav_jax.evolve.lexicon_proposer import LexiconProposer
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.proposers import Mixture, ProposalRequest, Proposer, Share, make_proposers
from tests.fakes import Rewriter


class Counting(Proposer):
    """Writes "<name> <k>", or what it is told to."""

    def __init__(self, name, answer=None):
        self.name, self.answer, self.asked = name, answer, []

    def propose(self, requests):
        self.asked += requests
        return [
            self.answer(r) if self.answer else [f"{self.name} {r.seed} {i}" for i in range(r.n)]
            for r in requests
        ]


def request(prompt="a dog", n=3, seed=0, round=1, taken=()):
    return ProposalRequest(prompt, ((prompt, {}),), n, seed, round, frozenset(taken))


def test_shares_hold_over_many_requests_and_every_request_is_filled():
    a, b = Counting("a"), Counting("b")
    rows = Mixture([Share(a, 0.75), Share(b, 0.25)]).named([request(seed=i) for i in range(400)])
    assert all(len(row) == 3 for row in rows)
    share = sum(name == "a" for row in rows for name, _ in row) / 1200
    assert abs(share - 0.75) < 0.03


def test_a_proposer_works_only_in_its_rounds():
    a, b = Counting("a"), Counting("b")
    mixture = Mixture([Share(a, last_round=1), Share(b, first_round=2)])
    assert {name for name, _ in mixture.named([request(round=1)])[0]} == {"a"}
    assert {name for name, _ in mixture.named([request(round=5)])[0]} == {"b"}
    with pytest.raises(BadInput, match="none works in round 2"):
        Mixture([Share(a, last_round=1)]).named([request(round=2)])


def test_what_one_proposer_fails_to_write_is_asked_for_again():
    rows = Mixture(
        [Share(Counting("dumb", lambda r: [])), Share(Counting("able"))], attempts=3
    ).named([request(seed=i) for i in range(10)])
    assert all(len(row) == 3 and {name for name, _ in row} == {"able"} for row in rows)


def test_empty_long_old_and_repeated_rewrites_are_not_taken(caplog):
    texts = ["", " \n", "a dog", "old one", "new\none", "new one", "w " * 201, "ok"]
    writer = Counting("w", lambda r: texts)
    (row,) = Mixture([Share(writer)]).named([request(n=8, taken=["old one"])])
    assert [text for _, text in row] == ["new one", "ok"]
    assert "6 of 8 rewrites are missing" in caplog.text


def test_each_attempt_has_another_seed_and_knows_what_is_taken():
    writer = Counting("w", lambda r: ["one"])
    Mixture([Share(writer)]).named([request(n=2)])
    first, second = writer.asked
    assert first.seed != second.seed and second.n == 1 and second.taken == {"one"}


def test_a_configuration_makes_a_mixture_from_a_mapping_or_a_list():
    entries = {
        "early": {"kind": "local", "share": 2.0, "last_round": 1, "temperature": 0.5},
        "lexicon": {"share": 1.0},
    }
    settings = ConfigDict({"proposers": entries, "evolve": {"attempts": 4}})
    mixture = make_proposers(settings, Rewriter(), lambda p, r: 1.0)
    early, lexicon = mixture.shares
    assert isinstance(early.proposer, LocalProposer) and isinstance(
        lexicon.proposer, LexiconProposer
    )
    assert (early.proposer.name, early.share, early.last_round, mixture.attempts) == (
        "early",
        2.0,
        1,
        4,
    )
    listed = make_proposers(ConfigDict({"proposers": [{"kind": "lexicon", "share": 0.5}]}))
    assert (listed.shares[0].proposer.name, listed.shares[0].share) == ("lexicon", 0.5)


@pytest.mark.parametrize(
    "entries, said",
    [
        ({"x": {"kind": "oracle"}}, r"proposers\.x\.kind='oracle'"),
        ({"x": {"kind": "lexicon", "temprature": 1}}, r"proposers\.x\.temprature: unknown"),
        ({"local": {}}, "needs a rewriter"),
        ({"x": {"kind": "chat", "model": "m"}}, r"proposers\.x\.base_url: missing"),
        ({}, "none is configured"),
    ],
)
def test_a_wrong_configuration_is_bad_input_that_names_the_field(entries, said):
    with pytest.raises(BadInput, match=said):
        make_proposers(ConfigDict({"proposers": entries}))
