"""Runs a program in a process of its own that has several CPU devices."""

import os
import subprocess
import sys


def run_on_cpu_devices(count: int, program: str, *arguments: object) -> str:
    """Return what the program prints; its exit status must be 0."""
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(count),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
