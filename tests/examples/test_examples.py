"""Every example runs, on a small configuration."""

import importlib.util
import json
import pathlib
from types import ModuleType

import PIL.Image
import pytest

import pav_jax
from pav_jax.components import Components
from pav_jax.config import load as load_config
from pav_jax.records import Candidate
from pav_jax.storage.records import read_segments

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
LONGEST = 60  # lines of an example
QUICK = str(pathlib.Path(__file__).with_name("quick.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_example_is_short(file):
    assert len(file.read_text().splitlines()) < LONGEST


@pytest.mark.slow
def test_own_reward_decides_the_evaluation(tmp_path):
    load("own_reward").main(str(tmp_path), QUICK)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    scores = evaluation["sets"]["held_out"]["systems"]["dpo_1"]["scores"]
    assert {"AES", "warmth"} <= set(scores)
    assert (tmp_path / "report" / "index.html").exists()


@pytest.mark.slow
def test_own_generator_makes_the_videos(tmp_path):
    load("own_generator").main(str(tmp_path), QUICK)
    assert (tmp_path / "round_1" / "booster" / "config.json").exists()
    assert (tmp_path / "report" / "index.html").exists()


@pytest.mark.slow
def test_own_proposer_fills_the_pool(tmp_path):
    load("own_proposer").main(str(tmp_path), QUICK)
    pool = read_segments(tmp_path / "pool", Candidate)
    assert {candidate.proposer for candidate in pool if candidate.round} == {"adjectives"}
    assert (tmp_path / "sft_pairs.jsonl").exists()


@pytest.mark.slow
def test_sft_dpo_own_pairs_writes_a_booster(tmp_path, capsys):
    load("sft_dpo_own_pairs").main("mini:rewriter", str(tmp_path), steps=2)
    assert (tmp_path / "booster" / "config.json").exists()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_plugins_in_a_configuration_file(tmp_path):
    config = load_config(str(pathlib.Path(__file__).with_name("plugins.py")))
    models = Components(config)
    assert set(models.suite.names) == {"warmth", "FAITH"}
    assert type(models.generator).__name__ == "Bouncing"
    assert [entry.proposer.name for entry in models.proposers.entries] == ["mine"]


@pytest.mark.slow
def test_diffusers_pipeline_makes_a_video_of_the_rewrite(tmp_path, capsys):
    pytest.importorskip("diffusers")
    size = dict(num_inference_steps=1, num_frames=5, height=32, width=32, max_sequence_length=16)
    checkpoint = pathlib.Path(pav_jax.__file__).parent / "mini" / "checkpoints" / "generator_wan"
    out = tmp_path / "video.gif"
    prompt = 'a crimson star bouncing -neg "blur" -ar 1:1 -seed 3 -fps 8'
    load("diffusers_pipeline").main(prompt, str(checkpoint), None, str(out), **size)
    with PIL.Image.open(out) as video:
        assert (video.n_frames, video.size) == (5, (32, 32))
    printed = capsys.readouterr().out.strip()
    assert printed and not any(flag in printed for flag in ("-neg", "-ar", "-seed", "-fps"))
