"""Clauses, stems and graded phrases."""

import json

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.evolve.lexicon import GOOD, PHRASES, POOR, Lexicon, content, join, split, stem

TEXTS = [
    "A dog runs. It's fast, in dim light, and the shot is shaky!",
    "3.5 cats, no; 2:1 / 16:9",
    "",
    "one",
    "...",
    "a, b and c while d.",
    "  spaced ,  out ",
    "naïve 🎈 é. x",
    "no end,",
    "sand and candy",
]


@pytest.mark.parametrize("text", TEXTS)
def test_clauses_join_to_the_text_they_came_from(text):
    assert join(split(text)) == text


def test_a_clause_ends_at_punctuation_or_a_joining_word():
    assert [c.text for c in split(TEXTS[0]) if c.text] == [
        "A dog runs",
        "It's fast",
        "in dim light",
        "the shot is shaky",
    ]
    assert [c.text for c in split("a sandy and 3.5 m wide beach, sunny")] == [
        "a sandy",
        "3.5 m wide beach",
        "sunny",
    ]


def test_forms_of_a_word_share_a_stem_and_function_words_carry_no_content():
    for a, b in (
        ("bounces", "bouncing"),
        ("running", "run"),
        ("dogs", "dog"),
        ("glided", "gliding"),
        ("cities", "city"),
    ):
        assert stem(a) == stem(b)
    assert content("a video of the dog, it is on a mat") == {stem("dog"), stem("mat")}


@pytest.mark.parametrize(
    "text, aspect, level, choices",
    [
        ("the light is dim", "light", GOOD, "the light is "),
        ("dim light", "light", GOOD, ""),
        ("an underexposed street", "light", GOOD, "an well exposed street"),
        ("Blurry picture", "focus", GOOD, "sharp picture"),
        ("sharp picture", "focus", POOR, "blurry picture"),
        ("the film is slightly grainy", "noise", GOOD, "the film is "),
    ],
)
def test_a_phrase_is_put_at_another_level(text, aspect, level, choices):
    lexicon, rng = Lexicon(), np.random.default_rng(0)
    assert aspect in lexicon.about(text)
    changed = lexicon.regrade(text, aspect, level, rng)
    assert changed and changed != text and changed.startswith(choices)
    assert "slightly" not in changed


def test_nothing_is_regraded_where_nothing_is_said_or_all_is_well():
    lexicon, rng = Lexicon(), np.random.default_rng(0)
    for text, aspect in (
        ("a dog in a dim street", "light"),
        ("the light is bright", "light"),
        ("a dog", "focus"),
        ("a delight in dimness", "light"),
        ("the camera pans", "camera"),
    ):
        assert lexicon.regrade(text, aspect, GOOD, rng) is None


def test_every_listed_phrase_speaks_of_its_own_aspect():
    lexicon = Lexicon()
    for aspect, phrases in lexicon.phrases.items():
        for phrase in phrases:
            assert aspect in lexicon.about(phrase), (aspect, phrase)


def test_a_broken_phrase_list_is_bad_input(tmp_path):
    path = tmp_path / "mine.json"
    for text in ("{", "[]", json.dumps({"aspects": {"light": {}}})):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"mine\.json: not a phrase list"):
            Lexicon(path)
    with pytest.raises(BadInput, match="cannot be read"):
        Lexicon(tmp_path / "absent.json")
    assert Lexicon(PHRASES).aspects == Lexicon().aspects
