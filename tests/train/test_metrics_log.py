"""What earlier runs wrote to `metrics.jsonl`."""

import json

import pytest

from pav_jax.train.loop import no_report
from pav_jax.train.metrics_log import MetricsLog


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
    MetricsLog(path, 2, no_report, num_chips=1, peak_flops=None)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1, 2]
