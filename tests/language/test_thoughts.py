"""What a model thinks is not part of its answer."""

import pytest

from pav_jax.booster.booster import Booster
from pav_jax.evolve.local_proposer import LocalProposer
from pav_jax.evolve.proposer import ProposalRequest
from pav_jax.language.thoughts import open_thought, without_thoughts

REPLIES = [  # reply, answer; "": the user's prompt stands
    ("A dog runs.", "A dog runs."),
    ("<think>\n\n</think>\n\nA dog runs.", "A dog runs."),
    ("<think>a < b, so\nno</think>A dog runs.", "A dog runs."),
    ("<Think>one</Think>A dog<think>two</think> runs.", "A dog runs."),
    ("<think>a <think> b</think>A dog runs.", "A dog runs."),
    ("the user wants a dog</think>\nA dog runs.", "A dog runs."),
    ("[THINK]a dog[/THINK]A dog runs.", "A dog runs."),
    ("<|channel>thought\na dog<channel|>A dog runs.", "A dog runs."),
    ("<thinking>a dog</thinking> A dog runs.", "A dog runs."),
    ("<seed:think>a dog</seed:think>A dog runs.", "A dog runs."),
    ("<think>the user wants a dog", ""),
    ("[THINK]the user", ""),
    ("A dog. <think>or rather", ""),
    ("<think>all of it</think>", ""),
]


class Model:
    """Reply always the same."""

    name = "model"

    def __init__(self, reply):
        self.reply = reply

    def generate(self, chats, num_return_sequences, **_):
        return [[self.reply] * num_return_sequences for _ in chats]


@pytest.mark.parametrize(("reply", "answer"), REPLIES)
def test_without_thoughts(reply, answer):
    assert without_thoughts(reply).strip() == answer


@pytest.mark.parametrize(("reply", "answer"), REPLIES)
def test_booster_and_proposer_remove_thoughts(reply, answer):
    assert Booster(Model(reply)).refine("a dog")[0][0].refined == (answer or "a dog")
    request = ProposalRequest("a dog", history=(), num_rewrites=1, seed=0)
    ((text,),) = LocalProposer(Model(reply)).propose([request])
    assert text.strip() == answer


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("assistant\n<think>\n", "<think>"),
        ("[THINK]", "[THINK]"),
        ("<|channel>thought\n", "<|channel>"),
        ("<think>\n\n</think>\n\n", ""),
        ("say <think> now", ""),
    ],
)
def test_open_thought(prompt, mark):
    assert open_thought(prompt) == mark
