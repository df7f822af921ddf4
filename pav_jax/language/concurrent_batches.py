"""Several batches of answers at the same time, each in a thread, on the cores of one CPU."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
CACHE_SHARE = 0.5  # bytes of the caches of a batch, relative to those of the weights
MIN_ROWS = 16


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_batches(rows: int, row_bytes: int, weight_bytes: int) -> int:
    """Return how many batches share these rows, at most one for each core.

    On a CPU, attention to the keys of each row uses one core. Where it reads much less than the
    products do, which read all weights for each batch, more batches only take longer.

    Args:
      rows: in all.
      row_bytes: of the cache of a row.
      weight_bytes: of the parameters.
    """
    min_rows = max(MIN_ROWS, CACHE_SHARE * weight_bytes / row_bytes)
    return max(1, min(num_cores(), int(rows / min_rows)))


def split_evenly(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """Return consecutive parts whose lengths differ by at most one."""
    borders = [i * len(items) // count for i in range(count + 1)]
    return [items[a:b] for a, b in zip(borders, borders[1:], strict=False)]


def run_concurrently(batches: Sequence[Any]) -> dict:
    """Return the answers of all batches.

    Only one of them dispatches at a time, so that a program is compiled once; its steps then run
    while the others dispatch.

    Args:
      batches: of `batch.Batch`, with the same shapes.
    """
    if len(batches) == 1:
        return batches[0].run()
    dispatching = threading.Lock()
    for batch in batches:
        batch.dispatching = dispatching
    with ThreadPoolExecutor(len(batches)) as pool:
        try:
            parts = list(pool.map(lambda batch: batch.run(), batches))
        except BaseException:  # also an interrupt: the other threads end after their steps
            for batch in batches:
                batch.is_stopped = True
            raise
    return {sample: answer for part in parts for sample, answer in part.items()}
