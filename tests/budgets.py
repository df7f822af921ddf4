"""Stages with a budget, without a recipe."""

import contextlib
import os
from collections.abc import Iterator

import jax

from pav_jax import config as configuration
from pav_jax.budget import Budget
from pav_jax.candidates.run_monitor import RunMonitor
from pav_jax.progress import Progress


@contextlib.contextmanager
def limited(workdir: str | os.PathLike, stage: str, *overrides: str) -> Iterator[Progress]:
    """The progress display of a stage, with overrides of `config.budget`, such as "videos=3"."""
    section = configuration.load(None, [f"--config.budget.{o}" for o in overrides]).budget
    budget = Budget(section, workdir, jax.process_index() == 0)
    budget.enter(stage)
    try:
        with Progress(is_shown=False, monitor=RunMonitor(section, budget, {})) as progress:
            yield progress
    finally:
        budget.leave()
