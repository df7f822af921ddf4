"""What all benchmarks share: the name of the CPU, a timer, and the record of a result."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

DEVICES = os.environ.get("JAX_NUM_CPU_DEVICES")  # that the user set; scripts may set it later
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "diffusers", "transformers", "trl", "peft")


def cpu_model() -> str:
    """The name of the CPU, or the architecture where /proc/cpuinfo does not name it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls, after an untimed call that compiles and fills
    caches."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def product_rate(size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of the fastest product of two square float32 matrices by numpy's BLAS on all cores:
    what a float32 program can reach at most on this machine, now."""
    matrix = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    return 2 * size**3 / fastest(lambda: matrix @ matrix, repeats)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on, as far as installed."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}


def commit() -> str | None:
    """The commit of the working tree, with "+" if files differ from it; None without git."""
    folder = Path(__file__).parent
    try:
        name, changes = (
            subprocess.run(
                ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
            ).stdout.strip()
            for arguments in (
                ("rev-parse", "--short=9", "HEAD"),
                # results and the pages made from them change while benchmarks run
                ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)docs"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + "+" * bool(changes)


def own_command() -> str:
    """The command of this process as a user of the repository types it; `--json` is left out."""
    options = [option for option in sys.argv[1:] if not option.startswith("--json=")]
    line = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *options])
    return f"JAX_NUM_CPU_DEVICES={DEVICES} {line}" if DEVICES else line


def write_result(path: Path | None, values: Mapping[str, Any], command: str | None = None) -> None:
    """Write a result as JSON, with its command and where and when it ran.

    Args:
      path: None writes nothing.
      command: None: that of this process.
    """
    if path is None:
        return
    record = {
        "command": command or own_command(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "versions": versions(),
        **values,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")  # a file that is there is complete
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
