"""The limits of a server."""

import dataclasses

from pav_jax.booster.booster import MAX_PROMPT_CHARACTERS


@dataclasses.dataclass(frozen=True)
class ServeLimits:
    """What one request may ask for, and how many are accepted.

    Attributes:
      max_body_bytes: of a request.
      max_prompt_characters: of all prompts of a request together.
      max_n: answers to one request.
      max_tokens: the longest answer, in tokens.
      max_queue: requests that may wait; more are refused with 429.
      timeout_s: from the request to the end of its answer, in seconds.
      body_timeout_s: for receiving a request's body, in seconds.
    """

    max_body_bytes: int = 2**20
    max_prompt_characters: int = MAX_PROMPT_CHARACTERS
    max_n: int = 16
    max_tokens: int = 1024
    max_queue: int = 64
    timeout_s: float = 120.0
    body_timeout_s: float = 30.0
