"""How the time of a function grows with the length of its input, on a machine of any speed."""

import time
from collections.abc import Callable

ROUNDS = 3  # the fastest counts: other processes disturb
SLACK_S = 0.1  # what does not grow


def seconds(function: Callable, *arguments) -> float:
    """The CPU seconds of the fastest of a few calls."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function(*arguments)
        times.append(time.process_time() - start)
    return min(times)


def assert_linear(function: Callable[[int], object], short: int, factor: int = 4) -> None:
    """`function(factor * short)` takes at most twice `factor` times as long as `function(short)`;
    time that grows as the square takes `factor` squared times as long."""
    few, many = seconds(function, short), seconds(function, factor * short)
    assert many < 2 * factor * few + SLACK_S, (few, many)
