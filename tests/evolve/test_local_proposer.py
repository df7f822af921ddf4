import pytest

from pav_jax.errors import BadInput
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.options import LocalOptions
from pav_jax.evolve.proposer import ProposalRequest
from tests.fakes import PROMPTS, FakeLanguageModel


def make_requests():
    return [
        ProposalRequest(p, ((p, {"AES": 1.0}), (f"better {p}", {"AES": 2.0})), 2 + i % 2, 100 + i)
        for i, p in enumerate(PROMPTS)
    ]


def test_propose_does_not_depend_on_other_requests():
    proposer = LocalProposer(FakeLanguageModel(), LocalOptions(batch_size=2))
    together = proposer.propose(make_requests())
    assert [len(texts) for texts in together] == [2, 3, 2, 3, 2]
    for request, texts in zip(make_requests(), together, strict=True):
        assert LocalProposer(FakeLanguageModel()).propose([request]) == [texts]
    assert LocalProposer(FakeLanguageModel()).propose([]) == []


def test_propose_history_mode():
    shown = []

    def reply(prompt, k, seed):
        shown.append(prompt)
        return "Here: <PROMPT>one</PROMPT> <PROMPT>two</PROMPT> <PROMPT>three</PROMPT>"

    proposer = LocalProposer(FakeLanguageModel(reply), LocalOptions(mode="history"))
    texts = proposer.propose(make_requests()[:2])
    assert texts == [["one", "two"], ["one", "two", "three"]]
    assert shown[0] == f"0. {PROMPTS[0]} (AES 1.00)\n1. better {PROMPTS[0]} (AES 2.00)"


def test_unknown_mode():
    with pytest.raises(BadInput) as caught:
        LocalProposer(FakeLanguageModel(), LocalOptions(mode="chat"), "mine")
    assert caught.value.field == "proposers.mine.mode"
