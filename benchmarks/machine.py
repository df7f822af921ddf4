"""What all benchmarks share: the name of the CPU and a timer."""

import platform
import time
from collections.abc import Callable
from pathlib import Path


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
