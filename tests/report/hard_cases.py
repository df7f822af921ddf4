"""A work directory that is hard to show: many systems, long and right-to-left texts, no scores."""

import dataclasses
import json

import numpy as np
from ml_collections import ConfigDict

from pav_jax import config as configuration
from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.records import Candidate, Preference
from pav_jax.storage.records import SegmentFolder, write_jsonl
from pav_jax.trust.trust import trust
from pav_jax.workdir_config import bind_config_to_workdir
from tests.fakes import FakeGenerator, WordCountSuite
from tests.trust.fakes import PROMPTS, PatternGenerator, make_suite
from tests.trust.test_trust import make_config

ARABIC = "طفل يركض على الشاطئ عند غروب الشمس مع كلب صغير"
HEBREW = "חתול אפור ישן על ספה ליד החלון, 3 ציפורים בחוץ"
UNBROKEN = "a" + 150 * "verylongword" + " sits"
LONG = "a lighthouse keeper climbs a spiral staircase while a storm rages outside, " * 12
HARD_PROMPTS = (ARABIC, HEBREW, UNBROKEN, LONG, "two red kites <b>&amp;</b>", "a cat")
SYSTEMS = (
    "base",
    "sft",
    *(f"learning_rate_sweep_of_our_large_model_{i}" for i in range(36)),
    "dpo_with_a_long_name_without_any_spaces_or_hyphens",
    "dpo_2",
)
UNSCORED = "a cat"


def write_hard_cases(folder, systems=SYSTEMS):
    """Fill a work directory with the output of every stage that the report shows."""
    config = configuration.load(None, ["--config.evolve.weights={'AES': 1.0}"])
    bind_config_to_workdir(config, folder)
    options = dict(seeds=(0,), num_suffix_prompts=1, num_resamples=50, save_videos=True)
    settings = ConfigDict(dict(generator=dict(batch_size=8), evaluate=options))
    numbers = {system: i for i, system in enumerate(systems)}
    rewriters = {
        system: lambda prompts, seed, i=i: [
            f"{p} {'bright ' * (1 + i % 5)}now {p}" for p in prompts
        ]
        for system, i in numbers.items()
    }
    sets = {
        "near": PromptSet(HARD_PROMPTS, (None,) * len(HARD_PROMPTS)),
        "prompts_of_another_set_with_a_very_long_name": PromptSet((ARABIC,), (None,)),
    }
    suite = WordCountSuite(unscored=UNSCORED)
    evaluate(settings, rewriters, sets, FakeGenerator(), suite, folder, training_prompts=["a dog"])
    for video in sorted((folder / "videos").iterdir())[::7]:
        video.unlink()
    trust(make_config(), PROMPTS[:4], PatternGenerator(), make_suite(), folder)
    _write_training(folder)


def _write_training(folder):
    prompts = [*HARD_PROMPTS, *(f"a dog {i}" for i in range(8))]
    first = [
        Candidate(f"0 {i}", p, p, 0, 0, (), "user", 1, {"AES": i / 10, "DD": 0.5})
        for i, p in enumerate(prompts)
    ]
    pool = [
        dataclasses.replace(
            c,
            key=f"{n} {i}",
            round=n,
            refined=f"{c.prompt} " * (3 * n + 1),
            scores={"AES": i / 10 + n, "DD": float("nan") if n == 2 else 0.5 - n / 10},
        )
        for n in range(1, 9)
        for i, c in enumerate(first)
    ]
    SegmentFolder(folder / "pool", Candidate).write([*first, *pool])
    pairs = [Preference(p, f"{p} better", p, 0.5) for p in prompts]
    for number in (1, 2):
        write_jsonl(folder / f"round_{number}" / "preferences.jsonl", pairs)
    losses = np.random.default_rng(0).uniform(0.5, 1, 300)
    rows = [{"step": i, "loss": v, "rewards/accuracies": v} for i, v in enumerate(losses.tolist())]
    for stage in ("sft", "round_1", "round_2"):
        (folder / stage).mkdir(exist_ok=True)
        lines = "\n".join(map(json.dumps, rows))
        (folder / stage / "metrics.jsonl").write_text(lines)
