"""Which prompts are used."""

import logging

import pytest

from pav_jax.candidates.prompt_text import plain_text, usable_prompts
from pav_jax.errors import BadInput


def test_empty_long_repeated_and_numeric_prompts_are_left_out_and_reported(caplog):
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


def test_no_usable_prompt_is_bad_input():
    for prompts in ([], ["", " "], ["9" * 20]):
        with pytest.raises(BadInput, match="prompts: none"):
            usable_prompts(prompts)


def test_markup_and_emoji_stay_and_control_characters_go():
    assert plain_text("a <b>🎈</b>\x07 rises\r\n\tup\u2028 ") == "a <b>🎈</b> rises up"
