import json
import time

import pytest

from pav_jax import config as configuration
from pav_jax.budget import Budget
from pav_jax.errors import BadInput


def section(*overrides):
    return configuration.load(None, [f"--config.budget.{o}" for o in overrides]).budget


def test_videos_add_up_over_runs(tmp_path):
    limits = section("videos=10", "stage_videos={'evolve': 6}")
    for expected in (None, "budget.stage_videos.evolve=6"):
        budget = Budget(limits, tmp_path)
        budget.enter("evolve")
        limit = budget.limit_of_videos(4)
        assert (limit is None) if expected is None else limit.startswith(expected)
        budget.add_videos(4)
        budget.leave()
    budget = Budget(limits, tmp_path)
    budget.enter("evaluate")
    assert budget.limit_of_videos(2) is None
    assert budget.limit_of_videos(3) == (
        "budget.videos=10 is reached (8 made, the next batch has 3)"
    )
    assert json.loads((tmp_path / "logs" / "spent.json").read_text())["evolve"]["videos"] == 8


@pytest.mark.parametrize(
    "content, field",
    [
        ('{"evolve": 3}', "evolve"),
        ('{"evolve": {"videos": 3}}', "evolve.seconds"),
        ('{"evolve": {"videos": -1, "seconds": 0}}', "evolve.videos"),
        ('{"evolve": {"videos": 1, "seconds": NaN}}', "evolve.seconds"),
    ],
)
def test_budget_corrupt_file(tmp_path, content, field):
    file = tmp_path / "logs" / "spent.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(BadInput) as caught:
        Budget(section(), tmp_path)
    assert caught.value.source == str(file) and caught.value.field == field


def test_budget_not_writer(tmp_path):
    budget = Budget(section("videos=10"), tmp_path, is_writer=False)
    budget.enter("evolve")
    budget.add_videos(6)
    assert budget.videos == 6 and budget.limit_of_videos(5) is not None
    budget.leave()
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["hours=2"], "budget.hours=2 is reached (2.50 h)"),
        (["usd=20", "usd_per_hour=10"], "budget.usd=20 is reached (25.00 USD, 2.50 h)"),
        (["stage_hours={'sft': 0.5}"], "budget.stage_hours.sft=0.5 is reached (0.50 h)"),
        (["hours=3"], None),
        (["usd_per_hour=10"], None),
        (["stage_hours={'dpo': 0.1}"], None),
    ],
)
def test_time_adds_up_over_runs(tmp_path, monkeypatch, overrides, words):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limits = section(*overrides)
    for stage, hours in (("evolve", 2), ("", 7), ("sft", 0.5)):
        budget = Budget(limits, tmp_path)
        budget.enter(stage)
        now[0] += hours * 3600
        limit = budget.limit_of_time()
        if stage != "sft":
            budget.leave()
    assert limit == words
    assert budget.limits_time == (overrides != ["usd_per_hour=10"])


@pytest.mark.parametrize(
    "override, field",
    [
        ("usd=3", "budget.usd"),
        ("videos=-1", "budget.videos"),
        ("stage_videos={'select': 3}", "budget.stage_videos.select"),
        ("stage_videos={'evolve': 1.5}", "budget.stage_videos.evolve"),
        ("stage_hours={'evolve': 'x'}", "budget.stage_hours.evolve"),
        ("stage_hours={'evolve': -1}", "budget.stage_hours.evolve"),
    ],
)
def test_check_budget_invalid(override, field):
    with pytest.raises(BadInput) as caught:
        section(override)
    assert caught.value.field == field
