"""Prompts to token ids: plain text unchanged, chats through the tokenizer's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.language.template_renderer import RENDERER

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
    # the variables of transformers' apply_chat_template
    variables = {
        **tokenizer.special_tokens_map,
        "messages": [dict(message) for message in chat],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return RENDERER.render(_template(tokenizer), variables)


def _template(tokenizer: Any) -> str:
    """The tokenizer's chat template; of several, the one named default."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping) and template:
        if "default" not in template:
            raise BadInput(
                f"this model's tokenizer has the chat templates {', '.join(map(str, template))},"
                " none of them 'default'; give a template (a jinja file)",
                field="template",
            )
        template = template["default"]
    if not template:
        raise BadInput(
            "this model's tokenizer has no chat template; give a template (a jinja file), or use"
            " plain text",
            field="template",
        )
    if not isinstance(template, str):
        raise BadInput(
            f"this model's chat template is of type {type(template).__name__}; it must be a text",
            field="template",
        )
    return template


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
