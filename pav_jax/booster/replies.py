"""What a model replies, read as a scene: chat around it is removed, what is no scene is refused."""

import collections
import dataclasses
import functools
import json
import re
import unicodedata
from collections.abc import Sequence

from pav_jax.booster.sentences import SENTENCE_END
from pav_jax.language.thoughts import without_thoughts
from pav_jax.rewards.faith.judge import MAX_CHARACTERS

WHITESPACE_CONTROLS = "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85"
JSON_KEYS = ("prompt", "refined", "rewrite", "rewritten_prompt", "refined_prompt", "description")
LOOP_WORDS = 4  # length of a group of words that is counted
LOOP_REPEATS = 3  # occurrences of a group that make a text a loop
MIN_LOOP_WORDS = 20
MAX_REPEATED = 0.35  # share of groups of three words that were said before
MIN_VERSES = 4
MAX_VERSE_WORDS = 9
FENCE = re.compile(r"```[\w-]*\n?(.*?)(?:```|\Z)", re.DOTALL)
CHAT_MARK = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]")
ROLE = re.compile(
    r"^[^\S\n]*(?:user|assistant|model|system)[^\S\n]*:?[^\S\n]*$", re.IGNORECASE | re.MULTILINE
)
_PROMPT = (
    r"(?:(?:re-?written|revised|enhanced|improved|expanded|refined|detailed|new|final|video|"
    r"text-to-video|your|the|my|a|an)\s+){0,5}(?:prompt|version|rewrite|description|caption|"
    r"scene|output|answer|response|result)"
)
_OPENERS = r"(?:sure|certainly|of course|okay|ok|absolutely|great)"
PREAMBLES = (
    re.compile(rf"\A{_OPENERS}\b[^.!:\n]{{0,80}}[.!:,]\s*", re.IGNORECASE),
    re.compile(r"\A(?:here(?:['’]s| is| are)|this is|below is)\b[^:\n]{0,120}:\s*", re.IGNORECASE),
    re.compile(r"\Ain (?:this|the) (?:scene|video|clip|shot|image),?\s+", re.IGNORECASE),
    re.compile(rf"\A{_PROMPT}\s*(?:\#?\d+)?\s*:\s*", re.IGNORECASE),
)
_CLOSERS = (
    r"(?:note|let me know|i hope|feel free|explanation|this (?:prompt|version|rewrite|description)"
    r"|would you|do you|if you|key changes|changes)"
)
TRAILER = re.compile(rf"\n\n[(*_]{{0,3}}{_CLOSERS}\b.*\Z", re.IGNORECASE | re.DOTALL)
BLANK_LINES = re.compile(r"\n{2,}")
HEADING = re.compile(r"^\s{0,3}#{1,6}\s.*$|^\s*\*\*[^*\n]{1,60}:?\*\*:?\s*$", re.MULTILINE)
BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+", re.MULTILINE)
EMPHASIS = re.compile(r"(\*{1,3})(?=\S)([^*\n]+?)(?<=\S)\1")
CODE = re.compile(r"`([^`\n]+)`")
QUOTED = re.compile(r"\A(?:\"([^\"]*)\"|“([^“”]*)”|'([^']*)')\Z", re.DOTALL)
REFUSAL = re.compile(
    r"\bi(?:['’]m| am) (?:sorry|unable|not able|afraid)"
    r"|\bi (?:can(?:['’]t|not| not)|won['’]t|apologi[sz]e)\b"
    r"|\bas an? (?:ai|artificial|large language|language model|assistant)\b"
    r"|\bunable to (?:assist|help|comply|fulfil|generate|create|provide)",
    re.IGNORECASE,
)
# words of talk about the task, which a scene has only if the prompt has them
TALK = re.compile(
    r"\b(?:let me know|feel free|hope (?:this|that) helps|as requested|text-to-video|rewritten"
    r"|your (?:prompt|request|question)|language model|how can i|can i help|happy to help"
    r"|the user (?:wants|asks|asked|needs)|you asked|the (?:original |rewritten )?prompt"
    r"|i (?:can|will|would|have|hope|think|want|need|wish)|i['’]d (?:like|love))\b",
    re.IGNORECASE,
)
# a story told by or to somebody, unless the prompt is one
PERSONAL = re.compile(r"\b(?:I|I['’]\w+|my|me|[Yy]ou|[Yy]our|[Yy]ou['’]\w+)\b")
SAID = re.compile(r"\"[^\"]*\"|“[^“”]*”")
ADDRESS = re.compile(
    r"\A(?:i|i['’]m|i['’]d|you|yes|no|to (?:create|make|write|rewrite|get))\b", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Reply:
    """A reply as a scene.

    Attributes:
      text: one line; "" if there is none.
      problem: why it is no scene; "" if it is one.
    """

    text: str
    problem: str = ""


def read_reply(reply: str) -> str:
    """Return a model's reply without thoughts, on one line; empty if there is none."""
    return without_controls(without_thoughts(reply)).strip()


def without_controls(text: str) -> str:
    """Replace whitespace controls with spaces; drop other controls and lone surrogates."""
    return without_unprintable(text).translate(dict.fromkeys(map(ord, WHITESPACE_CONTROLS), " "))


def without_unprintable(text: str) -> str:
    """Drop controls that are no white space, and lone surrogates, which tokenizers reject."""
    return "".join(filter(_is_printable, text))


def _is_printable(character: str) -> bool:
    is_space = character in WHITESPACE_CONTROLS
    return is_space or unicodedata.category(character) not in ("Cc", "Cs")


def read_scene(reply: str, prompt: str, max_words: int | None = None) -> Reply:
    """Read the scene that a reply describes.

    Thoughts, preambles ("Here is the prompt:"), markdown, code fences, enclosing quotes, closing
    remarks and an unfinished last sentence are removed.

    Args:
      reply: what the model wrote.
      prompt: what it was asked to rewrite; words that it has itself are no sign of talk.
      max_words: whole sentences are left out from the end until the rest has no more words.
    """
    text = without_thoughts(reply)
    if len(text) > MAX_CHARACTERS:
        return Reply("", "a reply that is too long")
    if not text.strip():
        return Reply("", "an unfinished thought" if reply.strip() else "an empty reply")
    text = _without_chat(text)
    problem = _form_problem(text)
    scene = _finish(_without_markup(text), max_words)
    if not re.search(r"[^\W_]", scene):
        return Reply("", problem or "an empty reply")
    problem = problem or _talk_problem(scene, prompt)
    if max_words is not None and len(scene.split()) > max_words:
        problem = problem or f"over {max_words} words"
    return Reply(scene, problem)


def is_copy(text: str, prompt: str) -> bool:
    """Return whether a rewrite only repeats its prompt, up to case and the last full stop."""
    return len({t.strip().rstrip(".").casefold() for t in (text, prompt)}) == 1


def _without_chat(text: str) -> str:
    """The text without marks of a chat, fences, preambles and closing remarks."""
    lines = "\n".join(line.strip() for line in text.strip().splitlines())
    text = BLANK_LINES.sub("\n\n", lines)
    if fence := FENCE.search(text):
        text = fence[1].strip() or text
    said = (piece.strip() for part in CHAT_MARK.split(text) for piece in ROLE.split(part))
    text = _from_json(next(filter(None, said), ""))
    whole = text
    before = None
    while text != before:
        before = text
        text = HEADING.sub("", text).strip() if HEADING.match(text) else text
        for preamble in PREAMBLES:
            text = preamble.sub("", EMPHASIS.sub(r"\2", text, count=1) if text[:1] == "*" else text)
    if text != whole:
        text = text[:1].upper() + text[1:]
    return TRAILER.sub("", text).strip()


def _from_json(text: str) -> str:
    """The prompt of a JSON object, or the text."""
    if not text.startswith("{"):
        return text
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return text
    prompts = [values[key] for key in JSON_KEYS if isinstance(values.get(key), str)]
    return prompts[0] if prompts else text


def _form_problem(text: str) -> str:
    """Why the lines of a text are no description."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(BULLET.findall(text)) > 1:
        return "a list"
    words = [len(line.split()) for line in lines]
    if len(lines) >= MIN_VERSES and sum(words) <= MAX_VERSE_WORDS * len(lines):
        return "verses"
    return "JSON" if text.startswith(("{", "[{")) else ""


def _without_markup(text: str) -> str:
    """The text on one line, without markdown and enclosing quotes."""
    text = BULLET.sub("", HEADING.sub("", text))
    text = CODE.sub(r"\1", EMPHASIS.sub(r"\2", text))
    text = " ".join(without_controls(text).split())
    if quoted := QUOTED.match(text):
        text = next(filter(None, quoted.groups()), "")
    if text.startswith('"') and text.count('"') % 2:  # its end is missing
        text = text[1:]
    return text.strip()


def _finish(text: str, max_words: int | None) -> str:
    """The text without an unfinished last sentence, and with whole sentences up to the limit."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    if ends and ends[-1] < len(text):
        text = text[: ends[-1]]
    if max_words is None:
        return text
    fitting = [end for end in ends if len(text[:end].split()) <= max_words]
    return text[: fitting[-1]] if fitting else text


def _talk_problem(scene: str, prompt: str) -> str:
    """Why a text is no description of a scene."""
    if REFUSAL.search(scene) and not REFUSAL.search(prompt):
        return "a refusal"
    said = prompt.lower()
    talk = [match[0] for match in (*TALK.finditer(scene), *ADDRESS.finditer(scene))]
    if any(words.lower() not in said for words in talk):
        return "an answer"
    quotes = [match[0] for match in SAID.finditer(scene) if match[0][1:-1] in prompt]
    told = functools.reduce(lambda text, quote: text.replace(quote, ""), quotes, scene)
    if PERSONAL.search(told) and not PERSONAL.search(prompt):
        return "a story told by or to somebody"
    if scene.endswith("?") and "?" not in prompt:
        return "a question"
    is_loop = _is_loop(scene.lower().split(), prompt.lower().split())
    return "a loop" if is_loop else ""


def _is_loop(words: Sequence[str], own: Sequence[str]) -> bool:
    """Whether a word occurs four times in a row, a group of four words three times, or many groups
    of three words more than once.

    None of the 2,529 published rewrites of VBench's prompts has the same four words three times.

    Args:
      words: of a rewrite.
      own: of its prompt; what is repeated there may be repeated.
    """
    if num_repeats(words) > max(LOOP_REPEATS - 1, num_repeats(own)):
        return True
    if any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3)):
        return True
    groups = list(zip(words, words[1:], words[2:], strict=False))
    if len(words) < MIN_LOOP_WORDS:
        return False
    return 1 - len(set(groups)) / len(groups) > MAX_REPEATED


def num_repeats(words: Sequence[str]) -> int:
    """How often the most frequent group of `LOOP_WORDS` words in a row occurs."""
    groups = collections.Counter(zip(*(words[i:] for i in range(LOOP_WORDS)), strict=False))
    return max(groups.values(), default=0)
