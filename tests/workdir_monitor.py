"""Run `pav` and note what each stage changes in the work directory; optionally kill it there.

    main(NOTES, STAGE, NUMBER, "run", "--config=...", "--workdir=...")

A change is a file opened for writing, a folder made, a rename or a removal below the work
directory, by whatever library. Just before change NUMBER of STAGE ("evolve", ..., "prefer 2") the
process gets SIGKILL; with NUMBER 0 it lives. The file NOTES then holds where it died, or the paths
that each stage changed, in order.
"""

import functools
import json
import os
import signal
import sys
from pathlib import Path

STAGES = ("evolve", "select", "sft", "prefer", "dpo", "evaluate", "report")
REPEATED = ("prefer", "dpo")  # once a round
CHANGES = {
    "os.rename": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "shutil.rmtree": 1,
}  # paths
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class WorkdirMonitor:
    """An audit hook of the interpreter; the wrapped stages tell it which one is running."""

    def __init__(self, notes: str, stage: str, number: int, workdir: str):
        self.notes = Path(notes)
        self.stage = stage
        self.number = number
        self.prefix = os.path.join(os.path.abspath(workdir), "")
        self.running = ""
        self.calls: dict[str, int] = {}
        self.changes: dict[str, list[str]] = {}

    def __call__(self, event: str, args: tuple) -> None:
        if not self.running:
            return
        if event == "open":
            paths = args[:1] if (args[2] or 0) & WRITING else ()
        else:
            paths = args[: CHANGES.get(event, 0)]
        if any(self._inside(path) for path in paths):
            changes = self.changes.setdefault(self.running, [])
            changes.append(os.fsdecode(paths[0]).removeprefix(self.prefix))
            if (self.running, len(changes)) == (self.stage, self.number):
                self.running = ""  # what is written next is not a change
                self.notes.write_text(
                    json.dumps({"stage": self.stage, "event": event, "path": changes[-1]})
                )
                os.kill(os.getpid(), signal.SIGKILL)

    def _inside(self, path) -> bool:
        named = isinstance(path, (str, bytes, os.PathLike))
        return named and os.path.abspath(os.fsdecode(path)).startswith(self.prefix)

    def watch(self, name: str, function):
        @functools.wraps(function)
        def stage(*args, **options):
            number = self.calls[name] = self.calls.get(name, 0) + 1
            self.running = f"{name} {number}" if name in REPEATED else name
            try:
                return function(*args, **options)
            finally:
                self.running = ""

        return stage


def main(notes: str, stage: str, number: str, *argv: str) -> int:
    from pav_jax.main import main as pav
    from pav_jax.recipe import Recipe

    workdir = next(word.partition("=")[2] for word in argv if word.startswith("--workdir="))
    monitor = WorkdirMonitor(notes, stage, int(number), workdir)
    for name in STAGES:
        setattr(Recipe, name, monitor.watch(name, getattr(Recipe, name)))
    sys.addaudithook(monitor)
    status = pav(argv)
    monitor.notes.write_text(json.dumps(monitor.changes))
    return status


def run_monitored(errors: str, *arguments: str) -> None:
    """`main` in a process of its own, which ends; `errors` gets its standard error."""
    with open(errors, "wb") as file:
        os.dup2(file.fileno(), 2)
    sys.exit(main(*arguments))
