import json

import numpy as np
import pytest
from scipy.stats import rankdata

from pav_jax.errors import BadInput
from pav_jax.rewards.faithfulness import Faithfulness, Lexicon, faithfulness, load_lexicon
from tests.absent import shared_file

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
LOST = [
    ("a crimson ball", "a blue ball", 0.5),
    ("a red ball rises", "a red ball falls", 2 / 3),
    ("a red ball rises", "a serene landscape at dawn", 0.0),
    ("three cats", "a cat", 0.5),
    ("pan left over a city", "pan right over a city", 0.5),
    ("a corgi", "a dog", 0.5),
]


@pytest.mark.parametrize("prompt,refined", KEPT)
def test_faithfulness_equivalent_words(prompt, refined):
    assert faithfulness(prompt, refined) == 1


@pytest.mark.parametrize("prompt,refined,share", LOST)
def test_faithfulness_changed_words(prompt, refined, share):
    assert faithfulness(prompt, refined) == pytest.approx(share)


def test_faithfulness_same_and_empty_rewrite():
    for prompt, _ in KEPT:
        assert faithfulness(prompt, prompt) == 1
        assert faithfulness(prompt, "") == 0


def test_faithfulness_prompt_without_units():
    assert (
        faithfulness("", "anything")
        == faithfulness("the of and", "")
        == faithfulness("🎈 <b>", "")
        == 1
    )


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


def test_faithfulness_vbench_auc():
    rows = [
        json.loads(line) for line in shared_file("vbench_prompts.jsonl").read_text().splitlines()
    ]
    words = load_lexicon()
    permutation = np.random.default_rng(0).permutation(len(rows))
    units = [words.units(row["prompt"]) for row in rows]

    def share(units, said):
        return sum(u.weight * words.credit(u, said) for u in units) / sum(u.weight for u in units)

    assert share(units[0], words.mentions(rows[0]["wan"])) == faithfulness(
        rows[0]["prompt"], rows[0]["wan"]
    )
    for target in ("cogvideox", "wan", "hunyuan"):
        said = [words.mentions(row[target]) for row in rows]
        true = [share(u, s) for u, s in zip(units, said, strict=True)]
        false = [share(u, said[i]) for u, i in zip(units, permutation, strict=True)]
        n = len(rows)
        auc = (rankdata(true + false)[:n].sum() - n * (n + 1) / 2) / n**2
        assert auc >= 0.97, (target, auc)


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
