"""Keep secrets out of text that is shown or written: logins and keys in addresses, API keys.

Imports nothing of the package: even an error message is redacted.
"""

import html
import json
import os
import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "***"
MIN_SECRET_LENGTH = 6  # shorter values, such as the "none" of a server without keys, are words
# environment variables whose values are secrets, whether or not an endpoint names them
SECRET_VARIABLES = (
    "OPENAI_API_KEY",
    "PAV_API_KEY",
    "PAV_UPSTREAM_API_KEY",
    "PAV_GENERATOR_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "WANDB_API_KEY",
)
# the names of options and of query parameters that hold credentials; not max_tokens or eos_token
_NAME = (
    r"(?:[\w.-]*[_-])?(?:api[_-]?key|apikey|access[_-]?key(?:[_-]?id)?|secret(?:[_-]?key)?|secret"
    r"|passw(?:or)?d|authorization|credentials?|signature|access[_-]?token|auth[_-]?token"
    r"|security[_-]?token|session[_-]?token|subscription[_-]?key|bearer)"
    r"|key|token|auth|sig|pwd|pass"
)
SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s?#'\"<>]*@")
_PARAMETER = re.compile(rf"([?&;](?:{_NAME})=)[^&;#\s'\"<>\\]+", re.IGNORECASE)
_registered: set[str] = set()


def register_secret(value: str | None) -> None:
    """Remember a value, such as an API key, that no text may show."""
    if value and len(value.strip()) >= MIN_SECRET_LENGTH:
        _registered.add(value.strip())


def is_secret_name(name: str) -> bool:
    """Whether an option or parameter of this name holds a credential, as `api_key` does."""
    return SECRET_NAME.fullmatch(name) is not None


def redact_known(text: str) -> str:
    """Replace the values of known secrets, as they are and as JSON and HTML write them."""
    for secret in _secrets():
        for form in {secret, json.dumps(secret)[1:-1], html.escape(secret)}:
            text = text.replace(form, HIDDEN)
    return text


def redact(text: str) -> str:
    """Replace known secrets, and logins and keys in addresses."""
    text = redact_known(text)
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\g<1>{HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", text))


def redact_tree(value: Any) -> Any:
    """`redact` in every text of nested mappings and lists; values of secret names are hidden."""
    if isinstance(value, dict):
        return {
            name: HIDDEN if is_secret_name(str(name)) and item else redact_tree(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(redact_tree(item) for item in value)
    return redact(value) if isinstance(value, str) else value


def _secrets() -> Iterable[str]:
    """Known secrets, longest first, so that one that contains another is hidden whole."""
    values = {os.environ.get(name, "").strip() for name in SECRET_VARIABLES} | _registered
    return sorted((v for v in values if len(v) >= MIN_SECRET_LENGTH), key=len, reverse=True)
