"""Prompt files with images in the stages of the recipe: each prompt's videos have its image."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from pav_jax.candidates.prompt_sets import read_prompt_set
from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.evolve.proposer import Proposer
from pav_jax.prefer.sampling import make_candidates
from pav_jax.recipe import Recipe
from pav_jax.records import Candidate, Measurement
from pav_jax.run_inputs import check_run_inputs
from pav_jax.storage.records import read_jsonl, read_segments
from pav_jax.video.generator import Generator
from tests.fakes import FakeGenerator, FakeLanguageModel, FakeSuite, make_config


class Levels(Generator):
    """Videos as bright as the image, and a little of the text."""

    fingerprint = "levels"

    def __init__(self):
        self.made = set()

    def generate(self, prompts, *, seed, image):
        levels = [picture.load().getpixel((0, 0))[0] for picture in image]
        self.made |= set(zip(prompts, levels, strict=True))
        videos = np.ones((len(prompts), 2, 16, 16, 3), np.uint8)
        levels = [level + len(text) % 8 for level, text in zip(levels, prompts, strict=True)]
        return videos * np.asarray(levels, np.uint8).reshape(-1, 1, 1, 1, 1)


class Longer(Proposer):
    name = "longer"

    def propose(self, requests):
        return [[f"{r.prompt} {'very ' * i}slowly" for i in range(3)] for r in requests]


def brightness(videos, prompts):
    return videos.mean(axis=(1, 2, 3, 4))


@pytest.fixture
def file(tmp_path):
    rows = []
    for prompt, level in (("a cat", 40), ("a dog runs", 200)):
        Image.new("RGB", (4, 4), (level,) * 3).save(tmp_path / f"{level}.png")
        rows.append(json.dumps({"prompt": prompt, "image": f"{level}.png"}))
    (tmp_path / "p.jsonl").write_text("\n".join(rows))
    return tmp_path / "p.jsonl"


def configuration(file):
    fields = {
        "evolve.prompts": str(file),
        "prefer.prompts": str(file),
        "evaluate.prompts": {"mine": str(file)},
        "evolve.rounds": 1,
        "evolve.num_rewrites": 3,
        "generator.batch_size": 2,
        "budget.check_rewards": False,
    }
    return load(None, [f"--config.{name}={value}" for name, value in fields.items()])


LEVELS = {"a cat": 40, "a dog runs": 200}


def test_evolve_and_prefer(file, tmp_path):
    generator = Levels()
    recipe = Recipe(
        configuration(file), generator=generator, rewards=[brightness], proposers=[Longer()]
    )
    pool = read_segments(recipe.evolve(tmp_path / "run"), Candidate)
    prompts = read_prompt_set(str(file))
    images = prompts.image_by_prompt
    assert len(pool) == 2 * (1 + 3) and all(c.image == images[c.prompt].digest for c in pool)
    assert {(c.refined, LEVELS[c.prompt]) for c in pool} == generator.made
    candidates = make_candidates(
        make_config(),
        prompts.prompts,
        FakeLanguageModel(),
        Levels(),
        FakeSuite(),
        tmp_path / "run",
        1,
        images=images,
    )
    assert candidates and all(c.image == images[c.prompt].digest for c in candidates)


def test_evaluate(file, tmp_path):
    generator = Levels()
    prompts = read_prompt_set(str(file))
    config = make_config(
        evaluate__seeds=(0,), evaluate__num_suffix_prompts=1, evaluate__num_resamples=20
    )
    systems = {"longer": lambda texts, seed: [f"{text} slowly" for text in texts]}
    evaluate(config, systems, {"mine": prompts}, generator, FakeSuite(), tmp_path, True, prompts)
    rows = list(read_jsonl(tmp_path / "evaluation" / "measurements.jsonl", Measurement))
    assert {row.system for row in rows} >= {"original", "longer", "shuffled", "suffix"}
    for row in rows:
        assert row.image == prompts.image_by_prompt[row.prompt].digest
        assert (row.refined, LEVELS[row.prompt]) in generator.made  # also that of the other prompt
    shuffled = [row for row in rows if row.system == "shuffled"]
    assert {row.refined for row in shuffled} == {f"{prompt} slowly" for prompt in LEVELS}
    others = {row.video for row in rows if row.system == "longer"}
    assert len({row.video for row in shuffled} | others) == 4


def test_check_run_inputs_generator_of_texts(file, tmp_path):
    loaded = types.SimpleNamespace(chat_proposers={}, generator=FakeGenerator())
    config = configuration(file)
    with pytest.raises(BadInput, match=r"p.jsonl:1: image: FakeGenerator makes videos from texts"):
        check_run_inputs(config, loaded, tmp_path)
    loaded.generator = Levels()
    check_run_inputs(config, loaded, tmp_path)
    texts = tmp_path / "p.txt"
    texts.write_text("rain\n")
    config.prefer.prompts = str(texts)
    Levels.needs_image = True
    try:
        with pytest.raises(BadInput, match=r"p.txt:1: image: Levels needs an image for every"):
            check_run_inputs(config, loaded, tmp_path)
    finally:
        del Levels.needs_image


def test_trust_refuses_images(file, tmp_path):
    recipe = Recipe(configuration(file), generator=Levels(), rewards=[brightness])
    with pytest.raises(BadInput, match="p.jsonl:1: image: evolve.prompts makes no videos from"):
        recipe.trust(tmp_path / "run")
