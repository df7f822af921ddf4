"""What a work directory may cost: videos, hours and money, counted over all runs."""

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Annotated, Any

from pav_jax.errors import BadInput, BudgetReached
from pav_jax.progress import HOUR_S
from pav_jax.storage.addresses import as_path
from pav_jax.storage.json_files import read_json, write_json
from pav_jax.typed_fields import NonNegative, Range, read_fields

FILE = "spent.json"
SAVE_INTERVAL_S = 30.0
STAGES = ("evolve", "sft", "prefer", "dpo", "grpo", "evaluate", "trust")


@dataclasses.dataclass(frozen=True)
class StageSpending:
    """What all runs have spent on a stage, as `spent.json` holds it."""

    videos: Annotated[int, Range(0)]
    seconds: NonNegative


class Budget:
    """The limits of a work directory and what has been spent of them.

    Videos and the seconds of each stage add up over all runs in `logs/spent.json`, so that a job
    that is killed and started again stays within its limits. The file is written at most every 30
    seconds: a killed run may lose that much.

    Args:
      section: `config.budget`.
      workdir: local or in an object store.
      is_writer: whether this process writes the file.

    Raises:
      BadInput: the file is corrupt.
    """

    def __init__(self, section: Any, workdir: str | os.PathLike, is_writer: bool = True):
        self.section = section
        self._file = as_path(workdir) / "logs" / FILE
        self._is_writer = is_writer
        self._videos: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._stage = ""
        self._counted_at = time.monotonic()
        self._saved_at = self._counted_at
        if self._file.exists():
            for name, row in read_json(self._file).items():
                spent = read_fields(StageSpending, row, os.fspath(self._file), name)
                self._videos[name] = spent.videos
                self._seconds[name] = spent.seconds

    def enter(self, stage: str) -> None:
        """Count videos and time for a stage from now on."""
        self._stage = stage
        self._counted_at = time.monotonic()

    def leave(self) -> None:
        """End the current stage, and write what was spent."""
        self._count_time()
        self._stage = ""
        self.save()

    def add_videos(self, number: int) -> None:
        """Count videos that the processes are about to make."""
        self._videos[self._stage] = self._videos.get(self._stage, 0) + number
        self._count_time()
        if time.monotonic() - self._saved_at >= SAVE_INTERVAL_S:
            self.save()

    def save(self) -> None:
        """Write what was spent."""
        self._saved_at = time.monotonic()
        names = sorted(self._videos.keys() | self._seconds.keys())
        if self._is_writer and names:
            rows = {
                name: {
                    "videos": self._videos.get(name, 0),
                    "seconds": round(self._seconds.get(name, 0.0), 1),
                }
                for name in names
            }
            write_json(self._file, rows)

    @property
    def videos(self) -> int:
        """Videos of all stages and runs."""
        return sum(self._videos.values())

    @property
    def hours(self) -> float:
        """Hours of all stages and runs."""
        self._count_time()
        return sum(self._seconds.values()) / HOUR_S

    def cost(self, hours: float) -> float | None:
        """The price of some hours in USD; None without `budget.usd_per_hour`."""
        price = self.section.usd_per_hour
        return None if price is None else hours * price

    def limit_of_videos(self, more: int) -> str | None:
        """The limit that `more` videos of all processes would exceed, as text, or None."""
        stage_limit = dict(self.section.stage_videos).get(self._stage)
        if stage_limit is not None and self._videos.get(self._stage, 0) + more > stage_limit:
            return (
                f"budget.stage_videos.{self._stage}={stage_limit} is reached"
                f" ({self._videos.get(self._stage, 0)} made, the next batch has {more})"
            )
        limit = self.section.videos
        if limit is not None and self.videos + more > limit:
            return (
                f"budget.videos={limit} is reached ({self.videos} made, the next batch has {more})"
            )
        return None

    def limit_of_time(self) -> str | None:
        """The limit of hours or money that is reached, as text, or None."""
        hours = self.hours
        stage_hours = self._seconds.get(self._stage, 0.0) / HOUR_S
        stage_limit = dict(self.section.stage_hours).get(self._stage)
        if stage_limit is not None and stage_hours >= stage_limit:
            return (
                f"budget.stage_hours.{self._stage}={stage_limit:g} is reached ({stage_hours:.2f} h)"
            )
        if self.section.hours is not None and hours >= self.section.hours:
            return f"budget.hours={self.section.hours:g} is reached ({hours:.2f} h)"
        cost = self.cost(hours)
        if self.section.usd is not None and cost is not None and cost >= self.section.usd:
            return f"budget.usd={self.section.usd:g} is reached ({cost:.2f} USD, {hours:.2f} h)"
        return None

    @property
    def has_limits(self) -> bool:
        """Whether there is any limit."""
        section = self.section
        return self.limits_time or section.videos is not None or bool(section.stage_videos)

    @property
    def limits_time(self) -> bool:
        """Whether there is a limit of hours or money."""
        section = self.section
        return section.hours is not None or section.usd is not None or bool(section.stage_hours)

    def _count_time(self) -> None:
        now = time.monotonic()
        if self._stage:
            seconds = self._seconds.get(self._stage, 0.0)
            self._seconds[self._stage] = seconds + now - self._counted_at
        self._counted_at = now


def budget_reached(limit: str, position: str) -> BudgetReached:
    """The exception that ends a run.

    Args:
      limit: what was reached, from `Budget`.
      position: how far the stage came, such as "evolve: 128 of 640 videos".
    """
    return BudgetReached(
        f"{limit}; stopped at {position}; finished work is kept: raise the limit and run the same"
        " command to continue",
        source="configuration",
        field=limit.partition("=")[0] if "=" in limit else "budget",
    )


def check_budget(section: Mapping[str, Any]) -> None:
    """Check the `budget` section.

    Raises:
      BadInput: a stage is unknown, a limit is not a number, or a price is missing.
    """
    for field in ("stage_videos", "stage_hours"):
        for stage, limit in section[field].items():
            name = f"budget.{field}.{stage}"
            if stage not in STAGES:
                raise _bad(name, f"no stage is called {stage!r}; choose from {', '.join(STAGES)}")
            kind = int if field == "stage_videos" else int | float
            if isinstance(limit, bool) or not isinstance(limit, kind) or not limit >= 0:
                raise _bad(name, f"{limit!r} is not a limit; give a number of at least 0")
    if section["usd"] is not None and section["usd_per_hour"] is None:
        raise _bad("budget.usd", "the price is unknown; set budget.usd_per_hour")


def _bad(field: str, problem: str) -> BadInput:
    return BadInput(f"config.{field}: {problem}", source="configuration", field=field)
