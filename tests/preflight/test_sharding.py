"""How a training step is laid out on a mesh, seen in what its compiled program moves."""

import json
import os
import subprocess
import sys

PROGRAM = """
import json, pathlib, sys
from pav_jax import defaults
from pav_jax.preflight import rewriter_programs as rewriter
from pav_jax.preflight.program import Assumed
from pav_jax.preflight.hlo import Program
from pav_jax.parallel.mesh import make_mesh
from pav_jax.preflight.traffic import moved
from tests.preflight import tiny

config = tiny.set_sizes(defaults.get_config(), length=256, batch=16)
found = {}
for name, sizes in {"fsdp": dict(fsdp=8), "data and tensor": dict(data=2, fsdp=2, tensor=2)}.items():
    lm = rewriter.model(config, make_mesh(**sizes), tiny.write_sizes(pathlib.Path(sys.argv[1])))
    text = rewriter.training("sft", config, lm, Assumed()).trace().lower().compile().as_text()
    found[name] = {kind: size for (kind, _), size in moved(Program(text)).received.items()}
print(json.dumps(found))
"""


def test_rows_stay_where_they_are_and_weights_come_to_them(tmp_path):
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=env,
        check=True,
        text=True,
        capture_output=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    # what one device holds between layers: 2 rows of 256 tokens, 32 wide; summed in every layer it
    # would be much more
    activations = 2 * 256 * 32 * 4
    assert 0 < found["fsdp"]["all-reduce"] < activations < found["fsdp"]["all-gather"]
    # over the tensor axis, and only there, they are summed: 4 rows, in each of 3 layers 2 sums
    # forward, 1 again, 5 back
    assert 0 < found["data and tensor"]["all-reduce"] < 3 * 10 * (2 * activations)
    assert "Involuntary full rematerialization" not in done.stderr
