"""Removes what a model thinks before it answers."""

import re

_NAMES = ("think", "thinking", "thought", "reasoning", "seed:think")
# beginning of a thought -> its end: of Qwen3, SmolLM3 and others; of Magistral; of Gemma 4
MARKS = {f"<{name}>": f"</{name}>" for name in _NAMES} | {
    "[THINK]": "[/THINK]",
    "<|channel>": "<channel|>",
}
_OPENING = "|".join(map(re.escape, MARKS))
_CLOSING = "|".join(map(re.escape, MARKS.values()))
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


def has_marks(text: str) -> bool:
    """Return whether a text has a mark of a thought."""
    return _MARK.search(text) is not None


def open_thought(prompt: str) -> str:
    """Return the mark at the end of a prompt that begins a thought, or ""."""
    mark = _OPENING_AT_END.search(prompt)
    return mark[1] if mark else ""
