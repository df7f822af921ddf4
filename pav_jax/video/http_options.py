"""Checks the address and options of an HTTP generator."""

from collections.abc import Mapping
from typing import Any

import httpx2

from pav_jax.endpoints.addresses import check_address
from pav_jax.endpoints.options import check_json
from pav_jax.errors import BadInput
from pav_jax.video.generation_config import GenerationConfig

PROMPT_FIELDS = ("prompt", "negative_prompt", "seed", "image")  # of one video


def parse_url(url: str, api_key_env: str) -> httpx2.URL:
    """The address of an endpoint.

    Raises:
      BadInput: it is not valid, has no host, or contains a login or a key.
    """
    check_address(url, "generator.path", api_key_env)
    try:
        return httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        raise BadInput(
            f"generator.path={url!r}: not a valid address",
            source="configuration",
            field="generator.path",
        ) from None


def check_options(options: Mapping[str, Any]) -> None:
    """Raises BadInput for an option that is a field of the contract or is not JSON."""
    reserved = {*PROMPT_FIELDS, *GenerationConfig.__dataclass_fields__}
    for name in sorted(set(options) & reserved):
        raise BadInput(
            f"generator.options.{name}: this field of the request is not an option; "
            + ("it belongs to a prompt" if name in PROMPT_FIELDS else f"set generator.{name}"),
            source="configuration",
            field=f"generator.options.{name}",
        )
    check_json(options, "generator.options")
