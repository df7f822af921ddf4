"""How a train step is sharded over a mesh, seen in what its compiled program moves."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, pathlib, sys
from pav_jax import defaults
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight import rewriter_programs
from pav_jax.preflight.hlo import HloModule
from pav_jax.preflight.traffic import measure_traffic
from tests.tiny import rewriter_sizes

config = rewriter_sizes.set_batch(defaults.get_config(), max_length=256, batch_size=16)
meshes = {"fsdp": dict(fsdp=8), "data and tensor": dict(data=2, fsdp=2, tensor=2)}
received = {}
for name, sizes in meshes.items():
    config_json = rewriter_sizes.write_config_json(pathlib.Path(sys.argv[1]))
    lm = rewriter_programs.outline(config, make_mesh(**sizes), config_json)
    step = rewriter_programs.training("sft", config, lm).trace()
    traffic = measure_traffic(HloModule(step.lower().compile().as_text()))
    received[name] = {kind: size for (kind, _), size in traffic.received.items()}
print(json.dumps(received))
"""


@pytest.mark.slow
def test_train_step_gathers_weights_not_activations(tmp_path):
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=env,
        check=True,
        text=True,
        capture_output=True,
    )
    received = json.loads(process.stdout.splitlines()[-1])
    # What one device holds between layers: 2 rows of 256 tokens, 32 wide. An all-reduce of these in
    # every layer would be much more.
    activations = 2 * 256 * 32 * 4
    assert 0 < received["fsdp"]["all-reduce"] < activations < received["fsdp"]["all-gather"]
    # They are summed over the tensor axis only: 4 rows, in each of 3 layers 2 sums forward, 1
    # recomputed, 5 backward.
    assert 0 < received["data and tensor"]["all-reduce"] < 3 * 10 * (2 * activations)
    assert "Involuntary full rematerialization" not in process.stderr
