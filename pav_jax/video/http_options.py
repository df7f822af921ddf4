"""Checks the address and options of an HTTP generator."""

import json
from collections.abc import Mapping
from typing import Any

import httpx2

from pav_jax.errors import BadInput
from pav_jax.video.generation_config import GenerationConfig

REQUIRED_FIELDS = ("prompt", "negative_prompt", "seed")


def parse_url(url: str, api_key_env: str) -> httpx2.URL:
    """The address of an endpoint.

    Raises:
      BadInput: it is not valid, has no host, or contains a user name or password.
    """
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        raise BadInput(
            f"generator.path={url!r}: not a valid address", source="generator", field="path"
        ) from None
    if parsed.userinfo:
        raise BadInput(
            f"generator.path: the address at {parsed.host} contains a user name or password; put"
            f" an API key into the environment variable {api_key_env} instead",
            source="generator",
            field="path",
        )
    if not parsed.host:
        raise BadInput(
            f"generator.path={url!r}: the address has no host", source="generator", field="path"
        )
    return parsed


def check_above(field: str, value: float, limit: int) -> None:
    """Raises BadInput if `generator.endpoint.FIELD` is not above the limit."""
    if not value > limit:
        bound = "above 0" if limit == 0 else f"at least {limit + 1}"
        raise BadInput(
            f"generator.endpoint.{field}={value}: must be {bound}",
            source="generator",
            field=f"endpoint.{field}",
        )


def check_options(options: Mapping[str, Any]) -> None:
    """Raises BadInput for an option that is a field of the contract or is not JSON."""
    reserved = {*REQUIRED_FIELDS, *GenerationConfig.__dataclass_fields__}
    for name in sorted(set(options) & reserved):
        raise BadInput(
            f"generator.options.{name}: this field of the request is not an option; set"
            f" generator.{name} instead if it is a setting",
            source="generator",
            field=f"options.{name}",
        )
    try:
        json.dumps(options)
    except TypeError as error:
        raise BadInput(
            f"generator.options: cannot be written as JSON ({error})",
            source="generator",
            field="options",
        ) from None
