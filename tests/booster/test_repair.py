"""Rewrites that are repaired: faulty sentences go, what was lost is said again."""

import random

import pytest

from pav_jax.booster.repair import say_again, without_faults
from pav_jax.booster.sentences import sentence_spans
from pav_jax.rewards.faithfulness import judge
from tests.booster.guarding import first

PIGEONS = "an old man feeds pigeons in the rain, no cars"
SENTENCES = (
    "An old man feeds pigeons in the rain.",
    "The sky above is a clear blue sky.",
    "A cat watches him.",
    "Drops glisten on his grey coat.",
    "A young man walks past.",
    "Sunlight and snow fall on the empty benches!",
    "The sign reads “No. 5 Mill St.” in red.",
    "Pigeons flutter around his shoes",
)


@pytest.mark.parametrize(
    "prompt,rewrite,rest",
    [
        (
            PIGEONS,
            "An old man feeds pigeons in the rain. A clear blue sky opens. Drops glisten.",
            "An old man feeds pigeons in the rain. Drops glisten.",
        ),
        (
            "two red kites over a beach",
            "Two red kites soar over a beach. Two birds glide past them. The sea shines.",
            "Two red kites soar over a beach. The sea shines.",
        ),
        ("a red car", "A blue car waits.", "A blue car waits."),
        (
            "a red car",
            "A blue car waits. Das Auto und die Straße sind nass.",
            "A blue car waits. Das Auto und die Straße sind nass.",
        ),
        ("a red car", "A red car waits. It is wet.", "A red car waits. It is wet."),
        (
            'a sign that says "Dr. No. 5", no people',
            'A sign says "Dr. No. 5". A man waits. Fog drifts.',
            'A sign says "Dr. No. 5". Fog drifts.',
        ),
    ],
)
def test_without_faults(prompt, rewrite, rest):
    assert without_faults(rewrite, prompt) == rest


def test_without_faults_random_sentences():
    generator = random.Random(0)
    for _ in range(50):
        parts = generator.sample(SENTENCES, generator.randint(1, 5))
        text = without_faults(" ".join(parts), PIGEONS)
        rest = [text[start:end].strip() for start, end in sentence_spans(text)]
        assert rest and " ".join(rest) == text
        before, after = judge(PIGEONS, " ".join(parts)), judge(PIGEONS, text)
        assert len(after.contradicted + after.added) <= len(before.contradicted + before.added)


@pytest.mark.parametrize(
    "prompt,reply,rewrite",
    [
        (
            PIGEONS,
            "In a rain-soaked alley an old man feeds pigeons. A cat sits under a clear blue sky."
            " Drops fall on the stones.",
            "In a rain-soaked alley an old man feeds pigeons. Drops fall on the stones. No cars.",
        ),
        (
            "two red kites over a beach, no people",
            "Two red kites dance over a beach. A man flies them. The waves are calm.",
            "Two red kites dance over a beach. The waves are calm. No people.",
        ),
        (
            "an empty street, no people",
            "An empty street without people. A man waits.",
            "An empty street without people.",
        ),
        (
            "a red fox sleeps in snow",
            "Snow falls and a red fox is near. A farmer waits.",
            "A red fox sleeps in snow. Snow falls and a red fox is near.",
        ),
    ],
)
def test_refine_leaves_out_faulty_sentences(prompt, reply, rewrite):
    refinement = first(prompt, reply)
    assert refinement.refined == rewrite, refinement.reason
    assert not refinement.reverted and not refinement.contradicted and not refinement.added


@pytest.mark.parametrize(
    "prompt,start",
    [
        ("a lamp, gracing a square", "Gracing a square."),
        ("a lamp, zxqstyle square", "zxqstyle square."),
        ("a lamp, iPhone square", "iPhone square."),
        ("a lamp, 3 squares", "3 squares."),
    ],
)
def test_say_again_capitals(prompt, start):
    clause = prompt.partition(", ")[2]
    assert say_again("A lamp.", prompt, [clause], []) == f"A lamp. {start}"


def test_refine_of_another_scene_stands():
    reply = "A blue car waits. A woman dances in a bright kitchen. She smiles."
    refinement = first(PIGEONS, reply)
    assert refinement.reverted and refinement.refined == PIGEONS
