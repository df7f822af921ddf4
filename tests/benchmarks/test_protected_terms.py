"""Counting of lost terms and answered instructions."""

import pathlib
import sys

import pytest

from pav_jax.records import Refinement

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import protected_terms
    finally:
        sys.path.remove(str(BENCHMARKS))
    return protected_terms


class FakeBooster:
    """Answers instructions, and rewrites the rest as it says."""

    def __init__(self, rewrite):
        self.rewrite = rewrite
        self.prompts = []

    def refine(self, prompts):
        self.prompts += prompts
        return [[Refinement(p, self.rewrite(p), 0, "fake")] for p in prompts]


@pytest.mark.parametrize(
    "kind, term, refined, lost",
    [
        ("number", "two kites", "Two bright red kites fly.", False),
        ("number", "two kites", "A pair of red kites flies.", False),
        ("number", "two kites", "Kites fly.", True),
        ("negation", "people", "A beach without any people.", False),
        ("negation", "people", "People walk on a beach.", True),
        ("quote", "OPEN 24H", "A sign, OPEN 24h.", True),
        ("flag", "-ar 9:16", "A dog. -ar 9:16", False),
    ],
)
def test_is_lost(benchmark, kind, term, refined, lost):
    assert benchmark.is_lost(kind, term, refined) is lost


def test_make_cases(benchmark):
    cases = benchmark.make_cases(40, 0)
    assert cases == benchmark.make_cases(40, 0) != benchmark.make_cases(40, 1)
    assert len({case.prompt for case in cases}) == 40
    assert {kind for case in cases for kind, _ in case.terms} == {
        "quote",
        "number",
        "negation",
        "trigger",
        "flag",
    }
    for case in cases:  # nothing is lost where nothing changes
        assert not any(benchmark.is_lost(*term, case.prompt) for term in case.terms)
    assert len(set(benchmark.INSTRUCTIONS)) == 50


def test_run_counts_and_resumes(benchmark, tmp_path):
    cases = [*map(benchmark.Case, benchmark.INSTRUCTIONS), *benchmark.make_cases(30, 0)]
    booster = FakeBooster(lambda p: "The answer is four." if p.startswith("calculate") else p)
    assert benchmark.run(booster, cases, tmp_path, -1)["prompts"] == 0
    result = benchmark.run(booster, cases, tmp_path, 1)
    assert (result["prompts"], result["instructions"], result["answered"]) == (30, 50, 3)
    assert not any(result["lost"].values()) and sum(result["terms"].values()) >= 60
    rewrites = tmp_path / "rewrites.jsonl"
    lines = rewrites.read_text(encoding="utf-8").splitlines(keepends=True)
    rewrites.write_text("".join(lines[:-1]) + lines[-1][:-9], encoding="utf-8")
    loser = FakeBooster(lambda p: "Nothing.")
    again = benchmark.run(loser, cases, tmp_path, 1)
    assert loser.prompts == [cases[-1].prompt]
    assert sum(again["lost"].values()) == len(cases[-1].terms)
