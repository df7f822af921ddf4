"""`pav check` from its command line to what it prints."""

import json
import subprocess
import sys

import jax
import pytest

from pav_jax.commands import check
from pav_jax.main import main
from pav_jax.parallel.chips import CHIPS
from pav_jax.preflight import configured_programs, libtpu, topology
from tests.preflight.libtpu import needs_libtpu
from tests.tiny import rewriter_sizes


@pytest.fixture
def as_with_libtpu(monkeypatch):
    monkeypatch.setattr(libtpu, "require_libtpu", lambda: None)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--topology=v5e:four"], "topology=v5e:four: write a generation"),
        ([], "--topology is missing"),
        (
            ["--topology=v5e:2x2", "--programs=sft,sgt"],
            "there is no 'sgt'; choose from sft, dpo, sample",
        ),
        (["--topology=v5e:2x2", "--num-examples=0"], "--num-examples=0: must be at least 1"),
        (["--topology=v5e:2x2", "--jobs=0"], "--jobs=0: must be at least 1"),
        (["--topology=v5e:0x0"], "topology=v5e:0x0: write a generation"),
        (["--topology=v5e:2x2", "--num-slices=100000"], "400,000 chips; the limit is 65,536"),
        (["--topology=v5e:99999x99999"], "chips; the limit is 65,536"),
        (
            ["--topology=v5e:2x2", "--row-length=100000000000"],
            "--row-length=100000000000: the limit is 1,048,576",
        ),
        (["--topology=v5e:2x2", "--config=nowhere.py"], "--config=nowhere.py: no such file"),
    ],
)
def test_check_bad_input(arguments, message, as_with_libtpu, capsys):
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_check_without_libtpu_imports_no_jax():
    program = (
        "import importlib.util, sys; importlib.util.find_spec = lambda name: None;"
        "from pav_jax.main import main; status = main(['check', '--topology=v5e:2x2']);"
        "sys.exit(9 if 'jax' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "pip install 'pav-jax[tpu]'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("quick", [True, False])
def test_check_quick_lowers_effort_while_compiling(quick, as_with_libtpu, monkeypatch, capsys):
    levels = []
    monkeypatch.setattr(
        check, "_examine", lambda *_: levels.append(jax.config.jax_optimization_level) or []
    )
    monkeypatch.setattr(configured_programs, "build", lambda *_: [])
    local = topology.Topology("v5e:1x1", CHIPS["v5e"], (1, 1), 1, jax.devices()[:1])
    monkeypatch.setattr(topology, "describe_topology", lambda name, num_slices: local)
    before = jax.config.jax_optimization_level
    arguments = ["check", "--topology=v5e:1x1", "--json"]
    if quick:
        arguments.append("--quick")
    assert main(arguments) == 0
    assert levels == ["O0" if quick else before]
    assert jax.config.jax_optimization_level == before
    assert json.loads(capsys.readouterr().out)["quick"] is quick


@needs_libtpu
def test_check_tiny_rewriter(tmp_path, capsys):
    config_json = rewriter_sizes.write_config_json(tmp_path, num_hidden_layers=2)
    arguments = [
        "check",
        "--topology=v5e:2x2",
        "--programs=sft",
        f"--rewriter-config={config_json}",
        "--num-examples=10",
        "--row-length=32",
        "--config.sft.batch_size=4",
        "--usd-per-chip-hour=1.2",
        "--json",
    ]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_chips"] == 4
    assert result["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1, "sequence": 1, "expert": 1}
    assert result["assumptions"] == {"num_examples": 10, "row_length": 32, "prompt_length": 128}
    (program,) = result["programs"]
    assert program["compiles"] and program["compile_seconds"] > 0
    assert program["bytes_per_chip"]["total"] > 0
    (phase,) = program["phases"]
    assert phase["num_runs"] == 12 * 10 / 4
    assert phase["flops_counted"] > phase["flops_by_formula"] > 0
    counts = {row["kind"]: row["count"] for row in phase["collectives_per_chip"]}
    assert counts["all-gather"] >= 2 * 7  # the weights of every layer, in the forward pass at least
    low, high = phase["estimated"]["usd"]
    assert 0 < low <= high
    assert 0 < phase["estimated"]["mfu_upper_bound"] < 1
