import io
import re
import sys
import time

import pytest
import rich.progress

from pav_jax.progress import Progress, format_seconds
from pav_jax.storage.scalars import FILE, read_events

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "


def lines(capsys):
    text = capsys.readouterr().err
    assert not text or text.endswith("\n")
    assert all(re.match(STAMP, line) for line in text.splitlines())
    return [re.sub(STAMP, "", line) for line in text.splitlines()]


def wait_for(capsys, number):
    """The lines so far, when there are at least `number`."""
    written = []
    deadline = time.monotonic() + 120
    while len(written) < number and time.monotonic() < deadline:
        time.sleep(0.01)
        written += lines(capsys)
    return written


def test_progress_first_and_last_line(capsys):
    with Progress() as progress:
        task = progress.add_task("evolve", total=4, unit="videos")
        progress.update(task, completed=2, text="AES 5.000")
        progress.update(task, completed=4, text="AES 6.000")
    first, last = lines(capsys)
    assert first == "evolve: 0 of 4 videos, started"
    assert re.fullmatch(
        r"evolve: 4 of 4 videos, finished in 0 s, [\d.e+]+ videos/s, AES 6.000", last
    )


def test_progress_line_every_interval(capsys):
    with Progress(interval_s=0.02) as progress:
        task = progress.add_task("sft", total=1000, unit="steps")
        progress.update(task, completed=10, text="loss 2.0")
        progress.update(task, completed=20, text="loss 1.0")
        written = wait_for(capsys, 4)
    assert re.fullmatch(
        r"sft: 20 of 1,000 steps, [\d.e+]+ steps/s, .+ (s|min|h) left, loss 1.0", written[-1]
    )
    assert lines(capsys)[-1].startswith("sft: 20 of 1,000 steps, stopped after")


def test_progress_rate_without_cached(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    task = progress.add_task("evaluate", total=200, unit="videos")
    for seconds, done in ((0, 100), (50, 110), (60, 120), (70, 130)):
        now[0] = seconds
        progress.update(task, completed=done, num_cached=100)
    # the first ten took 50 s, mostly compilation
    assert progress._lines._pace(progress.tasks[0]) == "1 videos/s, 70 s left"


def test_progress_rate_of_a_small_last_batch(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    task = progress.add_task("prefer, round 1", total=20, unit="videos")
    for seconds, done in ((99, 16), (100, 20)):
        now[0] = seconds
        progress.update(task, completed=done)
    assert lines(capsys)[-1] == "prefer, round 1: 20 of 20 videos, finished in 100 s, 0.2 videos/s"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_progress_line_break_after_error(capsys, error):
    with pytest.raises(error), Progress() as progress:
        progress.add_task("dpo", total=3, unit="steps")
        progress.add_task("evaluate", total=0, unit="videos")
        raise error
    assert lines(capsys)[2:] == [
        "dpo: 0 of 3 steps, stopped after 0 s",
        "evaluate: 0 of 0 videos, finished in 0 s",
    ]


@pytest.mark.parametrize("error", [None, ValueError])
def test_progress_terminal(monkeypatch, error):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    try:
        with Progress() as progress:
            task = progress.add_task("evolve", total=2, unit="videos", text="[x]")
            progress.advance(task)
            if error:
                raise error
    except ValueError:
        pass
    text = sys.stderr.getvalue()
    assert "1/2" in text and "[x]" in text and "time left" in text and "started" not in text
    assert re.sub(r"\x1b\[[\d?;]*[a-zA-Z]", "", text).endswith("\n")


def test_progress_brief_and_hidden(capsys):
    for options in ({"is_brief": True}, {"is_shown": False}):
        with Progress(**options) as progress:
            progress.advance(progress.add_task("score", total=1))
    assert lines(capsys) == []
    with Progress(is_brief=True, interval_s=0.02) as progress:
        progress.add_task("score", total=2, unit="videos")
        assert wait_for(capsys, 1)[0] == "score: 0 of 2 videos"
    assert lines(capsys)[-1].startswith("score: 0 of 2 videos, stopped after")


def test_progress_single_task(capsys):
    with Progress() as progress, progress.single_task("select"):
        pass
    assert lines(capsys) == ["select: started", "select: finished in 0 s"]
    with pytest.raises(ValueError), Progress() as progress, progress.single_task("report"):
        raise ValueError
    assert lines(capsys)[-1] == "report: stopped after 0 s"


def test_progress_detail_has_no_last_line(capsys):
    with Progress() as progress:
        task = progress.add_task("grpo, videos", total=2, is_detail=True)
        for completed in (1, 2, 1, 2):
            progress.update(task, completed=completed)
    assert lines(capsys) == []


def test_progress_in_place_of_rich():
    assert isinstance(Progress(), rich.progress.Progress)


def test_progress_scalars(tmp_path):
    with Progress(logs=tmp_path) as progress:
        progress.scalars("sft").add(1, {"loss": 2.0})
        Progress(logs=tmp_path, is_shown=False).scalars("dpo").add(1, {"loss": 2.0})
    events = list(read_events((tmp_path / "sft" / FILE).read_bytes()))
    assert [e.summary.value[0].simple_value for e in events[1:]] == [2.0]
    assert not (tmp_path / "dpo").exists()


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (119, "119 s"), (900, "15 min"), (9e3, "2.5 h"), (2e5, "2.3 days")],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
