"""Checks of command-line values that several commands share."""

from pav_jax.errors import BadInput


def require_at_least(minimum: float, option: str, value: float | None) -> None:
    """Refuse a number below `minimum`; None, an option that was not given, passes.

    Raises:
      BadInput: names the option.
    """
    if value is not None and value < minimum:
        raise BadInput(f"{option}={value}: must be at least {minimum}", source=option)
