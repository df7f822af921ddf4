"""The prompt files of the package: reproduced by `write_prompts`, disjoint, with fitting
oracles."""

import json

import pytest

from pav_jax.checkpoints.embedded import ROOT
from pav_jax.mini.training import write_prompts
from pav_jax.mini.world import split_triples
from tests.mini.scene_parser import parse, parse_triple

FOLDER = ROOT / "prompts"
EVALUATION = ("in_domain", "held_out")
TRAINING = ("evolve", "prefer")
WAN = tuple(f"wan_{name}" for name in EVALUATION)


def rows(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def prompts(name):
    if name in EVALUATION:
        return [row["prompt"] for row in rows(name)]
    return (FOLDER / f"{name}.txt").read_text().splitlines()


def test_main_reproduces_files(tmp_path, monkeypatch):
    monkeypatch.setattr(write_prompts, "FOLDER", tmp_path)
    write_prompts.main()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in FOLDER.iterdir())
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (FOLDER / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", EVALUATION + WAN)
def test_evaluation_set_rows(name):
    assert len(rows(name)) == 200
    assert all(set(row) == {"prompt", "oracle"} for row in rows(name))


def test_prompts_are_distinct():
    all_prompts = [p for name in EVALUATION + TRAINING for p in prompts(name)]
    assert len(all_prompts) == len(set(all_prompts))


def test_held_out_prompts_have_held_out_triples():
    seen, held = map(set, split_triples())
    assert {parse_triple(p) for p in prompts("held_out")} == held  # each at least once
    for name in ("in_domain", *TRAINING):
        assert {parse_triple(p) for p in prompts(name)} <= seen, name


@pytest.mark.parametrize("name", EVALUATION)
def test_oracle_caption_fits_prompt(name):
    for row in rows(name):
        first, rest = row["oracle"].split(". ", 1)
        assert first.startswith("a short video of ")
        assert parse_triple(first) == parse_triple(row["prompt"])
        for slot in ("size", "background"):
            if in_prompt := parse(row["prompt"], slot):
                assert parse(first, slot)[0] == in_prompt[0]
        assert parse(first, "colour")[1] == 0  # the caption's own word
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
def test_wan_sets_have_same_prompts_and_scenes(name):
    for first, second in zip(rows(name), rows(f"wan_{name}"), strict=True):
        assert first["prompt"] == second["prompt"]
        tags = second["oracle"].split(", ")
        for slot, tag in zip(
            ("subject", "colour", "size", "material", "gerund", "background"), tags, strict=False
        ):
            concept, synonym = parse(tag, slot)
            assert synonym == 1, tag
            caption_slot = "motion" if slot == "gerund" else slot
            assert concept == parse(first["oracle"].split(". ")[0], caption_slot)[0]
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
