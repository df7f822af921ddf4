"""The prompt files that come with the package are what `write_prompts` writes, and keep the sets
apart."""

import json

import pytest

from pav_jax.checkpoints.embedded import ROOT
from pav_jax.mini.training import write_prompts
from pav_jax.mini.world import triples
from tests.mini.reading import said, triple

FOLDER = ROOT / "prompts"
EVALUATION, TRAINING = ("in_domain", "held_out"), ("evolve", "prefer")
WAN = tuple(f"wan_{name}" for name in EVALUATION)


def rows(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def prompts(name):
    if name in EVALUATION:
        return [row["prompt"] for row in rows(name)]
    return (FOLDER / f"{name}.txt").read_text().splitlines()


def test_the_generator_writes_the_files_again(tmp_path, monkeypatch):
    monkeypatch.setattr(write_prompts, "FOLDER", tmp_path)
    write_prompts.main()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in FOLDER.iterdir())
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (FOLDER / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", EVALUATION + WAN)
def test_evaluation_sets_have_two_hundred_prompts_with_their_captions(name):
    assert len(rows(name)) == 200
    assert all(set(row) == {"prompt", "oracle"} for row in rows(name))


def test_no_prompt_is_in_two_files_or_twice_in_one():
    every = [p for name in EVALUATION + TRAINING for p in prompts(name)]
    assert len(every) == len(set(every))


def test_held_out_prompts_are_of_triples_that_no_model_saw():
    seen, held = map(set, triples())
    asked = [triple(p) for p in prompts("held_out")]
    assert set(asked) == held  # each at least once
    for name in ("in_domain", *TRAINING):
        assert {triple(p) for p in prompts(name)} <= seen, name


@pytest.mark.parametrize("name", EVALUATION)
def test_oracles_are_good_captions_of_the_prompts_own_scene(name):
    for row in rows(name):
        first, rest = row["oracle"].split(". ", 1)
        assert first.startswith("a short video of ")
        assert triple(first) == triple(row["prompt"])
        for slot in ("size", "background"):
            if asked := said(row["prompt"], slot):
                assert said(first, slot)[0] == asked[0]
        assert said(first, "colour")[1] == 0  # the caption's own word
        for poor in (
            "dim",
            "ordinary",
            "faded",
            "moderate",
            "grainy",
            "blurry",
            "soft",
            "shaky",
            "handheld",
        ):
            assert f" {poor}" not in rest


@pytest.mark.parametrize("name", EVALUATION)
def test_the_second_generators_sets_are_the_same_prompts_and_scenes_in_its_own_words(name):
    for first, second in zip(rows(name), rows(f"wan_{name}"), strict=True):
        assert first["prompt"] == second["prompt"]
        tags = second["oracle"].split(", ")
        for slot, tag in zip(
            ("subject", "colour", "size", "material", "gerund", "background"), tags, strict=False
        ):
            concept, synonym = said(tag, slot)
            assert synonym == 1, tag
            assert (
                concept
                == (said(first["oracle"].split(". ")[0], "motion" if slot == "gerund" else slot))[0]
            )
        assert not {
            "underexposed",
            "washed out",
            "noisy footage",
            "out of focus",
            "wobbly framing",
            "some noise",
            "normal exposure",
            "natural tones",
            "gentle detail",
            "loose framing",
        } & set(tags)
