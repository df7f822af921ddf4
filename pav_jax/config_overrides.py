"""Find the `--config.SECTION.FIELD=VALUE` words of a command line. Imports nothing heavy."""

import re
from collections.abc import Sequence

OVERRIDE = re.compile(r"--(no)?config\.(?P<path>[^=]+)(=(?P<value>.*))?", re.DOTALL)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate `--config.a.b=value` and `--config.a.b value` from other words.

    Returns:
      (the other words, the overrides, each as one word).
    """
    words: list[str] = []
    overrides: list[str] = []
    queue = list(argv)
    while queue:
        word = queue.pop(0)
        match = OVERRIDE.fullmatch(word)
        if match is None:
            words.append(word)
            continue
        needs_value = match["value"] is None and not match[1]
        if needs_value and queue and not queue[0].startswith("--"):
            word = f"{word}={queue.pop(0)}"
        overrides.append(word)
    return words, overrides
