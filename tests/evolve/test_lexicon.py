import json

import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.evolve.lexicon import GOOD, PHRASES, POOR, Lexicon


@pytest.mark.parametrize(
    "text, aspect, level, start",
    [
        ("the light is dim", "light", GOOD, "the light is "),
        ("dim light", "light", GOOD, ""),
        ("an underexposed street", "light", GOOD, "an well exposed street"),
        ("Blurry picture", "focus", GOOD, "sharp picture"),
        ("sharp picture", "focus", POOR, "blurry picture"),
        ("the film is slightly grainy", "noise", GOOD, "the film is "),
    ],
)
def test_regrade(text, aspect, level, start):
    lexicon = Lexicon()
    assert aspect in lexicon.about(text)
    changed = lexicon.regrade(text, aspect, level, np.random.default_rng(0))
    assert changed and changed != text and changed.startswith(start)
    assert "slightly" not in changed


@pytest.mark.parametrize(
    "text, aspect",
    [
        ("a dog in a dim street", "light"),
        ("the light is bright", "light"),
        ("a dog", "focus"),
        ("a delight in dimness", "light"),
        ("the camera pans", "camera"),
    ],
)
def test_regrade_nothing_to_change(text, aspect):
    assert Lexicon().regrade(text, aspect, GOOD, np.random.default_rng(0)) is None


def test_phrases_are_about_their_aspect():
    lexicon = Lexicon()
    for aspect, phrases in lexicon.phrases.items():
        for phrase in phrases:
            assert aspect in lexicon.about(phrase), (aspect, phrase)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"aspects": {"light": {}}}), None])
def test_lexicon_unusable_file(tmp_path, text):
    path = tmp_path / "mine.json"
    if text:
        path.write_text(text)
    with pytest.raises(BadInput) as caught:
        Lexicon(path)
    assert caught.value.source == str(path)


def test_lexicon_default_file():
    assert Lexicon(PHRASES).aspects == Lexicon().aspects
