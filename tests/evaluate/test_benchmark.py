"""With a generator and rewards that need no model."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.errors import BadInput
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.records import Measurement, Refinement
from pav_jax.storage.records import read_jsonl
from pav_jax.video.generator import NOT_FINITE, VideoBatch
from tests.fakes import FakeGenerator, WordCountSuite

WORDS = [
    "cat",
    "dog",
    "bird",
    "fish",
    "horse",
    "runs",
    "jumps",
    "swims",
    "sleeps",
    "sings",
    "red",
    "blue",
    "green",
    "small",
    "big",
]


def make_config(**changes):
    options = (
        dict(seeds=(0, 1), num_suffix_prompts=4, num_resamples=200, save_videos=False) | changes
    )
    return ConfigDict(dict(generator=dict(batch_size=5), evaluate=options))


def prompt_sets(rng, n=9):
    prompts = [" ".join(rng.choice(WORDS, 3, replace=False)) + f" {i}" for i in range(2 * n)]
    return {
        "near": PromptSet(tuple(prompts[:n]), tuple(f"a film of {p}" for p in prompts[:n])),
        "far": PromptSet(tuple(prompts[n:]), (None,) * n),
    }


class Booster:
    def __init__(self):
        self.requests = []

    def refine(self, prompts, num_return_sequences=1, seed=0):
        self.requests += [(p, seed) for p in prompts]
        return [[Refinement(p, f"{p} in soft light take {seed}", seed, "fake")] for p in prompts]


def systems():
    return {
        "original": None,
        "base": lambda prompts, seed: [f"{p} now" for p in prompts],
        "sft": Booster(),
    }


def run(workdir, sets, generator=None, suite=None, **changes):
    return evaluate(
        make_config(**changes),
        systems(),
        sets,
        generator or FakeGenerator(),
        suite or WordCountSuite(),
        workdir,
        training_prompts=["a red cat", "a big dog", "a fish swims", "one bird", "left out"],
    )


def test_evaluate_held_out_scores(tmp_path):
    class Watched(WordCountSuite):
        def __init__(self):
            super().__init__()
            self.held_out = ("held_out:VQ", "held_out:TC")

        def score(self, videos, prompts, refined=None, fps=None):
            scores = super().score(videos, prompts, refined, fps)
            return scores | {
                "held_out:VQ": 2 * scores["AES"],
                "held_out:TC": np.full(len(videos), np.nan),
            }

    sft = run(tmp_path, prompt_sets(np.random.default_rng(0)), suite=Watched())["sets"]["near"][
        "systems"
    ]["sft"]
    assert (
        sft["delta"]["held_out:VQ"] == [10.0, 10.0, 10.0] and sft["scores"]["held_out:TC"] is None
    )
    assert sft["delta"]["overall"][0] is not None and "missing" not in sft


def test_evaluate_systems_and_controls(tmp_path):
    sets = prompt_sets(np.random.default_rng(0))
    result = run(tmp_path, sets)
    assert list(result["sets"]["near"]["systems"]) == [
        "original",
        "base",
        "sft",
        "suffix",
        "shuffled",
        "oracle",
    ]
    assert list(result["sets"]["far"]["systems"]) == [
        "original",
        "base",
        "sft",
        "suffix",
        "shuffled",
    ]
    assert result["seeds"] == [0, 1]
    sft = result["sets"]["near"]["systems"]["sft"]
    assert sft["words"] == 4 + 5
    assert sft["delta"]["AES"] == [5.0, 5.0, 5.0]  # words added
    assert sft["delta_vs_base"]["AES"] == [4.0, 4.0, 4.0]
    assert sft["scores"]["FAITH"] == 1.0
    assert result["sets"]["near"]["systems"]["shuffled"]["scores"]["FAITH"] < 1
    rows = read_jsonl(tmp_path / "evaluation" / "measurements.jsonl", Measurement)
    assert len(rows) == 9 * 2 * (6 + 5)


def test_evaluate_makes_each_video_once(tmp_path):
    generator = FakeGenerator()
    suite = WordCountSuite()
    run(tmp_path, prompt_sets(np.random.default_rng(1)), generator, suite)
    assert set(generator.batch_sizes) == set(suite.batch_sizes) == {5}
    needed = set(generator.made)
    # what fills up the last batch of the two passes is all that repeats; shuffled texts cost no
    # video
    assert len(generator.made) - len(needed) <= 2 * 4


@pytest.mark.parametrize("interrupt_after", [0, 1, 4, 9, 20])
def test_evaluate_interrupted(tmp_path, interrupt_after):
    sets = prompt_sets(np.random.default_rng(2))
    run(tmp_path / "whole", sets)
    first = FakeGenerator(interrupt_after=interrupt_after)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", sets, first)
    second = FakeGenerator()
    run(tmp_path / "killed", sets, second)
    assert (
        not set(first.made) & set(second.made)
        or interrupt_after == 0
        or len(set(first.made) & set(second.made)) <= 5
    )
    for name in ("evaluation.json", "evaluation/measurements.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_evaluate_record_cut_in_half(tmp_path):
    sets = prompt_sets(np.random.default_rng(6))
    run(tmp_path, sets)
    before = (tmp_path / "evaluation.json").read_bytes()
    for folder in ("candidates", "rewrites"):
        last = max((tmp_path / "evaluation" / folder).glob("*.jsonl"))
        last.write_bytes(last.read_bytes()[:-40])
    generator = FakeGenerator()
    run(tmp_path, sets, generator)
    assert len(generator.batch_sizes) == 1
    assert (tmp_path / "evaluation.json").read_bytes() == before


def test_evaluate_finished(tmp_path):
    sets = prompt_sets(np.random.default_rng(3))
    run(tmp_path, sets)
    before = (tmp_path / "evaluation.json").read_bytes()
    generator = FakeGenerator(interrupt_after=0)
    run(tmp_path, sets, generator)
    assert (tmp_path / "evaluation.json").read_bytes() == before
    assert str(tmp_path) not in before.decode()


def test_evaluate_missing_score(tmp_path):
    sets = prompt_sets(np.random.default_rng(4))
    lost = sets["near"].prompts[0]
    result = run(tmp_path, sets, suite=WordCountSuite(unscored=lost))
    sft = result["sets"]["near"]["systems"]["sft"]
    assert sft["missing"] == 2
    assert sft["delta"]["AES"] == [5.0, 5.0, 5.0]
    assert "missing" not in result["sets"]["far"]["systems"]["sft"]


def test_evaluate_failed_video(tmp_path):
    class Broken(FakeGenerator):
        def start(self, prompts, seed):
            errors = [NOT_FINITE if "now" in prompt else None for prompt in prompts]
            return lambda: VideoBatch(self.generate(prompts, seed=seed), errors)

    sets = {"one": PromptSet(("a cat", "a dog"), (None, None))}
    result = evaluate(
        make_config(), systems(), sets, Broken(), WordCountSuite(), tmp_path, controls=False
    )
    results = result["sets"]["one"]["systems"]
    assert (
        results["base"]["missing"] == 4
        and results["base"]["overall"] is None
        and results["sft"]["words"] == 7.0
    )
    assert (
        results["base"]["delta"]["overall"] == [None, None, None]
        and "missing" not in results["sft"]
    )


def test_evaluate_without_controls(tmp_path):
    sets = prompt_sets(np.random.default_rng(5))
    result = evaluate(
        make_config(), systems(), sets, FakeGenerator(), WordCountSuite(), tmp_path, controls=False
    )
    assert list(result["sets"]["near"]["systems"]) == ["original", "base", "sft"]


def test_evaluate_saved_videos(tmp_path):
    sets = {"one": PromptSet(("a cat", "a dog"), (None, None))}
    longer = {"base": lambda prompts, seed: [p + " runs" for p in prompts]}
    evaluate(
        make_config(save_videos=True, seeds=(3,)),
        longer,
        sets,
        FakeGenerator(),
        WordCountSuite(),
        tmp_path,
        controls=False,
    )
    rows = read_jsonl(tmp_path / "evaluation" / "measurements.jsonl", Measurement)
    assert len(rows) == 4
    for row in rows:
        assert row.video.startswith("videos/") and (tmp_path / row.video).stat().st_size > 100


def test_evaluate_rewrite_file(tmp_path):
    file = tmp_path / "others.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": p, "refined": f"{p} by others"}) + "\n"
            for p in ("a cat", "a dog")
        )
    )
    sets = {"one": PromptSet(("a cat", "a dog"), (None, None))}
    result = evaluate(
        make_config(),
        {"others": str(file)},
        sets,
        FakeGenerator(),
        WordCountSuite(),
        tmp_path / "w",
        controls=False,
    )
    assert result["sets"]["one"]["systems"]["others"]["words"] == 4
    more = {"one": PromptSet(("a cat", "a wolf"), (None, None))}
    with pytest.raises(BadInput, match="a wolf"):
        evaluate(
            make_config(),
            {"others": str(file)},
            more,
            FakeGenerator(),
            WordCountSuite(),
            tmp_path / "v",
            controls=False,
        )


def test_evaluate_empty_rewrite(tmp_path):
    sets = {"one": PromptSet(("a cat",), (None,))}
    result = evaluate(
        make_config(),
        {"mute": lambda p, seed: [""] * len(p)},
        sets,
        FakeGenerator(),
        WordCountSuite(),
        tmp_path,
    )
    assert result["sets"]["one"]["systems"]["mute"]["delta"]["overall"] == [0.0, 0.0, 0.0]


def test_evaluate_counts_units_and_reverted_rewrites(tmp_path):
    class Guarded:
        def refine(self, prompts, num_return_sequences=1, seed=0):
            texts = {"a red cat": "a red cat on sand", "two dogs": "two dogs", "a fish": "a bird"}
            return [[Refinement(p, texts[p], seed, "m", reverted=texts[p] == p)] for p in prompts]

    sets = {"one": PromptSet(("a red cat", "two dogs", "a fish"), (None,) * 3)}
    result = evaluate(
        make_config(), {"sft": Guarded()}, sets, FakeGenerator(), WordCountSuite(), tmp_path
    )
    systems = result["sets"]["one"]["systems"]
    assert systems["sft"]["reverted"] == 2 and systems["original"]["reverted"] == 0
    units = systems["sft"]["units"]
    assert units["kept"] == 8 and units["missing"] + units["contradicted"] == 2
    assert units["added"] == 2 and units["unread"] == 0
    assert systems["original"]["units"]["kept"] == 10
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
