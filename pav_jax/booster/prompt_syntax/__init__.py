"""Prompts as people type them: what may be rewritten, and what must come back as it was."""

from pav_jax.booster.prompt_syntax.parse import own_term, parse_prompt, unknown_term
from pav_jax.booster.prompt_syntax.parts import Kind, ParsedPrompt, Span, has_term, term_pattern

__all__ = [
    "Kind",
    "ParsedPrompt",
    "Span",
    "has_term",
    "own_term",
    "parse_prompt",
    "term_pattern",
    "unknown_term",
]
