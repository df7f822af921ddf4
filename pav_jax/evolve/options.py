"""The options of the proposers in this package, as an entry of `proposers` sets them."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """Options of `local_proposer.LocalProposer`.

    Attributes:
      mode: "rewrite" or "history".
      template: file that replaces the system message of mode "history", `templates/evolve.txt`.
      temperature, top_k, top_p, max_new_tokens: sampling settings.
      batch_size: prompts per call of the language model.
    """

    mode: str = "rewrite"
    template: str | None = None
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    max_new_tokens: int = 250
    batch_size: int = 32


@dataclasses.dataclass(frozen=True)
class LexiconOptions:
    """Options of `lexicon_proposer.LexiconProposer`.

    Attributes:
      phrases: file that replaces `phrases.json`.
    """

    phrases: str | None = None


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Options of `chat_proposer.ChatProposer`. All but `template` are those of `ChatEndpoint`.

    Attributes:
      base_url: address of an OpenAI-compatible server.
      model: the model's name on that server.
      api_key_env: environment variable that holds the key; empty for a server without keys.
      template: file that replaces the system message, `templates/evolve.txt`.
      concurrency: maximum number of prompts in flight.
      timeout_s: maximum time for one complete reply, in seconds.
      max_retries: maximum number of retries of a failed request.
      max_backoff_s: maximum pause between two attempts, in seconds.
      max_consecutive_failures: failed prompts in a row after which the endpoint counts as down.
      options: arguments of the chat completion call (temperature, max_tokens, seed, ...).
    """

    base_url: str = "https://api.openai.com/v1"
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    template: str | None = None
    concurrency: int = 16
    timeout_s: float = 60.0
    max_retries: int = 4
    max_backoff_s: float = 60.0
    max_consecutive_failures: int = 8
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
