import logging

import pytest

from pav_jax.candidates.prompt_text import plain_text, usable_prompts
from pav_jax.errors import BadInput


def test_usable_prompts_skipped(caplog):
    caplog.set_level(logging.INFO)
    prompts = [
        "a dog",
        "",
        "  \t",
        "\x00\x07",
        "in 1999 a cat",
        "a cat 12",
        "a  dog",
        "x" * 10_000,
        "a bird",
    ]
    assert usable_prompts(prompts) == ["a dog", "a cat 12", "a bird"]
    assert usable_prompts(prompts, 2) == ["a dog", "a cat 12"]
    for part in ("3 empty", "1 over 2 digits", "1 repeated", "1 over 2000 characters"):
        assert part in caplog.text


@pytest.mark.parametrize("prompts", [[], ["", " "], ["9" * 20]])
def test_usable_prompts_none(prompts):
    with pytest.raises(BadInput) as caught:
        usable_prompts(prompts)
    assert caught.value.source == "prompts"


def test_plain_text_control_characters():
    assert plain_text("a <b>🎈</b>\x07 rises\r\n\tup\u2028 ") == "a <b>🎈</b> rises up"
