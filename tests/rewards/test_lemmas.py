import pytest

from pav_jax.rewards.faithfulness import load_lexicon
from pav_jax.rewards.lemmas import related, words

FORMS = {
    "glide": "glides gliding glided",
    "hop": "hops hopping hopped",
    "hope": "hoping hoped",
    "run": "ran running runs",
    "fall": "fell falling fallen falls",
    "carry": "carries carried carrying",
    "box": "boxes",
    "church": "churches",
    "wolf": "wolves",
    "child": "children",
    "city": "cities",
    "bus": "buses",
    "make": "making makes",
    "fill": "filling",
    "pass": "passing passed passes",
    "visit": "visited visiting",
    "float": "floating",
    "big": "bigger biggest",
    "happy": "happier",
    "slow": "slowly slower",
    "colour": "colors coloured",
    "dance": "dancing",
    "spin": "spun spinning",
    "glass": "glass",
    "building": "buildings",
    "sheep": "sheep",
    "lie": "lying",
    "drag": "dragged",
    "sing": "singing",
}


@pytest.mark.parametrize("base", FORMS)
def test_lemma_inflected(base):
    assert {load_lexicon().lemmatise.lemma(form) for form in FORMS[base].split()} == {base}


def test_words_hyphens_and_possessives():
    assert words("The Dog’s slow-motion run, at 8 o'clock; dogs' 2nd") == [
        "the",
        "dog",
        "slow",
        "motion",
        "run",
        "at",
        "8",
        "o'clock",
        "dogs",
        "2nd",
    ]


@pytest.mark.parametrize(
    "a,b",
    [
        ("snow", "snowy"),
        ("celebrate", "celebration"),
        ("paint", "painter"),
        ("rain", "rainfall"),
    ],
)
def test_related_derived_words(a, b):
    assert related(a, b) and related(b, a)


@pytest.mark.parametrize(
    "a,b", [("car", "carpet"), ("cat", "category"), ("star", "starve"), ("pan", "panda")]
)
def test_related_common_prefix_only(a, b):
    assert not related(a, b)
