"""Text to be read that only the rewrite has."""

import pytest

from tests.booster.guarding import first


@pytest.mark.parametrize(
    "prompt,reply,rewrite",
    [
        ("a dog runs", "A dog runs. The caption reads: 'summer days'. It is hot.", None),
        ("a dog runs", "A dog runs. A caption reads: summer days. It is hot.", None),
        ("a dog runs", 'A dog runs. A sign says "Stop. Go home." It is hot.', None),
        ("a dog runs", "A dog runs. “Come!” calls a bowl. It is hot.", None),
        ("a dog runs", "A dog runs, and the words 'The End' appear.", "a dog runs"),
        ("a sign, stop", 'A stop sign says "Stop!" in red.', 'A stop sign says "Stop!" in red.'),
        ("a man says hi", 'A man says "Hi" and waves.', 'A man says "Hi" and waves.'),
        ("dogs run", "The dogs' bowls lie near, dogs run.", "The dogs' bowls lie near, dogs run."),
    ],
)
def test_refine_invented_text(prompt, reply, rewrite):
    assert first(prompt, reply).refined == (rewrite or "A dog runs. It is hot.")


def test_refine_keeps_own_quote_beside_invented_text():
    reply = 'A red sign "OPEN" glows. A second sign reads "CLOSED". It rains.'
    assert first('a sign "OPEN"', reply).refined == 'A red sign "OPEN" glows. It rains.'
