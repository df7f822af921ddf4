"""How the time of a function grows with the length of its input, on a machine of any speed."""

import math
import time
from collections.abc import Callable

MAX_ROUNDS = 20
SLACK_S = 0.1  # what does not grow


def assert_faster(function: Callable[[], object], bound: Callable[[float], float], than) -> None:
    """`function()` takes less CPU time than `bound` of the seconds of `than()`.

    Other processes only ever slow a call down, so the fastest calls are compared, and both are
    called again before the function is found too slow.
    """
    other_s = own_s = math.inf
    for _ in range(MAX_ROUNDS):
        other_s = min(other_s, seconds(than), seconds(than))
        own_s = min(own_s, seconds(function))
        if own_s < bound(other_s):
            return
    raise AssertionError(f"{own_s} s, of the other {other_s} s")


def seconds(function: Callable[[], object]) -> float:
    """The CPU seconds of one call in this thread."""
    start = time.thread_time()
    function()
    return time.thread_time() - start


def assert_linear(function: Callable[[int], object], short: int, factor: int = 4) -> None:
    """`function(factor * short)` takes at most twice `factor` times as long as `function(short)`;
    time that grows as the square takes `factor` squared times as long."""
    assert_faster(
        lambda: function(factor * short),
        lambda other_s: 2 * factor * other_s + SLACK_S,
        than=lambda: function(short),
    )
