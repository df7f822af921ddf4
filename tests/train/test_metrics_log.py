"""Metrics of training: `metrics.jsonl`, TensorBoard event files, and lines in the log."""

import json

import pytest

from pav_jax.progress import Progress
from pav_jax.storage.scalars import FILE, read_events
from pav_jax.train.metrics_log import MetricsLog
from pav_jax.train.step_report import StepReport


def train(folder, first, last, progress=None):
    """Log steps `first` to `last`, after a restart at `first` - 1."""
    folder.mkdir(exist_ok=True)
    report = StepReport("sft", 10, progress, folder)
    log = MetricsLog(folder / "metrics.jsonl", first - 1, report, num_chips=1, peak_flops=1e9)
    for step in range(first, last + 1):
        log.add({"loss": step + first / 100}, num_tokens=10, flops=1e3)
        log.flush()
    log.close()


def points(folder, tag="loss"):
    """Step -> value; fails if a step is there twice."""
    events = list(read_events((folder / FILE).read_bytes()))
    rows = [(e.step, v.simple_value) for e in events for v in e.summary.value if v.tag == tag]
    assert len(dict(rows)) == len(rows)
    return {step: pytest.approx(value) for step, value in rows}


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.parametrize("restart", [1, 2, 4, 5])
def test_scalars_after_restart(tmp_path, restart):
    train(tmp_path / "sft", 1, 4)
    train(tmp_path / "sft", restart, 6)
    assert points(tmp_path / "sft" / "logs") == losses(tmp_path / "sft")
    assert set(losses(tmp_path / "sft")) == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("size", [0, 20, 100, None])
def test_scalars_lost_by_a_kill_come_from_metrics(tmp_path, size):
    train(tmp_path / "sft", 1, 4)
    file = tmp_path / "sft" / "logs" / FILE
    if size is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:size])
    train(tmp_path / "sft", 5, 6)
    assert points(tmp_path / "sft" / "logs") == losses(tmp_path / "sft")
    assert points(tmp_path / "sft" / "logs", "mfu")


@pytest.mark.parametrize("folder, name", [("sft", "sft"), ("round_2", "sft_2")])
def test_scalars_of_a_stage(tmp_path, folder, name, capsys):
    with Progress(logs=tmp_path / "logs") as progress:
        train(tmp_path / folder, 1, 3, progress)
    assert points(tmp_path / "logs" / name) == losses(tmp_path / folder)
    assert not (tmp_path / folder / "logs").exists()
    lines = capsys.readouterr().err.splitlines()
    assert "0 of 10 steps, started" in lines[0]
    assert "3 of 10 steps, stopped after" in lines[-1] and "loss 3.01" in lines[-1]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"step": 3, "lo',
        b"null",
        b"[1]",
        b"3",
        b'"x"',
        b"{}",
        b'{"step": "x"}',
        b'{"step": null}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda damage: repr(damage[:20]),
)
def test_metrics_log_skips_unreadable_lines(damage, tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1, "loss": 2.0}', damage, b'{"step": 2, "loss": 1.0}', b'{"step": 3}']
    path.write_bytes(b"\n".join(lines) + b"\n")
    MetricsLog(path, 2, StepReport("sft", 3, None, tmp_path), num_chips=1, peak_flops=None)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1, 2]
