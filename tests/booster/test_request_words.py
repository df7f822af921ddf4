"""Words that ask for a scene: they are taken off before it is rewritten."""

import pytest

from pav_jax.booster.guard import Guard, Request
from pav_jax.booster.request_words import without_request
from tests.booster.guarding import first


@pytest.mark.parametrize(
    "prompt,scene",
    [
        ("I want a video of a dog", "a dog"),
        ("can you make me a video of a dog running?", "a dog running"),
        ("Please generate a cat, please!", "a cat"),
        ("I'd like to see boats at sea, thank you", "boats at sea"),
        ("give me a cinematic shot of a lion", "a cinematic shot of a lion"),
        ("can you make a time-lapse of a city?", "a time-lapse of a city"),
        ("make a cake", "make a cake"),
        ("a man wants a video of a dog", "a man wants a video of a dog"),
        ("I need you now", "I need you now"),
    ],
)
def test_without_request(prompt, scene):
    assert without_request(prompt) == scene


def test_refine_request_need_not_be_kept():
    def engine(requests, num_samples):
        assert [request.prompt for request in requests] == ["a dog running"]
        return [["A dog running fast."] * num_samples]

    request = Request("can you make me a video of a dog running?")
    refinement = Guard().refine([request], engine)[0][0]
    assert refinement.refined == "A dog running fast."
    assert refinement.kept == ("dog", "running")  # vocabulary: ignore
    for reply in ("I want a video of a dog running.", "A dog running. I'd like to see it run."):
        answered = first(request.prompt, reply)
        assert answered.refined == request.prompt and "an answer" in answered.reason
    with_term = first("I want a video of a dog", "A dog.", keep=["video"])
    assert with_term.reverted  # the words of the request have a term to keep
