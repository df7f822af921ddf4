"""A language model as proposer: seeds per request, both ways of asking."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.proposers import ProposalRequest
from tests.fakes import PROMPTS, Rewriter


def requests(n=2):
    return [
        ProposalRequest(p, ((p, {"AES": 1.0}), (f"better {p}", {"AES": 2.0})), n + i % 2, 100 + i)
        for i, p in enumerate(PROMPTS)
    ]


def test_rewrites_do_not_depend_on_what_else_is_asked():
    together = LocalProposer(Rewriter(), batch_size=2).propose(requests())
    assert [len(texts) for texts in together] == [2, 3, 2, 3, 2]
    for request, texts in zip(requests(), together, strict=True):
        assert LocalProposer(Rewriter()).propose([request]) == [texts]
    assert LocalProposer(Rewriter()).propose([]) == []


def test_history_mode_shows_the_scored_rewrites_and_reads_the_tags():
    shown = []

    def answer(prompt, k, seed):
        shown.append(prompt)
        return "Here: <PROMPT>one</PROMPT> <PROMPT>two</PROMPT> <PROMPT>three</PROMPT>"

    texts = LocalProposer(Rewriter(answer), mode="history").propose(requests()[:2])
    assert texts == [["one", "two"], ["one", "two", "three"]]
    assert shown[0] == f"0. {PROMPTS[0]} (AES 1.00)\n1. better {PROMPTS[0]} (AES 2.00)"


def test_an_unknown_mode_is_refused():
    with pytest.raises(BadInput, match=r"proposers\.local\.mode"):
        LocalProposer(Rewriter(), mode="chat")
