"""Prompts to token ids: plain text unchanged, chats through the tokenizer's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from pav_jax.errors import BadInput

Chat = Sequence[Mapping[str, str]]  # [{"role": "user", "content": "..."}, ...]


def user_chat(prompt: str) -> Chat:
    """Return a chat of one user message."""
    return [{"role": "user", "content": prompt}]


def chat_text(tokenizer: Any, chat: Chat, add_generation_prompt: bool = True) -> str:
    """Return the chat as the text that the model reads, up to where its answer begins.

    Raises:
      BadInput: the tokenizer has no chat template, the template fails, or a message has no role or
        no content.
    """
    if not chat or not all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in chat):
        raise BadInput("a chat is a list of messages, each with 'role' and 'content'")
    if not tokenizer.chat_template:
        raise BadInput(
            "this model's tokenizer has no chat template; give a template (a jinja file), or use"
            " plain text",
            field="template",
        )
    try:
        return tokenizer.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except jinja2.TemplateError as error:
        raise BadInput(
            f"the chat template fails: {error}; correct the template file", field="template"
        ) from error


def encode(tokenizer: Any, prompt: str | Chat) -> list[int]:
    """Return the token ids of a prompt; the special tokens of a chat come from its template.

    Raises:
      BadInput: the prompt is empty.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = tokenizer(chat_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    if not ids:
        raise BadInput("the prompt is empty; write at least one word")
    return list(ids)
