"""Processes that are later than the 30 s that Gloo waits for them."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.object_stores import free_port

ROOT = pathlib.Path(__file__).parents[2]
LATE_S = 33
PROGRAM = f"""
import sys, time, jax
from pav_jax.parallel import collectives, mesh, processes
processes.initialize_distributed()
if jax.process_index():
    time.sleep({LATE_S})
"""
FIRST_COLLECTIVES = {
    "a flag": "print(processes.any_process(jax.process_index() == 1))",
    "a barrier": "processes.barrier('x'); print(True)",
    "a mesh": """
m = mesh.make_mesh(data=2, tensor=2)
collectives.connect_devices(m)
spec = jax.sharding.NamedSharding(m, jax.sharding.PartitionSpec())
rows = jax.sharding.NamedSharding(m, jax.sharding.PartitionSpec("data", "tensor"))
x = jax.make_array_from_callback((2, 2), rows, lambda index: jax.numpy.ones((2, 2))[index])
print(float(jax.jit(lambda x: (x @ x).sum(), out_shardings=spec)(x)) == 8)
""",
}


def start(program: str) -> list[subprocess.Popen]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM + program],
            env=environment | {"JAX_PROCESS_ID": str(index)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]


@pytest.mark.slow
def test_first_collective_of_late_process():
    running = {name: start(program) for name, program in FIRST_COLLECTIVES.items()}
    for name, processes in running.items():
        for process in processes:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, (name, errors[-2000:])
            assert "True" in output.splitlines(), (name, output)  # Gloo writes there too
