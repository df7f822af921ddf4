"""The settings that clients of HTTP endpoints share, and their checks."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pav_jax.config_fields import check_fields, option
from pav_jax.errors import BadInput

CONCURRENCY: dict[str, Any] = {"minimum": 1, "maximum": 10_000}
TIMEOUT_S: dict[str, Any] = {"above": 0, "maximum": 1e6}
MAX_RETRIES: dict[str, Any] = {"minimum": 0}
MAX_BACKOFF_S: dict[str, Any] = {"minimum": 0, "maximum": 1e6}
MAX_CONSECUTIVE_FAILURES: dict[str, Any] = {"minimum": 1}


@dataclasses.dataclass
class EndpointLimits:
    """How many requests a client sends, and how long it waits and tries again."""

    concurrency: int = option(4, "requests in flight", **CONCURRENCY)
    timeout_s: float = option(600.0, "maximum time for one response, in seconds", **TIMEOUT_S)
    max_retries: int = option(4, "retries of one request", **MAX_RETRIES)
    max_backoff_s: float = option(
        60.0, "maximum pause between two attempts, in seconds", **MAX_BACKOFF_S
    )
    max_consecutive_failures: int = option(
        8, "failures in a row that end the run", **MAX_CONSECUTIVE_FAILURES
    )

    def check(self, path: str) -> None:
        """Check the types and ranges of all values.

        Args:
          path: the dotted name of the section of the configuration, for the message.

        Raises:
          BadInput: the first value that does not fit.
        """
        check_fields(EndpointLimits, vars(self), path)


def check_json(options: Mapping[str, Any], field: str) -> None:
    """Check the options of a request before it is sent.

    Args:
      field: the dotted field of the configuration that holds them.

    Raises:
      BadInput: they contain what JSON cannot hold, such as a set or NaN.
    """
    try:
        json.dumps(dict(options), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise BadInput(
            f"{field}: cannot be written as JSON; use texts, finite numbers, lists and mappings",
            source="configuration",
            field=field,
        ) from None
