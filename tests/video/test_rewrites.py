"""Rewrites of a booster as prompts of a generator."""

import dataclasses

import pytest

from pav_jax.booster.guard import Guard, Request
from pav_jax.errors import BadInput
from pav_jax.video import backend
from pav_jax.video.rewrites import read_rewrites

PROMPT = 'a dog runs -ar 9:16 -neg "people, text" -seed 1011'


@pytest.fixture(scope="module")
def rewrite():
    engine = lambda requests, n: [["A brown dog runs over wet sand."] * n for _ in requests]  # noqa: E731
    return Guard().refine([Request(PROMPT)], engine)[0][0]


def test_text_is_without_flags(rewrite):
    assert rewrite.text == "A brown dog runs over wet sand."
    assert rewrite.refined == f'{rewrite.text} -ar 9:16 -neg "people, text" -seed 1011'
    unchanged = Guard().refine([Request("tell me a joke -ar 1:1")], lambda requests, n: [])[0][0]
    assert (unchanged.text, unchanged.refined) == ("tell me a joke", "tell me a joke -ar 1:1")


def test_read_rewrites_takes_text_negative_prompt_and_seed(rewrite):
    assert read_rewrites(rewrite, "", None) == ([rewrite.text], ["people, text"], [1011])
    texts, negatives, seeds = read_rewrites(["a cat", rewrite], "", None)
    assert texts == ["a cat", rewrite.text]
    assert (negatives, seeds) == (["", "people, text"], [0, 1011])


def test_read_rewrites_prefers_arguments(rewrite):
    assert read_rewrites([rewrite, "a cat"], "blur", 5)[1:] == (["blur", "blur"], 5)
    assert read_rewrites([rewrite, rewrite], ["", "x"], [1, 2])[1:] == (
        ["people, text", "x"],
        [1, 2],
    )
    odd = dataclasses.replace(rewrite, settings={"seed": "-1.5"})
    assert read_rewrites(odd, "", None)[2] == [0]


def test_read_rewrites_leaves_strings(rewrite):
    assert read_rewrites("a dog -ar 1:1", "x", None) == (["a dog -ar 1:1"], "x", [0])
    with pytest.raises(BadInput, match="negative_prompt"):
        read_rewrites([rewrite], ["x", "y"], None)


def test_requests_of_back_ends_take_rewrites(rewrite):
    request = backend.make_request({}, rewrite, "", None, {})
    assert request.prompts == [rewrite.text]
    assert (request.negative_prompts, request.seeds) == (["people, text"], [1011])
