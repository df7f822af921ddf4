"""Fakes in place of models and stages."""

import logging
import sys
import types
import warnings

import numpy as np
import pytest

import pav_jax
from pav_jax.commands.stages import STAGES
from pav_jax.errors import BadInput
from pav_jax.records import Refinement
from pav_jax.video.backend import GeneratorBackend
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generator import VideoBatch
from tests.fakes import WordCountReward, WordCountSuite


@pytest.fixture(autouse=True)
def fake_calls(monkeypatch, tmp_path):
    """Replace everything that loads models; returns the list of calls."""
    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    log = logging.getLogger("pav_jax")
    for name, value in (
        ("handlers", []),
        ("propagate", True),
    ):  # what a command changes is put back
        monkeypatch.setattr(log, name, value)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    class Booster:
        @classmethod
        def from_pretrained(cls, path, template=None):
            if path == "nowhere":
                raise BadInput("nowhere: no such folder")
            calls.append(("load", path, template))
            return cls()

        def refine(self, prompts, num_return_sequences=1, seed=0):
            calls.append(("refine", list(prompts), num_return_sequences, seed))
            return [
                [
                    Refinement(p, f"{p}\nin detail {i}", seed, "fake")
                    for i in range(num_return_sequences)
                ]
                for p in prompts
            ]

    class Backend(GeneratorBackend):
        settings = GenerationConfig()
        fingerprint = "0123"

        def generate(self, prompts, *, seed):
            return self.generate_batch(prompts, seed=seed).videos

        def generate_batch(self, prompts, **options):
            calls.append(("generate", list(prompts), options))
            errors = ["no video: HTTP status 500" if "impossible" in p else None for p in prompts]
            options["progress"](len(prompts), len(prompts))
            videos = np.full(
                (len(prompts), 1 if "picture" in prompts[0] else 3, 16, 16, 3), 90, np.uint8
            )
            return VideoBatch(videos, errors)

    def load_generator(path, dtype, batch_size, **settings):
        calls.append(("load", path, dtype, batch_size, *([settings] if settings else [])))
        return Backend()

    class LanguageModel:
        path = "m"

        @classmethod
        def from_pretrained(cls, path, dtype, adapter):
            calls.append(("load", path, dtype, adapter))
            return cls()

        def save_pretrained(self, folder, max_shard_size):
            calls.append(("save", folder, max_shard_size))

    class Recipe:
        def __init__(self, config):
            self.config = config

    for name in STAGES:

        def stage(self, workdir, name=name, **options):
            calls.append((name, self.config, workdir, options))
            return "the/result"

        setattr(Recipe, name, stage)

    monkeypatch.setattr(
        "pav_jax.rewards.suite.RewardSuite.from_config",
        lambda config, on_error=None: WordCountSuite(),
    )
    score_with_refined = WordCountReward.score
    monkeypatch.setattr(
        WordCountReward,
        "score",
        lambda self, videos, prompts, refined=None: score_with_refined(
            self, videos, prompts, refined or prompts
        ),
    )
    fakes = {
        "booster.booster": types.SimpleNamespace(Booster=Booster),
        "recipe": types.SimpleNamespace(Recipe=Recipe),
        "video.loading": types.SimpleNamespace(load_generator=load_generator),
        "language.language_model": types.SimpleNamespace(LanguageModel=LanguageModel),
    }
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, f"pav_jax.{name}", module)
        if "." not in name:
            monkeypatch.setattr(pav_jax, name, module, raising=False)
    return calls
