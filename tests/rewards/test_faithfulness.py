import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from pav_jax.errors import BadInput
from pav_jax.rewards.faith import judge as judging
from pav_jax.rewards.faith.judge import MAX_CHARACTERS
from pav_jax.rewards.faithfulness import Faithfulness, Lexicon, faithfulness, judge, load_lexicon
from tests.absent import shared_file
from tests.growth import SLACK_S, assert_faster, assert_linear
from tests.tiers import first_fast

KEPT = [
    ("a crimson ball", "a bright red sphere on a table"),
    ("a ruby orb", "the scarlet ball"),
    ("an azure crate", "blue box"),
    ("an emerald heart", "a heart, green and soft"),
    ("a giant hoop glides", "a large ring slides along"),
    ("a tiny cube drifts", "the small box moves slowly"),
    ("a star climbs", "a star rises over the sea"),
    ("a pyramid descends", "the triangle drops down"),
    ("a rabbit hops", "a bunny bounces through grass"),
    ("a blossom twirls", "the flower rotates"),
    ("a crescent expands", "the moon grows"),
    ("a plus sign contracts", "a cross that shrinks"),
    ("the ball orbits a tree", "a ball circles the tree"),
    ("a lantern swings", "a lantern sways in the wind"),
    ("two dogs", "a pair of dogs"),
    ("a dog running", "a corgi sprints over the lawn"),
    ("a person reading", "a young woman peruses an old book"),
    ("zoom in on a house", "the camera pushes in on a home"),
    ("a teapot", "a tea pot on a stove"),
    ("wolves at night", "a wolf under the midnight sky"),
]
LOST = [  # with what is missing and what is contradicted
    ("a crimson ball", "a blue ball", 1 / 6, ["crimson"], ["crimson ball"]),
    ("a red ball rises", "a red ball falls", 1 / 3, [], ["rises"]),
    ("a red ball rises", "a serene landscape at dawn", 0.0, ["red", "ball", "rises"], []),
    ("three cats", "a cat", 2 / 15, [], ["three", "3 cats"]),
    ("pan left over a city", "pan right over a city", 1 / 4, [], ["pan left"]),
    ("a corgi", "a dog", 0.5, ["corgi"], []),
    ("kites, no people", "kites over a beach", 0.9, ["no people"], []),
    ("kites, no clouds", "kites in a blue sky", 0.9, ["no clouds"], []),
]
DATA = Path(__file__).parent / "data"
SAME = [
    ("3 red kites", "three red kites"),
    ("two cats", "2 cats"),
    ("12 roses", "a dozen roses"),
    ("several boats", "a number of boats"),
    ("kites, no clouds", "kites in a clear blue sky"),
    ("an elderly man", "an elderly gentleman"),
    ("windowless hall", "a hall without windows"),
    ("a hall without windows", "a windowless hall"),
    ("a cat with no collar", "a collarless cat"),
    ("a girl is playing guitar", "A girl strums her guitar by a window."),
    ('a sign that says "OPEN"', "a sign reads “OPEN”"),
    ("a man says hello", 'A man says "Hello".'),
    ("a sign that says open late", "A sign reads “OPEN LATE” at night."),
    ("a cat chases a dog", "a dog is chased by a cat"),
    ("a beutiful buterfly", "a beautiful butterfly"),
    ("a street, no people, cars, or dogs", "a street with no dogs, no people and no cars"),
    ("a man who does not have a beard", "a man without a beard"),
    ("a street with no cars, a dog and a cat", "a dog and a cat on a street without cars"),
    ("a street, no cars, red sunset, dogs", "a red sunset and dogs on a street without cars"),
    ("a man without a hat smiles, or laughs", "a man without a hat smiles or laughs"),
]
CONTRADICTED = [
    ("a street in the rain", "a street in the rain under a clear blue sky", "rain"),
    ("a street at night", "a street at night under the midday sun", "night"),
    ("a man without a hat", "a man with a hat", "no hat"),
    ("a cat chases a dog", "a dog chases a cat", "cat chases dog"),
    ("a dog is chased by a cat", "a dog chases a cat", "cat chased dog"),
    ("a red ball and a blue box", "a blue ball and a red box", "red ball"),
    ("two dogs and three cats", "three dogs and two cats", "two"),
    ("a ball under a table", "a ball on a table", "ball under table"),
    ("a cat on a dog", "a dog on a cat", "cat on dog"),
    ("zoom in on a ship", "zoom out from a ship", "zoom in"),
    ("a street at night", "a street at noon", "night"),
    ('a sign "OPEN"', 'a sign "SHUT"', '"OPEN"'),
    ("a lone man", "a man waves to a woman", "lone (added: woman)"),
    ("an empty beach", "a beach with two children", "empty (added: children)"),
    ("a street, no people", "a deserted street with a man", "no people"),
    ("a street, no people, cars, or dogs", "a street. Many cars pass by.", "no cars"),
    ("a street, no people, cars, or dogs", "a street without people. Dogs bark.", "no dogs"),
    ("a street, no people, red cars, boats or dogs", "a street. Dogs bark.", "no dogs"),
    ("a street, no people, or dogs", "a street. Dogs bark.", "no dogs"),
    ("a street without people, cars and no dogs", "a street. Cars pass.", "no cars"),
    ("a man without a hat or a coat", "a man in a coat", "no coat"),
    ("a man who does not have a beard", "a man who has a beard", "no beard"),
    ("a man who doesn't have a beard", "a bearded man with a beard", "no beard"),
    ("a man, not having a hat", "a man who has a hat", "no hat"),
    ("a dog that is not on a leash", "a dog on a leash", "no leash"),
    ("an empty road, no people", "an empty road; a lone figure waits", "no people"),
]
UNREADABLE = [
    ("一只红色的狐狸在雪地里奔跑", "a blue whale"),
    ("красная лиса бежит", "a red fox runs"),
    ("قطة سوداء", "a black cat"),
    ("赤い猫", "a red cat"),
    ("anime 一只红色的狐狸", "an anime fox"),
    ("Eine alte Frau füttert drei weiße Tauben", "an old woman feeds three white pigeons"),
    ("una niña corre por la playa con su perro", "a girl runs on the beach with her dog"),
    ("le chat est sur la table avec des fleurs", "the cat is on the table with flowers"),
    ("een hond met een bal van zijn baas", "a dog with the ball of its owner"),
    ("negra con lindo disfras", "a pretty costume"),
    ("a black cat", "一只黑猫"),
    ("a black cat", "die schwarze Katze sitzt auf der Bank"),
    ("", "anything"),
    ("the of and", "the of and"),
    ("🎈 <3", "a balloon"),
]


@pytest.mark.parametrize("prompt,refined", KEPT)
def test_faithfulness_equivalent_words(prompt, refined):
    assert faithfulness(prompt, refined) == 1


@pytest.mark.parametrize("prompt,refined,score,missing,contradicted", LOST)
def test_judge_changed_words(prompt, refined, score, missing, contradicted):
    judgement = judge(prompt, refined)
    assert judgement.score == faithfulness(prompt, refined) == pytest.approx(score)
    assert judgement.missing == tuple(missing)
    assert judgement.contradicted == tuple(contradicted)


@pytest.mark.parametrize("prompt,refined", SAME)
def test_faithfulness_said_in_another_way(prompt, refined):
    assert faithfulness(prompt, refined) == 1


@pytest.mark.parametrize("prompt,refined,unit", CONTRADICTED)
def test_judge_contradiction(prompt, refined, unit):
    judgement = judge(prompt, refined)
    assert unit in judgement.contradicted
    assert judgement.score < 0.7


@pytest.mark.parametrize("prompt,refined", UNREADABLE)
def test_faithfulness_unreadable_is_nan(prompt, refined):
    assert math.isnan(faithfulness(prompt, refined))
    assert judge(prompt, refined).units == ()


@pytest.mark.parametrize(
    "text", ["white van, black van racing", "a van met a van, two vans per road, pros and con"]
)
def test_faithfulness_english_words_of_other_languages(text):
    assert faithfulness(text, text) == 1


def test_judge_words_in_quotation_marks():
    """They are those of the prompt only right after a word such as "says"."""
    assert judge("a man says hello", 'A man says "goodbye".').missing == ("hello",)
    assert judge("a dog and a man who says hello", 'A man says "dog".').missing == ("dog", "hello")
    assert judge("a woman reads", 'A woman with a book titled "Rain".').missing == ("reads",)


@pytest.mark.parametrize(
    "prompt,refined",
    [("a big dog", "A large hound barks."), ("a cat sleeps", "A feline naps on a sofa.")],
)
def test_judge_synonym_is_not_added(prompt, refined):
    judgement = judge(prompt, refined)
    assert judgement.score == 1 and judgement.added == ()


def test_judge_units_and_additions():
    judgement = judge(
        'two red kites over a beach, no dogs, a sign "SURF"',
        'A lady watches two red kites above the sea; a sign reads "SURF".',
    )
    verdicts = {unit.text: (unit.category, unit.verdict) for unit in judgement.units}
    assert verdicts["two"] == ("count", "kept")
    assert verdicts["no dogs"] == ("negation", "missing")
    assert verdicts['"SURF"'] == ("quote", "kept")
    assert verdicts["beach"][1] == "missing"
    assert judgement.added == ("lady",)
    assert {*judgement.kept} >= {"two", "red", "kites", '"SURF"'}  # vocabulary: ignore


def test_faithfulness_same_and_empty_rewrite():
    for prompt, _ in KEPT:
        assert faithfulness(prompt, prompt) == 1
        assert faithfulness(prompt, "") == 0


def test_faithfulness_generic_words():
    assert faithfulness("a person juggling", "someone is juggling") == 1
    assert faithfulness("a person juggling", "a person asleep") < 0.25


def test_units_categories():
    units = {
        u.text: u.category
        for u in load_lexicon().units("two crimson balls hop over the sea, slow motion, by Hokusai")
    }
    assert units == {
        "two": "count",
        "crimson": "colour",
        "balls": "thing",
        "hop": "motion",
        "sea": "thing",
        "slow motion": "camera",
        "hokusai": "style",
    } | {k: v for k, v in units.items() if k == "sea"}


def test_faithfulness_mini_world():
    vocabulary = pytest.importorskip("pav_jax.mini.vocabulary")
    for table in ("SUBJECTS", "COLOURS", "SIZES", "MATERIALS", "MOTIONS", "BACKGROUNDS", "CAMERAS"):
        concepts = getattr(vocabulary, table)
        for concept, synonyms in concepts.items():
            for said in (*synonyms, *(vocabulary.GERUNDS[concept] if table == "MOTIONS" else ())):
                assert faithfulness(said, synonyms[0]) == 1, (said, synonyms[0])
                for other, theirs in concepts.items():
                    assert other == concept or faithfulness(said, theirs[0]) <= 0.5, (
                        said,
                        theirs[0],
                    )


def auc(faithful, unfaithful):
    """The share of pairs in the right order; NaN, which is no score, counts as 0.5."""
    n, m = len(faithful), len(unfaithful)
    ranks = rankdata(np.nan_to_num([*faithful, *unfaithful], nan=0.5))
    return (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)


def contrast_auc(path):
    """AUC of all cases of a file, and of each kind."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    scores = [faithfulness(row["prompt"], row["refined"]) for row in rows]
    kinds = dict.fromkeys(row["kind"] for row in rows)
    scored = list(zip(rows, scores, strict=True))

    def of(kind):
        good = [s for r, s in scored if r["faithful"] and kind in (None, r["kind"])]
        bad = [s for r, s in scored if not r["faithful"] and kind in (None, r["kind"])]
        return auc(good, bad)

    return of(None), {kind: of(kind) for kind in kinds}


@pytest.mark.parametrize(
    "refined,faith",
    [
        ("Both umbrellas lie on a bench.", 1.0),
        ("Both a helmet and an umbrella lie on a bench.", 2 / 3),
        ("Umbrellas lie on a bench. Two men wait.", 2 / 3),
    ],
)
def test_faithfulness_numbers_belong_to_their_nouns(refined, faith):
    judgement = judge("two umbrellas, bench", refined)
    assert judgement.score == pytest.approx(faith), judgement


def test_faithfulness_contrast_cases_auc():
    total, kinds = contrast_auc(DATA / "faith_cases.jsonl")
    assert total >= 0.98
    assert min(kinds.values()) >= 0.9, kinds
    assert contrast_auc(DATA / "faith_cases_2.jsonl")[0] >= 0.97


def test_faithfulness_shared_contrast_auc():
    assert contrast_auc(shared_file("faith_contrast.jsonl"))[0] >= 0.98


def vbench(step):
    """Every `step`-th prompt with three rewrites."""
    lines = shared_file("vbench_prompts.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines[::step]]


@pytest.mark.parametrize("step,least", first_fast([(48, 0.95), (1, 0.97)]))
def test_faithfulness_vbench_auc(step, least):
    rows = vbench(step)
    permutation = np.random.default_rng(0).permutation(len(rows))
    means = {}
    for target in ("cogvideox", "wan", "hunyuan"):
        true = [faithfulness(row["prompt"], row[target]) for row in rows]
        other = [rows[i][target] for i in permutation]
        false = [faithfulness(r["prompt"], text) for r, text in zip(rows, other, strict=True)]
        assert auc(true, false) >= least, target
        means[target] = np.mean(true)
    assert means["cogvideox"] == pytest.approx(0.974, abs=0.01 if step == 1 else 0.03)


LONG = [
    "a dog on a cat ",
    "dog on cat ",
    "a dog is chased by a cat ",
    "red dog, ",
    "pan left ",
    "dog ",
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", LONG)
def test_judge_time_of_long_texts(piece):
    def judge_texts(length):
        judging._read_once.cache_clear()
        text = (piece * length)[:length]
        assert judge(text, text + ".").score == 1
        assert judge(text, ("a horse under a bird " * length)[: length // 2]).score < 0.2

    assert_linear(judge_texts, (MAX_CHARACTERS - 1) // 4)


@pytest.mark.slow
def test_judge_time_of_different_words():
    letters = np.random.default_rng(0).choice(list("abc"), (2, 150, 7))

    def judge_words(count):
        judging._read_once.cache_clear()
        texts = (" on ".join("a " + "".join(word) for word in words[:count]) for words in letters)
        assert judge(*texts).score < 1  # some are taken for misspelt

    # every word of one text is compared with every one of the other
    assert_faster(
        lambda: judge_words(150),
        lambda other_s: 6 * other_s + SLACK_S,
        than=lambda: judge_words(75),
    )


def test_judge_too_long_is_nan(monkeypatch):
    text = "a dog on a cat " * 700
    with monkeypatch.context() as patch:
        patch.setattr(judging, "is_readable", None)  # they are not read
        for pair in ((text, text), (text, "a dog"), ("a dog", text)):
            assert math.isnan(judge(*pair).score)
    scores = Faithfulness().score(None, [text, "a dog"], [text, "a dog"])["FAITH"]
    assert np.isnan(scores).tolist() == [True, False]


def test_score_without_rewrites():
    reward = Faithfulness.from_pretrained()
    scores = reward.score(None, ["a red ball", "a cat"], ["a crimson orb", "a dog"])["FAITH"]
    assert scores.dtype == np.float32 and scores.tolist() == [1.0, 0.0]
    assert reward.score(None, ["a cat"]) == {}


def test_from_pretrained_other_and_broken_lexicon(tmp_path):
    data = {
        "concepts": {"thing": {"ball": ["pilota"]}},
        "kinds": {},
        "generic": [],
        "stop": [],
        "irregular": {},
        "uninflected": [],
    }
    (tmp_path / "lexicon.json").write_text(json.dumps(data))
    reward = Faithfulness.from_pretrained(tmp_path)
    assert reward.score(None, ["pilota"], ["ball"])["FAITH"][0] == 1
    (tmp_path / "broken.json").write_text('{"concepts": {}}')
    with pytest.raises(BadInput, match="kinds"):
        Lexicon(tmp_path / "broken.json")
