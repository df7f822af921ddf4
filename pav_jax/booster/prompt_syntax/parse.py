"""Reading of a prompt into its parts, in time proportional to its length."""

import html
import re
from collections.abc import Iterable, Iterator

from pav_jax.booster.prompt_syntax.flags import HEAD, Flag, read_flag
from pav_jax.booster.prompt_syntax.marks import INSTRUCTION, LABEL, MARK, read_mark
from pav_jax.booster.prompt_syntax.names import is_shouted, split_names
from pav_jax.booster.prompt_syntax.parts import NEGATIVE, Kind, ParsedPrompt, Span, has_term

WORD = re.compile(r"[^\W_]")
# the web interface of Stable Diffusion writes "... Negative prompt: ... Steps: 20, ..."
NEGATIVE_PROMPT = re.compile(r"\sNegative prompt:")
STEPS = re.compile(r"\sSteps: ?\d")


def parse_prompt(prompt: str) -> ParsedPrompt:
    """Split a prompt into its parts; any text can be read, and `render` gives it back exactly.

    Args:
      prompt: as the user typed it.
    """
    label = LABEL.match(prompt)
    start = label.end() if label else 0
    parts = [Span(Kind.LABEL, label[0])] if label else []
    end, parameters = _read_parameters(prompt, start)
    flagged = _demote_inner_flags([*_scan(prompt[:end], start), *parameters])
    instructed = _read_instruction(_join_text(flagged))
    shouted = is_shouted("".join(part.typed for part in instructed if part.kind is Kind.TEXT))
    for part in instructed:
        parts += split_names(part.typed, shouted) if part.kind is Kind.TEXT else [part]
    return ParsedPrompt(tuple(part for part in parts if part.typed))


def own_term(term: str, prompt: ParsedPrompt) -> str:
    """A term that a user names, as the text of a prompt has it; "" where it does not.

    Args:
      term: with marks or without, such as "(old:1.3) tower" or "old tower".
      prompt: where it may be.
    """
    forms = (" ".join(term.split()), parse_prompt(term).text)
    return next((form for form in forms if form and has_term(prompt.text, form)), "")


def unknown_term(terms: Iterable[str], prompts: Iterable[str]) -> str | None:
    """The first term that a user names and no prompt has, so that nothing could keep it.

    Args:
      terms: with marks or without.
      prompts: as they were typed; flags come back as they are, so a term may be in one.
    """
    parsed = [parse_prompt(prompt) for prompt in prompts] if terms else []
    for term in terms:
        if not any(own_term(term, prompt) or has_term(prompt.original, term) for prompt in parsed):
            return term
    return None


def _read_parameters(prompt: str, start: int) -> tuple[int, list[tuple[Span, bool]]]:
    """Where a negative prompt in words begins, and the flags that it and its settings are."""
    head = NEGATIVE_PROMPT.search(prompt, start)
    if head is None:
        return len(prompt), []
    begin = max(start, len(prompt[: head.start()].rstrip()))
    steps = STEPS.search(prompt, head.end())
    end = steps.start() if steps else len(prompt)
    value = html.unescape(prompt[head.end() : end]).strip()
    parts = [(Span(Kind.FLAG, prompt[begin:end], name=NEGATIVE, value=value), True)]
    if steps:
        typed = prompt[end:]
        parts.append((Span(Kind.FLAG, typed, name="parameters", value=typed.strip()), True))
    return begin, parts


def _scan(text: str, start: int) -> Iterator[tuple[Span, bool]]:
    """Parts in order, and whether each is one wherever it stands."""
    mark = MARK.search(text, start)
    head = HEAD.search(text, start)
    position = start
    while mark or head:
        if head and (not mark or head.start() <= mark.start()):
            flag = read_flag(text, head)
            begin, end = head.start(), flag.end if flag else head.end()
            part, is_sure = _flag_part(text[begin:end], flag)
        else:
            assert mark
            begin, end = mark.span()
            part, is_sure = read_mark(mark), True
        if begin > position:
            yield Span(Kind.TEXT, text[position:begin]), True
        yield part, is_sure
        position = end
        if mark and mark.start() < position:
            mark = MARK.search(text, position)
        if head and head.start() < position:
            head = HEAD.search(text, position)
    if position < len(text):
        yield Span(Kind.TEXT, text[position:]), True


def _flag_part(typed: str, flag: Flag | None) -> tuple[Span, bool]:
    if flag is None:
        return Span(Kind.TEXT, typed), True
    return Span(Kind.FLAG, typed, name=flag.name, value=flag.value), flag.has_meaning


def _demote_inner_flags(parts: list[tuple[Span, bool]]) -> list[Span]:
    """Make text of the unknown flags that text follows."""
    ordered: list[Span] = []
    is_end = True
    for part, is_sure in reversed(parts):
        if part.kind is Kind.FLAG and not is_sure and not is_end:
            part = Span(Kind.TEXT, part.typed)
        if part.kind is Kind.TEXT and WORD.search(part.typed):
            is_end = False
        ordered.append(part)
    return ordered[::-1]


def _join_text(parts: Iterable[Span]) -> list[Span]:
    """Join neighbouring parts of text."""
    joined: list[list[str]] = []
    result: list[Span] = []
    for part in parts:
        if part.kind is not Kind.TEXT:
            result.append(part)
        elif result and result[-1].kind is Kind.TEXT:
            joined[-1].append(part.typed)
        else:
            joined.append([part.typed])
            result.append(part)
    texts = iter(joined)
    return [
        Span(Kind.TEXT, "".join(next(texts))) if part.kind is Kind.TEXT else part for part in result
    ]


def _read_instruction(parts: list[Span]) -> list[Span]:
    """Make one instruction of everything after the first " @ " up to the next flag."""
    for i, part in enumerate(parts):
        match = INSTRUCTION.search(part.typed) if part.kind is Kind.TEXT else None
        if match is None:
            continue
        end = i + 1
        while end < len(parts) and parts[end].kind not in (Kind.FLAG, Kind.LORA, Kind.MESSAGE):
            end += 1
        typed = part.typed[match.start() :] + "".join(p.typed for p in parts[i + 1 : end])
        before = [Span(Kind.TEXT, part.typed[: match.start()])]
        value = html.unescape(typed[1:]).strip()
        return [*parts[:i], *before, Span(Kind.INSTRUCTION, typed, value=value), *parts[end:]]
    return parts
