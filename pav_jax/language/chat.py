"""Prompts to token ids: plain text as it is, chats through the tokenizer's own template."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from pav_jax.errors import BadInput

Chat = Sequence[Mapping[str, str]]  # [{"role": "user", "content": "..."}, ...]


def user_chat(prompt: str) -> Chat:
    return [{"role": "user", "content": prompt}]


def chat_text(tokenizer: Any, chat: Chat, add_generation_prompt: bool = True) -> str:
    """The chat as the text the model reads, ending where its answer begins.

    Raises:
      BadInput: the tokenizer has no chat template, the template fails, or a message lacks its role
        or content.
    """
    if not chat or not all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in chat):
        raise BadInput("a chat is a list of messages, each with 'role' and 'content'")
    if not tokenizer.chat_template:
        raise BadInput(
            "this model's tokenizer has no chat template; give one (a jinja file), or plain text"
        )
    try:
        return tokenizer.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except jinja2.TemplateError as error:
        raise BadInput(f"the chat template fails: {error}; correct the template file") from error


def encode(tokenizer: Any, prompt: str | Chat) -> list[int]:
    """Token ids of a prompt; the template, not the tokenizer, brings a chat's special tokens.

    Raises:
      BadInput: there is nothing to continue.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = tokenizer(chat_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    if not ids:
        raise BadInput("the prompt is empty; write at least one word")
    return list(ids)
