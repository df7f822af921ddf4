"""Prompts as people type them: what may be rewritten, and what must come back as it was."""

from pav_jax.booster.prompt_syntax.parse import parse_prompt
from pav_jax.booster.prompt_syntax.parts import Kind, ParsedPrompt, Span

__all__ = ["Kind", "ParsedPrompt", "Span", "parse_prompt"]
