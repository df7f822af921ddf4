"""The options of the proposers in this package, as an entry of `proposers` sets them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.config_fields import option
from pav_jax.endpoints import options as endpoint_options

TEMPLATE = "file that replaces the system message, templates/evolve.txt"


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """Options of `local_proposer.LocalProposer`."""

    mode: str = option("rewrite", "what the model is shown", choices=("rewrite", "history"))
    template: str | None = option(None, f"{TEMPLATE}, of mode history")
    temperature: float = option(1.0, "of sampling", minimum=0)
    top_k: int = option(50, "0: off", minimum=0)
    top_p: float = option(1.0, "nucleus mass", minimum=0, maximum=1)
    max_new_tokens: int = option(250, "tokens of a rewrite", minimum=1)
    batch_size: int = option(32, "prompts per call of the language model", minimum=1)


@dataclasses.dataclass(frozen=True)
class LexiconOptions:
    """Options of `lexicon_proposer.LexiconProposer`."""

    phrases: str | None = option(None, "file that replaces phrases.json")


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Options of `chat_proposer.ChatProposer`. All but `template` are those of `ChatEndpoint`."""

    base_url: str = option("https://api.openai.com/v1", "of an OpenAI-compatible server")
    model: str = option("", "the model's name on that server")
    api_key_env: str = option("OPENAI_API_KEY", "environment variable with the key; empty: none")
    template: str | None = option(None, TEMPLATE)
    concurrency: int = option(16, "prompts in flight", **endpoint_options.CONCURRENCY)
    timeout_s: float = option(
        60.0, "maximum time for one reply, in seconds", **endpoint_options.TIMEOUT_S
    )
    max_retries: int = option(4, "retries of one request", **endpoint_options.MAX_RETRIES)
    max_backoff_s: float = option(
        60.0, "maximum pause between two attempts, in seconds", **endpoint_options.MAX_BACKOFF_S
    )
    max_consecutive_failures: int = option(
        8, "failed prompts in a row that end the run", **endpoint_options.MAX_CONSECUTIVE_FAILURES
    )
    options: Mapping[str, Any] = option(
        dict, "arguments of the chat completion call (temperature, max_tokens, seed, ...)"
    )
