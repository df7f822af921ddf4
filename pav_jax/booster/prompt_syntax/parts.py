"""The parts of a prompt as it was typed, and how they are written back."""

import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator, Mapping

NEGATIVE = "neg"
SPACE_BEFORE_PUNCTUATION = re.compile(r" ([,.;:!?])(?= |$)")
REPEATED_COMMAS = re.compile(r",(?: ?,)+")
QUOTATION_MARKS = "\"'“”‘’«»「」"
CLOSING = re.compile(rf"([,.;:!?]?)[{QUOTATION_MARKS}]")
PLACEHOLDER = "\ue000"  # of an inline part while the text around it is tidied
ORPHAN_SEPARATORS = " \t\r\n\v\f,;|-–—"
# of words between spaces; words of other scripts may stand side by side or be inflected
WORD_CHARACTER = "[0-9A-Za-z_À-ÖØ-öø-ɏ]"


class Kind(enum.Enum):
    """What a part of a prompt is."""

    TEXT = "text"  # may be rewritten
    LABEL = "label"  # "prompt:" at the start
    FLAG = "flag"  # -ar 9:16
    MESSAGE = "message"  # Message: WELCOME (Font: RETRO)
    LORA = "lora"  # <lora:name:0.8>
    MARKUP = "markup"  # <b>
    QUOTE = "quote"  # "OPEN 24H"
    WEIGHT = "weight"  # (word:1.2)
    WILDCARD = "wildcard"  # {a|b}
    KEEP = "keep"  # <keep>...</keep>
    NAME = "name"  # AMGERY
    INSTRUCTION = "instruction"  # @ make it noir


# parts within the sentence; the others are written before or after a rewrite
INLINE = frozenset({Kind.QUOTE, Kind.WEIGHT, Kind.WILDCARD, Kind.KEEP, Kind.NAME})
SAID = INLINE | {Kind.TEXT}
AROUND = frozenset({Kind.LABEL, Kind.FLAG, Kind.MESSAGE, Kind.LORA})


@dataclasses.dataclass(frozen=True)
class Span:
    """One part of a prompt.

    Attributes:
      kind: what it is.
      typed: exactly as it was typed, with its marks.
      said: what it says to a rewriter; "" for what a rewriter does not see.
      name: of a flag, in the spelling of this package: ar, neg, motion, gs, fps, seed, camera,
        style, or the unknown name; the name of a LoRA; "" for other kinds.
      value: of a flag; the text of a message or an instruction; the literal term that a rewrite
        must contain for parts within the sentence.
    """

    kind: Kind
    typed: str
    said: str = ""
    name: str = ""
    value: str = ""


@dataclasses.dataclass(frozen=True)
class ParsedPrompt:
    """A prompt split into parts.

    Attributes:
      parts: from left to right; what was typed of them, joined, is the prompt.
    """

    parts: tuple[Span, ...]

    @property
    def original(self) -> str:
        """The prompt exactly as it was typed."""
        return "".join(part.typed for part in self.parts)

    @property
    def text(self) -> str:
        """What may be rewritten, with the terms of inline parts but without their marks."""
        terms = iter([" ".join(part.said.split()) for part in self._of(*INLINE)])
        text = "".join(map(_text_or_placeholder, self.parts))
        text = SPACE_BEFORE_PUNCTUATION.sub(r"\1", " ".join(text.split()))
        text = REPEATED_COMMAS.sub(",", text).strip(ORPHAN_SEPARATORS)
        return re.sub(PLACEHOLDER, lambda _: next(terms), text)

    @property
    def terms(self) -> tuple[str, ...]:
        """Literal terms that a rewrite must contain, each once."""
        return tuple(dict.fromkeys(part.value for part in self._of(*INLINE) if part.value))

    @property
    def settings(self) -> Mapping[str, str]:
        """Flag name -> value, without the negative prompt; the last of equal names wins."""
        return {part.name: part.value for part in self._of(Kind.FLAG) if part.name != NEGATIVE}

    @property
    def negative_prompt(self) -> str:
        """The values of `-neg`, joined by commas; "" without one."""
        values = [part.value for part in self._of(Kind.FLAG) if part.name == NEGATIVE]
        return ", ".join(value for value in values if value)

    @property
    def instruction(self) -> str:
        """What `text @ instruction` adds to the instruction to rewrite; "" without one."""
        return " ".join(part.value for part in self._of(Kind.INSTRUCTION))

    def missing_terms(self, rewrite: str, more: Iterable[str] = ()) -> tuple[str, ...]:
        """The protected terms, and some more, that a rewrite does not contain literally.

        A term is no part of a longer word, unless the prompt has it as one: "cat" is not in
        "category", but `<keep>cat</keep>egory` is.
        """
        terms = dict.fromkeys([*self.terms, *more])
        return tuple(term for term in terms if not re.search(self._pattern(term), rewrite))

    def restore(self, rewrite: str) -> str:
        """A rewrite with the marks of inline parts, such as `(word:1.2)`, where their terms are.

        Each part is restored once, at the first place of its term after those already restored
        that is not part of a longer word; a term that is absent is left out.
        """
        spans: list[tuple[int, int, str]] = []
        for part in sorted(self._of(*INLINE), key=lambda part: -len(part.value)):
            if not part.value or part.typed == part.value:
                continue
            span = self._first_free(part, rewrite, spans)
            if span is not None:
                spans.append(span)
        for start, end, typed in sorted(spans, reverse=True):
            rewrite = rewrite[:start] + typed + rewrite[end:]
        return rewrite

    def render(self, rewrite: str | None = None) -> str:
        """Write the prompt back.

        Args:
          rewrite: the new text; None: the text as it was typed.

        Returns:
          Without a rewrite, exactly the prompt as it was typed. With one: the label and the parts
          that stood before the text, the rewrite with its inline marks, then flags, messages and
          LoRAs that came later, each as it was typed. An instruction is not written back.
        """
        if rewrite is None:
            return self.original
        first = next((i for i, part in enumerate(self.parts) if _is_said(part)), len(self.parts))
        before = [p.typed.strip() for p in self.parts[:first] if p.kind in AROUND]
        after = [p.typed.strip() for p in self.parts[first:] if p.kind in AROUND]
        return " ".join([*before, self.restore(rewrite), *after])

    def _pattern(self, term: str) -> str:
        """An expression for a term; not within words, unless the prompt has it there only."""
        return term_pattern(term) if has_term(self.text, term) else re.escape(term)

    def _first_free(
        self, part: Span, text: str, taken: list[tuple[int, int, str]]
    ) -> tuple[int, int, str] | None:
        """The first place of a part's term that is free, and what to write there."""
        for term in (part.said, part.value):
            for match in re.finditer(self._pattern(term), text):
                start, end, typed = *match.span(), part.typed
                if part.kind is Kind.QUOTE:
                    start, end, typed = _quoted_place(text, start, end, typed)
                if all(end <= left or right <= start for left, right, _ in taken):
                    return start, end, typed
        return None

    def _of(self, *kinds: Kind) -> Iterator[Span]:
        return (part for part in self.parts if part.kind in kinds)


def _quoted_place(text: str, start: int, end: int, typed: str) -> tuple[int, int, str]:
    """Where a quoted text replaces the one of a rewrite, with the quotation marks around it.

    A comma or full stop before the closing mark stays; within a longer quotation no second marks
    are added.
    """
    if text[max(0, start - 1) : start] not in (*QUOTATION_MARKS,):
        is_within = text.count('"', 0, start) % 2 == 1
        return start, end, text[start:end] if is_within else typed
    closing = CLOSING.match(text, end)
    if closing is None:
        return start, end, text[start:end]
    return start - 1, closing.end(), typed + closing[1]


def term_pattern(term: str) -> str:
    """An expression for a literal term that is no part of a longer word."""
    before = f"(?<!{WORD_CHARACTER})" if re.match(WORD_CHARACTER, term) else ""
    after = f"(?!{WORD_CHARACTER})" if re.search(rf"{WORD_CHARACTER}\Z", term) else ""
    return f"{before}{re.escape(term)}{after}"


def has_term(text: str, term: str) -> bool:
    """Whether a text has a literal term, not as a part of a longer word."""
    return re.search(term_pattern(term), text) is not None


def _text_or_placeholder(part: Span) -> str:
    if part.kind in INLINE:
        return PLACEHOLDER
    return part.said.replace(PLACEHOLDER, " ") if part.kind is Kind.TEXT else " "


def _is_said(part: Span) -> bool:
    return part.kind in SAID and bool(part.said.strip(ORPHAN_SEPARATORS))
