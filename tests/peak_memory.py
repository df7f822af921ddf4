"""Peak memory of this process since a moment of its life.

`getrusage` gives a child process the peak that its parent had before `exec`, and never goes down: a
large pytest process hides what a test takes and blames a small child. Linux can count again.
"""

import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def reset_peak_memory() -> int:
    """Starts the count again, where that is possible; returns the peak from here, in bytes."""
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """The most bytes held at once since the process began or the count was reset."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
