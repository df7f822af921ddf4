"""Prompts and answers as token ids, and what is cut."""

import pytest

from tests.tiny.language_model import WORDS, make_encoder


def ids(text):
    return [WORDS.index(w) for w in text.split()]


def test_encode_two_answers():
    encoded = make_encoder().encode("a b", ["c d", "e"])
    assert encoded.num_prompt_tokens == 5
    assert not encoded.prompt_truncated and not encoded.answer_truncated
    assert [list(row) for row in encoded.rows] == [
        ids("<s> <user> a b <booster> c d </s>"),
        ids("<s> <user> a b <booster> e </s>"),
    ]


def test_encode_prompt_with_template_markers():
    encoded = make_encoder().encode("a <booster> b", ["c"])
    assert encoded.num_prompt_tokens == len(encoded.rows[0]) - 2


def test_encode_long_prompt():
    encoded = make_encoder(max_prompt_length=4).encode("a b c d e", ["f"])
    assert encoded.prompt_truncated and encoded.num_prompt_tokens == 4
    assert list(encoded.rows[0]) == ids("<s> d e <booster> f </s>")


def test_encode_long_answer():
    encoded = make_encoder(max_length=6).encode("a", ["b c d e"])
    assert encoded.answer_truncated and list(encoded.rows[0]) == ids("<s> <user> a <booster> b c")


@pytest.mark.parametrize(
    "pair, is_usable",
    [
        (("a", "b"), True),  # short, but whole
        (("a", "a"), True),  # as the file says it
        (("a b c d e f g", "a"), True),
        (("a b c d e f g", "a b c d e f h"), False),  # they differ after the end
        (("a b c d e f g", "a b c d e f g h"), False),
        (("b b c d e f g", "a b c d e f g"), True),
    ],
)
def test_is_usable_truncated_answers(pair, is_usable):
    encoded = make_encoder(max_length=8).encode("a", pair)  # 4 tokens of an answer
    assert encoded.is_usable == is_usable
