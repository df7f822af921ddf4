"""Check the addresses of endpoints before anything is sent or written."""

import os
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pav_jax.errors import BadInput
from pav_jax.redaction import is_secret_name, register_secret

SCHEMES = ("http", "https")


def check_address(address: str, field: str, api_key_env: str = "") -> None:
    """Check the http or https address of an endpoint.

    Args:
      field: the dotted field of the configuration that holds it.
      api_key_env: the environment variable that should hold the API key, for the message.

    Raises:
      BadInput: it has no host or an invalid port, or contains a login or a key.
    """
    check_credentials(address, field, api_key_env)
    parts = _split(address, field)
    if parts.scheme not in SCHEMES:
        raise _bad(address, field, "an address starts with http:// or https://")
    if not parts.hostname:
        raise _bad(
            address,
            field,
            "the address has no host; write http://HOST:PORT/PATH or https://HOST/PATH",
        )


def check_credentials(address: str, field: str, api_key_env: str = "") -> None:
    """Refuse an address of any scheme that contains a login, or a key as in `?key=...`.

    Raises:
      BadInput: names the field and the environment variable to use, and does not quote the secret.
    """
    parts = _split(address, field)
    secret = [name for name, value in parse_qsl(parts.query) if value and is_secret_name(name)]
    if not secret and "@" not in parts.netloc:
        return
    what = f"the parameter {secret[0]!r}" if secret else "a user name or password"
    variable = f"the environment variable {api_key_env}" if api_key_env else "the environment"
    raise BadInput(
        f"{field}: the address at {parts.hostname} contains {what}, which would be written into the"
        f" work directory; put the API key in {variable} instead",
        source="configuration",
        field=field,
    )


def api_key(variable: str, field: str) -> str:
    """The API key in an environment variable, which is redacted from now on; empty if unset.

    Args:
      variable: the name of the environment variable; empty: no key.
      field: the dotted field of the configuration that names it.

    Raises:
      BadInput: the value cannot be sent in a header.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    register_secret(key)
    if not key.isascii() or not key.isprintable():
        raise BadInput(
            f"{field}: the environment variable {variable} holds characters that no API key has;"
            " export the key again",
            source="environment",
            field=field,
        )
    return key


def _split(address: str, field: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise _bad(address, field, "not a valid address; a port is a number up to 65535") from None
    if port == 0:
        raise _bad(address, field, "port 0 is not a port")
    if any(character.isspace() or not character.isprintable() for character in address):
        raise _bad(address, field, "an address has no spaces or control characters")
    return parts


def _bad(address: str, field: str, problem: str) -> BadInput:
    return BadInput(f"{field}={address!r}: {problem}", source="configuration", field=field)
