"""The benchmark scripts run and compare equal results, at their smallest sizes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import pages

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = {
    "generate": ("--batch-size=1", "--num-inference-steps=1", "--repeats=1"),
    "score": ("--tiny", "--repeats=1"),
    "evolve": (
        "--prompts=1",
        "--rounds=1",
        "--rewrites=1",
        "--num-inference-steps=1",
        "--batch-size=1",
        "--repeats=0",
        "--threads=1",
        "--no-first-runs",
    ),
}
SHOWN = {"evolve": "candidates/s"}
PAGE = {"generate": "generate_mini"}  # the part of the pages that is made from the result


@pytest.mark.parametrize("name", COMMANDS)
def test_benchmark_prints_both_sides(name, tmp_path):
    file = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *COMMANDS[name], f"--json={file}"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ours" in done.stdout and SHOWN.get(name, "GFLOP") in done.stdout
    assert pages.FORMATTERS[PAGE.get(name, name)](json.loads(file.read_text()))
