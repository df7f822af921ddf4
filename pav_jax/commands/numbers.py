"""Checks of numbers given on the command line."""

from pav_jax.errors import BadInput


def at_least(least: float, option: str, value: float | None) -> None:
    """Raises BadInput when `value` was given and lies below `least`."""
    if value is not None and value < least:
        raise BadInput(f"{option}={value}: must be at least {least}")
