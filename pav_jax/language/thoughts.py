"""Removes what a model thinks before it answers."""

import re

# of Qwen3, DeepSeek, SmolLM3 and others; Magistral; Gemma 4
_NAMES = r"(?:seed:)?(?:think|thinking|thought|reasoning)"
_OPENING = rf"<{_NAMES}>|\[THINK\]|<\|channel>"
_CLOSING = rf"</{_NAMES}>|\[/THINK\]|<channel\|>"
_MARK = re.compile(rf"(?P<opening>{_OPENING})|{_CLOSING}", re.IGNORECASE)
_OPENING_AT_END = re.compile(rf"({_OPENING})(?:thought)?\s*\Z", re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """Return a reply without what was thought, or "" if a thought does not end.

    A mark that only closes ends a thought from the beginning of the reply. A reply without marks is
    returned unchanged.
    """
    parts: list[str] = []
    position = 0
    is_thinking = False
    for mark in _MARK.finditer(text):
        if mark["opening"]:
            parts += [] if is_thinking else [text[position : mark.start()]]
        elif not is_thinking:
            parts.clear()
        is_thinking = bool(mark["opening"])
        position = mark.end()
    return "" if is_thinking else "".join([*parts, text[position:]])


def is_mark(token: str) -> bool:
    """Return whether a token begins or ends a thought."""
    return _MARK.fullmatch(token) is not None


def has_marks(text: str) -> bool:
    """Return whether a text has a mark of a thought."""
    return _MARK.search(text) is not None


def open_thought(prompt: str) -> str:
    """Return the mark at the end of a prompt that begins a thought, or ""."""
    mark = _OPENING_AT_END.search(prompt)
    return mark[1] if mark else ""
