"""Captions and user prompts: lengths, synonyms, styles, and faithfulness of the styles to
prompts."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pav_jax.mini import captions, world
from pav_jax.mini import vocabulary as v
from pav_jax.mini.captions import NUM_STYLES, caption, styled_caption, tag_caption, user_prompt
from pav_jax.mini.tokenizers import t5_tokenizer
from pav_jax.mini.world import draw_scene
from pav_jax.rewards.faithfulness import faithfulness
from tests.mini.scene_parser import TABLES, parse, parse_triple

MAX_TOKENS = 64  # that the generator reads


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(5)
    return [draw_scene(rng) for _ in range(4000)]


@pytest.fixture(scope="module")
def prompts(scenes):
    rng = np.random.default_rng(6)
    return [user_prompt(s, rng) for s in scenes]


@pytest.fixture(scope="module")
def firsts(scenes):
    """The first sentences of captions: the content, without camera and qualities."""
    rng = np.random.default_rng(7)
    return [caption(s, rng).split(". ")[0] for s in scenes]


# ------------------------------------------------------------------------------------- user prompts


def test_user_prompt_length(prompts):
    lengths = [len(p.split()) for p in prompts]
    assert set(lengths) >= set(range(4, 10)) and min(lengths) == 4
    # "video of a jade plus sign sliding to the left": the longest form of the longest names, two
    # prompts in a thousand
    assert max(lengths) <= 10 and np.mean(np.array(lengths) == 10) < 0.005


def test_user_prompt_names_triple(scenes, prompts):
    assert [parse_triple(p) for p in prompts] == [s.triple for s in scenes]


def test_user_prompt_optional_slots_match_scene(scenes, prompts):
    for slot, share in (("size", (0.02, 0.4)), ("background", (0.2, 0.8))):
        named = [(parse(p, slot), getattr(s, slot)) for s, p in zip(scenes, prompts, strict=True)]
        parsed = [(value[0], truth) for value, truth in named if value]
        assert all(value == truth for value, truth in parsed)
        assert share[0] < len(parsed) / len(named) < share[1], slot


@pytest.mark.parametrize("slot", ["subject", "colour", "motion", "background"])
def test_user_prompt_synonyms_uniform(slot, prompts):
    pairs = [parse(p, slot) for p in prompts]
    if slot == "motion":
        pairs = [pair or parse(p, "gerund") for pair, p in zip(pairs, prompts, strict=True)]
    table = list(TABLES[slot].values())
    counts = np.zeros((len(table), max(map(len, table))))
    for pair in pairs:
        if pair:
            counts[pair] += 1
    observed = [counts[c, s] for c, words in enumerate(table) for s in range(len(words))]
    expected = [counts[c].sum() / len(words) for c, words in enumerate(table) for _ in words]
    assert min(expected) > 20
    assert stats.chisquare(observed, expected, ddof=len(table) - 1).pvalue > 1e-3


def test_user_prompt_articles(prompts):
    for word, following in ((a, b) for p in prompts for a, b in itertools.pairwise(p.split())):
        if word in ("a", "an"):
            assert (word == "an") == (following[0] in "aeiou")


# ----------------------------------------------------------------------------------------- captions


@pytest.mark.parametrize("slot", ["subject", "colour", "size", "material", "motion", "background"])
def test_caption_canonical_share(slot, scenes, firsts):
    pairs = [parse(text, slot) for text in firsts]
    assert [concept for concept, _ in pairs] == [getattr(s, slot) for s in scenes]
    share = np.mean([synonym == 0 for _, synonym in pairs])
    assert share == pytest.approx(captions.CANONICAL, abs=0.015)  # four standard errors


@pytest.mark.slow
def test_caption_num_tokens(scenes):
    rng = np.random.default_rng(8)
    ids = t5_tokenizer()([caption(s, rng) for s in scenes])["input_ids"]
    lengths = np.array([len(i) for i in ids])
    assert np.mean((lengths >= 35) & (lengths <= 60)) > 0.99
    assert lengths.max() <= MAX_TOKENS


def test_caption_qualities_match_scene(scenes):
    rng = np.random.default_rng(9)
    stated = []
    for scene in scenes[:1000]:
        qualities = caption(scene, rng).split(". ", 1)[1]
        for name, level in zip(world.QUALITIES, scene.quality, strict=True):
            levels = [i for i, clause in enumerate(v.QUALITIES[name]) if f" {clause}" in qualities]
            assert levels in ([], [level])
            stated.append(bool(levels))
    assert np.mean(stated) == pytest.approx(0.95, abs=0.02)


# ------------------------------------------------------------------------------------------- styles


def test_styled_caption_first_style_is_caption(scenes):
    assert NUM_STYLES == 8
    styled = styled_caption(scenes[0], 0, np.random.default_rng(1), canonical=0.95)
    assert styled == caption(scenes[0], np.random.default_rng(1))


def test_styled_caption_unknown_style(scenes):
    with pytest.raises(IndexError):
        styled_caption(scenes[0], NUM_STYLES, np.random.default_rng(1))


def test_styled_caption_styles_differ(scenes):
    rng = np.random.default_rng(10)
    overlaps = []
    for scene in scenes[:200]:  # first synonyms only, so that only the style differs
        texts = [
            set(styled_caption(scene, style, rng, canonical=1.0).split())
            for style in range(NUM_STYLES)
        ]
        overlaps.append([len(a & b) / len(a | b) for a, b in itertools.combinations(texts, 2)])
    assert np.mean(overlaps, axis=0).max() < 0.5


@pytest.mark.slow
def test_styled_caption_faithful_to_prompt(scenes):
    rng = np.random.default_rng(11)
    for style in range(NUM_STYLES):
        sample = [scenes[i] for i in rng.integers(len(scenes), size=60)]
        prompts = [user_prompt(scene, rng) for scene in sample]
        texts = [styled_caption(scene, style, rng) for scene in sample]
        own = np.array([faithfulness(p, text) for p, text in zip(prompts, texts, strict=True)])
        shifted = texts[1:] + texts[:1]
        other = [faithfulness(p, text) for p, text in zip(prompts, shifted, strict=True)]
        assert np.mean(own) > 0.97, style
        assert np.mean(own >= 0.7) > 0.97, style  # 0.7 is the default constraint
        assert np.mean(other) < 0.5, style


# ----------------------------------------------------------------- captions of the second generator


@pytest.fixture(scope="module")
def tags(scenes):
    rng = np.random.default_rng(12)
    return [tag_caption(s, rng) for s in scenes]


def parse_tags(text):
    """(concept, synonym) of the first seven tags."""
    slots = ("subject", "colour", "size", "material", "gerund", "background", "camera")
    return {slot: parse(tag, slot) for slot, tag in zip(slots, text.split(", "), strict=False)}


def test_tag_caption_second_synonym_share(scenes, tags):
    parsed = [parse_tags(text) for text in tags]
    for slot in parsed[0]:
        name = "motion" if slot == "gerund" else slot
        assert [row[slot][0] for row in parsed] == [getattr(s, name) for s in scenes], slot
        share = np.mean([row[slot][1] == 1 for row in parsed])
        assert share == pytest.approx(captions.CANONICAL, abs=0.015), slot


def test_tag_caption_words_differ_from_caption(scenes):
    """Both with their favourite words; function words are left out."""
    rng = np.random.default_rng(13)
    function_words = {"a", "an", "the", "over", "in", "before", "of", "is", "sky", "wall", "camera"}
    for scene in scenes[:300]:
        first, second = (
            {w.strip(",.") for w in text.split()} - function_words
            for text in (caption(scene, rng, 1.0), tag_caption(scene, rng, 1.0))
        )
        assert len(first & second) / len(second) < 0.15, first & second


def test_tag_caption_num_tokens(scenes, tags):
    lengths = [len(i) for i in t5_tokenizer()(tags)["input_ids"]]
    assert min(lengths) >= 15 and max(lengths) <= MAX_TOKENS


def test_tag_caption_follows_seed_and_canonical(scenes):
    rng = np.random.default_rng(1)
    favourite, others = (tag_caption(scenes[0], rng, canonical) for canonical in (1.0, 0.0))
    assert not set(favourite.split(", ")[:6]) & set(others.split(", ")[:6])
    assert tag_caption(scenes[0], np.random.default_rng(1), 1.0) == favourite


def test_tag_caption_faithful_to_prompt(scenes):
    rng = np.random.default_rng(14)
    scores = [faithfulness(user_prompt(s, rng), tag_caption(s, rng)) for s in scenes[:100]]
    assert np.mean(scores) > 0.97
