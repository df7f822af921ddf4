"""What a margin means under each ranking."""

import numpy as np
import pytest

from pav_jax.candidates.options import RANKINGS
from pav_jax.candidates.ranking import dominates
from pav_jax.errors import BadInput
from pav_jax.prefer.pairs import make_pairs
from pav_jax.prefer.sampling import make_candidates
from pav_jax.records import Candidate, Preference
from tests.fakes import PROMPTS, FakeGenerator, FakeLanguageModel, FakeSuite, make_config


def candidate(refined, aes, tva, faith=1.0):
    return Candidate(
        f"key {refined}", "p", refined, 1, 0, (), "sft", 1, {"AES": aes, "TVA": tva, "FAITH": faith}
    )


ROWS = [
    candidate("a", 5.0, 5.0),
    candidate("b", 9.0, 0.0),
    candidate("c", 4.0, 4.9),
    candidate("d", 0.0, 0.0),
]


def pairs(rows, **options):
    return make_pairs(
        rows, FakeSuite(), make_config(**{f"prefer__{k}": v for k, v in options.items()})
    )


def test_make_pairs_pareto():
    assert pairs(ROWS, ranking="pareto", margin=0.0) == [  # b does not dominate c
        Preference("p", "a", "c", pytest.approx(1.1)),
        Preference("p", "a", "d", 10.0),
        Preference("p", "b", "d", 9.0),
    ]
    assert [(p.chosen, p.rejected) for p in pairs(ROWS, ranking="pareto", margin=2.0)] == [
        ("a", "d"),
        ("b", "d"),
    ]
    assert [(p.chosen, p.rejected) for p in pairs(ROWS, margin=0.0)][:2] == [("a", "b"), ("a", "c")]


def test_make_pairs_average_rank():
    # AES: b a c d; TVA: a c b and d share places 3 and 4
    assert pairs(ROWS, ranking="average_rank", margin=0.5) == [
        Preference("p", "a", "b", 2.25 - 1.5),
        Preference("p", "a", "c", 1.0),
        Preference("p", "a", "d", 3.75 - 1.5),
        Preference("p", "b", "d", 1.5),
    ]
    assert [(p.chosen, p.rejected) for p in pairs(ROWS, ranking="average_rank", margin=1.4)] == [
        ("a", "d"),
        ("b", "d"),
    ]


@pytest.mark.parametrize("method", RANKINGS)
def test_make_pairs_feasible_first_any_ranking(method):
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = np.round(rng.normal(0, 2, (6, 2)), 1)
        rows = [
            candidate(str(i), a, t, float(rng.uniform() > 0.4)) for i, (a, t) in enumerate(values)
        ]
        rows.append(candidate("lost", np.nan, 99.0))
        made = pairs(
            rows, ranking=method, margin=0.3, constraints={"FAITH": 0.5}, feasible_first=True
        )
        by_text = {c.refined: c for c in rows}
        for p in made:
            chosen = by_text[p.chosen]
            rejected = by_text[p.rejected]
            assert chosen.scores["FAITH"] == 1 and "lost" not in (p.chosen, p.rejected)
            if rejected.scores["FAITH"] == 1:
                assert p.margin > 0.3
                a, b = (
                    np.asarray([c.scores[n] for n in ("AES", "TVA")]) for c in (chosen, rejected)
                )
                assert dominates(a, b) if method == "pareto" else not dominates(b, a)


def test_make_candidates_reward_hacking_warning(tmp_path, caplog):
    for round, words in ((1, 4), (2, 16)):
        rewriter = FakeLanguageModel(
            lambda prompt, k, seed, words=words: f"{prompt} {k} " + "w " * words
        )
        make_candidates(
            make_config(), PROMPTS, rewriter, FakeGenerator(), FakeSuite(), tmp_path, round
        )
        assert ("prefer, round 2: reward-hacking warnings: rewrites have" in caplog.text) == (
            round == 2
        )


def test_make_candidates_unknown_ranking(tmp_path):
    generator = FakeGenerator()
    with pytest.raises(BadInput) as caught:
        make_candidates(
            make_config(prefer__ranking="best"),
            ["p"],
            FakeLanguageModel(),
            generator,
            FakeSuite(),
            tmp_path,
            1,
        )
    assert caught.value.field == "prefer.ranking" and not generator.made
