"""Prompts to token ids: plain text unchanged, chats through the tokenizer's chat template."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.language import thoughts
from pav_jax.language.template_renderer import RENDERER

MARK_TOKENS = 16  # at the end of a prompt, which hold the mark of a thought and spaces
Chat = Sequence[Mapping[str, str]]  # [{"role": "user", "content": "..."}, ...]


def user_chat(prompt: str) -> Chat:
    """Return a chat of one user message."""
    return [{"role": "user", "content": prompt}]


def with_template(tokenizer: Any, template: str) -> Any:
    """Return the tokenizer with another chat template; the two share the vocabulary."""
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


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
        "enable_thinking": False,  # of Qwen3, SmolLM3 and others; rewrites need no thoughts
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

    If the tokenizer begins plain text with a BOS token, the prompt begins with exactly one, whether
    the template writes it or not.

    Raises:
      BadInput: the prompt is empty.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = tokenizer(chat_text(tokenizer, prompt), add_special_tokens=False)["input_ids"]
    if not ids:
        raise BadInput("the prompt is empty; write at least one word")
    return _with_one_bos(tokenizer, list(ids))


def _with_one_bos(tokenizer: Any, ids: list[int]) -> list[int]:
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("")["input_ids"][:1] != [bos]:
        return ids
    start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    return [bos, *ids[start:]]


def decode_answers(
    tokenizer: Any, prompt_ids: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[str]:
    """Return the texts of a chat prompt's answers without special tokens, except for marks of
    thoughts, which `thoughts.without_thoughts` needs; also that of a thought that the prompt began.

    Args:
      prompt_ids: token ids of the prompt.
      answers: token ids of each answer.
    """
    marks = _special_marks(tokenizer)
    prefix = thoughts.open_thought(_decode(tokenizer, prompt_ids[-MARK_TOKENS:], marks))
    return [prefix + _decode(tokenizer, answer, marks) for answer in answers]


def _special_marks(tokenizer: Any) -> dict[int, str]:
    """The marks of thoughts that decoding without special tokens leaves out, by their ids."""
    marks = [*thoughts.MARKS, *thoughts.MARKS.values()]
    ids = tokenizer.convert_tokens_to_ids(marks)
    return {
        i: mark
        for i, mark in zip(ids, marks, strict=True)
        if i not in (None, tokenizer.unk_token_id)
        and not tokenizer.decode([i], skip_special_tokens=True)
    }


def _decode(tokenizer: Any, ids: Sequence[int], marks: Mapping[int, str]) -> str:
    """The text of tokens without special ones other than `marks`."""
    parts = []
    start = 0
    for i, token in enumerate(ids):
        if token in marks:
            parts += [tokenizer.decode(ids[start:i], skip_special_tokens=True), marks[token]]
            start = i + 1
    return "".join([*parts, tokenizer.decode(ids[start:], skip_special_tokens=True)])


def prefix(tokenizer: Any) -> tuple[int, ...]:
    """Return the token ids that the prompts of all users begin with: the template's instruction.

    Empty if the template fails or does not take a chat of one message.
    """
    try:
        first, second = (encode(tokenizer, user_chat(text)) for text in ("a dog runs", "7 Red!"))
    except BadInput:
        return ()
    return tuple(os.path.commonprefix([first, second]))
