"""Progress of stages and commands: bars on a terminal, lines in a log, TensorBoard scalars."""

import contextlib
import datetime
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

from pav_jax.storage.scalars import ScalarLog

LINE_INTERVAL_S = 30.0  # between two lines about a task
MINUTE_S = 60.0
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


class Progress(rich_progress.Progress):
    """The progress display of all stages and commands, on standard error.

    A terminal shows a bar for each task. Elsewhere each task gets a line when it starts, one every
    `interval_s` seconds, and one when it ends or is stopped. A line has the number done, the rate,
    the time left, and the caller's text, such as mean scores. It has the methods of
    `rich.progress.Progress`, which can be used in its place. Fields of a task, all optional:

      unit: what is counted, such as "videos".
      text: what a line ends with, for example the mean scores so far.
      num_cached: how many were done by earlier runs; the rate does not count them.
      is_detail: whether the task is part of another one; then it has no first and no last line.

    Args:
      interval_s: seconds between the lines about a task; None: LINE_INTERVAL_S.
      is_shown: False shows nothing, as in all processes but the first.
      is_brief: whether to leave out a task's first line, and its last line unless there was one
        before. For commands that usually take a moment.
      logs: folder of the TensorBoard event files; None: none are written.
      transient: whether to remove the bars at the end.
      monitor: the `candidates.run_monitor.RunMonitor` of the run, which stages take from here;
        None: the run is not monitored.
    """

    def __init__(
        self,
        *,
        interval_s: float | None = None,
        is_shown: bool = True,
        is_brief: bool = False,
        logs: str | os.PathLike | None = None,
        transient: bool = False,
        monitor: Any = None,
    ):
        console = Console(stderr=True)
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("time left"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[text]}", markup=False),
        )
        super().__init__(
            *columns,
            console=console,
            transient=transient,
            disable=not (is_shown and console.is_terminal),
            # what is printed into a pipe must stay as it is
            redirect_stdout=sys.stdout.isatty(),
        )
        self.monitor = monitor
        self._is_shown = is_shown
        self._interval_s = LINE_INTERVAL_S if interval_s is None else interval_s
        self._logs = logs
        self._scalar_logs: dict[str, ScalarLog] = {}
        self._lines: _Lines | None = None
        if is_shown and not console.is_terminal:
            self._lines = _Lines(self, is_brief)

    def start(self) -> None:
        """Start drawing bars, or writing lines."""
        super().start()
        if self._lines is not None:
            self._lines.start(self._interval_s)

    def stop(self) -> None:
        """Show the final state of each task, and close the event files."""
        super().stop()
        if self._lines is not None:
            self._lines.stop()
        for log in self._scalar_logs.values():
            log.close()

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> rich_progress.TaskID:
        """Add a task; see the class for its fields."""
        defaults = {"unit": "", "text": "", "num_cached": 0, "is_detail": False}
        task = super().add_task(description, start, total, completed, visible, **defaults | fields)
        if self._lines is not None:
            self._lines.add(task)
        return task

    def update(self, task_id: rich_progress.TaskID, **changes: Any) -> None:
        """Change a task, as in rich; `text`, `num_cached` and `unit` are fields too."""
        super().update(task_id, **changes)
        if self._lines is not None:
            self._lines.updated(task_id)

    def advance(self, task_id: rich_progress.TaskID, advance: float = 1) -> None:
        """Count more as done."""
        self.update(task_id, advance=advance)

    @contextlib.contextmanager
    def single_task(self, description: str) -> Iterator[None]:
        """A task that is done when the block ends without an exception."""
        task = self.add_task(description, total=1)
        yield
        self.update(task, completed=1)

    def scalars(self, name: str) -> ScalarLog:
        """The TensorBoard event file of a stage, `logs/NAME`; it writes nothing without `logs`."""
        if name not in self._scalar_logs:
            folder = self._logs if self._is_shown else None
            self._scalar_logs[name] = ScalarLog(None if folder is None else f"{folder}/{name}")
        return self._scalar_logs[name]


class _TaskTimes:
    """The times that the rate of a task is computed from.

    Attributes:
      started_at: when the task was added, in seconds.
      first: (time, number made) after the first batch or step, which includes compilation.
      last: (time, number made) after the latest batch or step.
      num_lines: number of lines written about the task.
      is_ended: whether the last line has been written.
    """

    def __init__(self, now: float):
        self.started_at = now
        self.first: tuple[float, float] | None = None
        self.last: tuple[float, float] | None = None
        self.num_lines = 0
        self.is_ended = False

    def add(self, now: float, num_made: float) -> None:
        """Record how many this run has made so far."""
        if num_made <= 0 or (self.last is not None and num_made == self.last[1]):
            return
        if self.last is not None and num_made < self.last[1]:
            self.started_at = now  # the task starts again
            self.first = None
        self.first = self.first or (now, num_made)
        self.last = (now, num_made)

    def rate(self) -> float | None:
        """Number made per second; None: unknown.

        The first batch, which includes compilation, counts until as many more have been made: a
        rate of a last, smaller batch alone would say little.
        """
        if self.first is None or self.last is None:
            return None
        is_steady = self.last[1] >= 2 * self.first[1]
        start = self.first if is_steady else (self.started_at, 0.0)
        seconds = self.last[0] - start[0]
        return (self.last[1] - start[1]) / seconds if seconds > 0 else None


class _Lines:
    """Writes the lines about the tasks of a progress display."""

    def __init__(self, progress: rich_progress.Progress, is_brief: bool):
        self._progress = progress
        self._is_brief = is_brief
        self._times: dict[rich_progress.TaskID, _TaskTimes] = {}
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval_s: float) -> None:
        """Start the thread that writes a line about each unfinished task every `interval_s`."""
        self._stopped.clear()
        self._thread = threading.Thread(
            target=self._repeat, args=(interval_s,), name="progress", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and write the last line of unfinished tasks."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            for task in self._progress.tasks:
                self._end(task, "finished in" if _is_finished(task) else "stopped after")

    def add(self, task_id: rich_progress.TaskID) -> None:
        """Write the first line of a task."""
        with self._lock:
            self._times[task_id] = _TaskTimes(time.monotonic())
            task = self._task(task_id)
            if not (self._is_brief or task.fields["is_detail"]):
                self._write(task, ["started"])

    def updated(self, task_id: rich_progress.TaskID) -> None:
        """Record what was made, and write the last line of a task that is finished."""
        with self._lock:
            task = self._task(task_id)
            times = self._times[task_id]
            times.add(time.monotonic(), task.completed - task.fields["num_cached"])
            if _is_finished(task):
                self._end(task, "finished in")

    def _task(self, task_id: rich_progress.TaskID) -> rich_progress.Task:
        return next(task for task in self._progress.tasks if task.id == task_id)

    def _repeat(self, interval_s: float) -> None:
        while not self._stopped.wait(interval_s):
            with self._lock:
                for task in self._progress.tasks:
                    if not _is_finished(task):
                        self._write(task, [self._pace(task), str(task.fields["text"])])

    def _end(self, task: rich_progress.Task, verb: str) -> None:
        times = self._times[task.id]
        if times.is_ended or task.fields["is_detail"]:
            return
        times.is_ended = True
        if self._is_brief and not times.num_lines:
            return
        seconds = time.monotonic() - times.started_at
        rate = format_rate(times.rate(), task.fields["unit"])
        self._write(task, [f"{verb} {format_seconds(seconds)}", rate, str(task.fields["text"])])

    def _pace(self, task: rich_progress.Task) -> str:
        rate = self._times[task.id].rate()
        if not rate or task.total is None:
            return ""
        left = format_seconds((task.total - task.completed) / rate)
        return f"{format_rate(rate, task.fields['unit'])}, {left} left"

    def _write(self, task: rich_progress.Task, parts: list[str]) -> None:
        self._times[task.id].num_lines += 1
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = ", ".join(part for part in (_count(task), *parts) if part)
        print(f"{now} {task.description}: {text or 'running'}", file=sys.stderr, flush=True)


def _count(task: rich_progress.Task) -> str:
    """How much is done, such as "16 of 640 videos"; empty for a `single_task`."""
    if task.total == 1 and not task.fields["unit"]:
        return ""
    total = "?" if task.total is None else f"{int(task.total):,}"
    return f"{int(task.completed):,} of {total} {task.fields['unit']}".rstrip()


def _is_finished(task: rich_progress.Task) -> bool:
    """Whether all is done; unlike rich's, false again for a task that starts again."""
    return task.total is not None and task.completed >= task.total


def format_rate(rate: float | None, unit: str) -> str:
    """A rate per second as text, such as "0.53 videos/s"; empty if it or its unit is unknown."""
    return "" if rate is None or not unit else f"{rate:.3g} {unit}/s"


def format_seconds(seconds: float) -> str:
    """A time as text: "45 s", "16 min", "2.5 h" or "1.3 days"."""
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.1f} h"
    return f"{seconds / DAY_S:.1f} days"
