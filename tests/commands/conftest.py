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

REASONS = {"what is rain?": "it is a question"}  # why the fake booster says that a prompt stands


def _fake_booster(calls):
    """A class in place of Booster that records its calls."""

    class Booster:
        @classmethod
        def from_pretrained(cls, path, template=None, adapters=None, int8=None):
            if path == "nowhere":
                raise BadInput("nowhere: no such folder")
            precision = () if int8 is None else (int8,)
            calls.append(("load", path, template, *(adapters or ()), *precision))
            return cls()

        def refine(self, prompts, num_return_sequences=1, seed=0, adapter_names=None, **guard):
            options = [guard] if guard else []
            calls.append(("refine", list(prompts), num_return_sequences, seed, *options))
            return [
                [
                    Refinement(p, f"{p}\nin detail {i}", seed, "fake", reason=REASONS.get(p, ""))
                    for i in range(num_return_sequences)
                ]
                for p in prompts
            ]

    return Booster


def _fake_load_generator(calls):
    """A function in place of load_generator that records its calls."""

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

    return load_generator


def _fake_language_model(calls):
    """A class in place of LanguageModel that records its calls."""

    class LanguageModel:
        path = "m"

        @classmethod
        def from_pretrained(cls, path, dtype, adapter):
            calls.append(("load", path, dtype, adapter))
            return cls()

        def save_pretrained(self, folder, max_shard_size):
            calls.append(("save", folder, max_shard_size))

    return LanguageModel


def _fake_recipe(calls):
    """A class in place of Recipe whose stages only record their calls."""

    class Recipe:
        def __init__(self, config):
            self.config = config

    for name in (*STAGES, "votes_page"):

        def stage(self, workdir, name=name, **options):
            calls.append((name, self.config, workdir, options))
            return "the/result"

        setattr(Recipe, name, stage)

    return Recipe


@pytest.fixture(autouse=True)
def fake_calls(monkeypatch, tmp_path):
    """Replace everything that loads models; returns the list of calls."""
    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    log = logging.getLogger("pav_jax")
    # a command changes these; monkeypatch restores them
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

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
        "booster.booster": types.SimpleNamespace(Booster=_fake_booster(calls)),
        "recipe": types.SimpleNamespace(Recipe=_fake_recipe(calls)),
        "video.loading": types.SimpleNamespace(load_generator=_fake_load_generator(calls)),
        "language.language_model": types.SimpleNamespace(LanguageModel=_fake_language_model(calls)),
    }
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, f"pav_jax.{name}", module)
        if "." not in name:
            monkeypatch.setattr(pav_jax, name, module, raising=False)
    return calls
