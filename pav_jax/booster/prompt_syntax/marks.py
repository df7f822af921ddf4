"""Marks within a prompt that are not flags: quotes, weights, wildcards, LoRAs, messages.

Every expression looks at a bounded number of characters from where it begins, so that reading a
text takes time in proportion to its length.
"""

import html
import re

from pav_jax.booster.prompt_syntax.parts import Kind, Span

# (kind, expression); the first that fits wins. The group `term` is what a rewrite must contain.
_EXPRESSIONS = (
    (Kind.LORA, r"<(?:lora|lyco|hypernet|embedding):(?P<lora>[^<>:\n]{1,200})(?::[^<>\n]{0,50})?>"),
    (Kind.KEEP, r"<keep>(?P<keep>[^<]{0,2000})</keep>"),
    (Kind.MARKUP, r"</?[a-z][a-z0-9]{0,9}\s?/?>"),
    (
        Kind.MESSAGE,
        r"\bmessage:[ \t]{0,3}(?P<message>[^\s():][^\n()]{0,200})\(font:[^()\n]{0,60}\)",
    ),
    (Kind.WEIGHT, r"\((?P<weight>[^():\n]{1,200}):\s{0,2}-?\d{0,3}\.?\d{1,4}\)"),
    (Kind.WILDCARD, r"\{(?P<wildcard>[^{}\n]{1,500}\|[^{}\n|]{0,200})\}|__[a-z0-9/-]{1,60}__"),
    (
        Kind.QUOTE,
        r"\"(?P<straight>[^\"\n]{1,300})\"|“(?P<curly>[^“”\n]{1,300})”|«(?P<angle>[^«»\n]{1,300})»"
        r"|「(?P<corner>[^「」\n]{1,300})」|&quot;(?P<entity>(?:(?!&quot;)[^\n]){1,300})&quot;"
        r"|''(?P<double>[^'\n]{1,200})''"
        r"|(?<!\w)['‘](?P<single>(?!\s)(?:[^'’\n]|(?<=\w)['’](?=\w)){1,200})(?<!\s)['’](?!\w)",
    ),
)
MARK = re.compile(
    "|".join(f"(?P<{kind.name}>{expression})" for kind, expression in _EXPRESSIONS), re.IGNORECASE
)
_TERMS = {kind: re.findall(r"\(\?P<(\w+)>", expression) for kind, expression in _EXPRESSIONS}
LABEL = re.compile(r"\s{0,20}(?:(?:positive )?prompt)\s{0,3}:\s{0,20}", re.IGNORECASE)
INSTRUCTION = re.compile(r"(?<=\s)@(?=\s{1,20}[^\W\d])")


def read_mark(match: re.Match[str]) -> Span:
    """The part that a match of MARK is."""
    kind = Kind[match.lastgroup or ""]
    term = next((match[name] for name in _TERMS[kind] if match[name]), "")
    typed = match[0]
    if kind is Kind.LORA:
        return Span(kind, typed, name=term)
    if kind is Kind.MARKUP:
        return Span(kind, typed)
    if kind is Kind.MESSAGE:
        return Span(kind, typed, value=term.strip())
    if kind is Kind.WILDCARD:
        return Span(kind, typed, said=typed, value=" ".join(typed.split()))
    term = " ".join(html.unescape(term).split())  # as in the text that a model reads
    said = html.unescape(typed) if kind is Kind.QUOTE else term
    return Span(kind, typed, said=said, value=term)
