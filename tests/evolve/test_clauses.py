import pytest

from pav_jax.evolve.clauses import (
    Clause,
    append_clause,
    content,
    join_clauses,
    remove_clause,
    replace_clause,
    root,
    split_clauses,
)

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
def test_join_clauses_inverts_split(text):
    assert join_clauses(split_clauses(text)) == text


def test_split_clauses_at_punctuation_and_conjunctions():
    assert [c.text for c in split_clauses(TEXTS[0]) if c.text] == [
        "A dog runs",
        "It's fast",
        "in dim light",
        "the shot is shaky",
    ]
    assert [c.text for c in split_clauses("a sandy and 3.5 m wide beach, sunny")] == [
        "a sandy",
        "3.5 m wide beach",
        "sunny",
    ]


@pytest.mark.parametrize(
    "a, b",
    [
        ("bounces", "bouncing"),
        ("running", "run"),
        ("dogs", "dog"),
        ("glided", "gliding"),
        ("cities", "city"),
        ("noise", "noisy"),
        ("star", "starry"),
    ],
)
def test_root_of_inflected_words(a, b):
    assert root(a) == root(b)


def test_content_leaves_out_function_words():
    assert content("a video of the dog, it is on a mat") == {root("dog"), root("mat")}


def test_edit_clauses():
    clauses = split_clauses("A dog runs. The light is dim, the shot is shaky.")
    assert join_clauses(replace_clause(clauses, 1, "it is bright")) == (
        "A dog runs. It is bright, the shot is shaky."
    )
    assert join_clauses(remove_clause(clauses, 2)) == "A dog runs. The light is dim."
    assert join_clauses(append_clause(clauses, "Sharp focus")) == (
        "A dog runs. The light is dim, the shot is shaky, sharp focus."
    )
    assert join_clauses(append_clause([Clause("A dog runs", ".")], "sharp focus")) == (
        "A dog runs. Sharp focus."
    )
