"""Flags of generators within a prompt: `-ar 9:16`, `--style raw`, `-neg "blurry"`.

People also type `ar-4:3`, `-gs24`, `-ar: 9:16`, `—ar 16:9` and `-camara zoom in`. A known flag is
read wherever its value fits; any other `-x value` only at the end of the prompt.
"""

import difflib
import functools
import re
from dataclasses import dataclass

from pav_jax.booster.prompt_syntax.parts import NEGATIVE
from pav_jax.rewards.faithfulness import load_lexicon

MAX_UNKNOWN_WORDS = 4  # of the value of an unknown flag
MAX_CAMERA_WORDS = 4
SIMILAR = 0.75  # ratio of matching letters of a misspelt flag

ALIASES = {
    "ar": ("aspect", "ratio", "aspect_ratio"),
    NEGATIVE: ("negative", "negative_prompt", "no"),
    "motion": (),
    "gs": ("cfg", "guidance", "guidance_scale"),
    "fps": (),
    "seed": (),
    "camera": ("cam",),
    "style": (),
}
WORDED = frozenset({NEGATIVE, "camera", "style"})  # flags whose values are words
WORDS = frozenset({"no", "negative", "camera", "style"})  # their names that are words of sentences
NAMES = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}

RATIO = r"\d{1,5}(?:\.\d{1,3})?\s{0,2}[:x/]\s{0,2}\d{1,5}(?:\.\d{1,3})?(?![\w:])"
NUMBER = r"-?\d{1,12}(?:\.\d{1,6})?(?![\w:])"
CAMERA_WORD = (
    r"(?:zoom|pan|tilt|rotate|orbit|dolly|track|crane|truck|roll|static|fixed|in|out|left|right|up"
    r"|down|cw|ccw|clockwise|counterclockwise)\b"
)
VALUES = {
    "ar": re.compile(RATIO),
    "motion": re.compile(NUMBER),
    "gs": re.compile(NUMBER),
    "fps": re.compile(NUMBER),
    "seed": re.compile(NUMBER),
    "camera": re.compile(
        rf"{CAMERA_WORD}(?:\s{{1,3}}{CAMERA_WORD}){{0,{MAX_CAMERA_WORDS - 1}}}|[\w-]{{1,30}}", re.I
    ),
    "style": re.compile(r"[\w-]{1,30}"),
}
QUOTED = re.compile(
    r"\"([^\"]{0,2000})\"|“([^“”]{0,2000})”|'([^'\n]{0,2000})'(?!\w)"
    r"|&quot;([^&]{0,2000})&quot;"
)
DIGIT = re.compile(r"-?\d")
GAP = re.compile(r"\s{0,3}(?:[:=]\s{0,3})?")
DASH = re.compile(r"\s?-\s?")

_KNOWN = "|".join(sorted(map(re.escape, NAMES), key=len, reverse=True))
# where a flag may begin; whether it is one depends on what follows
HEAD = re.compile(
    rf"(?<!\w)[-–—]{{1,2}}\s?(?P<named>{_KNOWN})(?![^\W\d])"  # -ar, - ar, -gs24
    r"|[-–—]{1,2}(?P<glued>ar)(?=[\s:=]{1,4}\d)"  # movements-ar 16:9
    r"|(?<![\w-])(?P<bare>ar|fps|gs|seed|motion)(?=\s?-\s?\d)-?"  # fps-24
    r"|(?<![\w-])(?P<ratio>ar)(?=\s{1,3}\d{1,5}\s?:\s?\d)"  # ar 16:9
    r"|(?<![^\s,.;:)\]}\"'”])[-–—]{1,2}(?P<other>(?=[\w.]{0,30}[^\W\d_])[^\W_][\w.]{0,30})(?![\w-])",
    re.I,
)


@dataclass(frozen=True)
class Flag:
    """A flag that was read.

    Attributes:
      name: in the spelling of this package, or the unknown name in lower case.
      value: without quotes.
      end: position after the value.
      has_meaning: whether it is read anywhere, not at the end of the prompt only.
    """

    name: str
    value: str
    end: int
    has_meaning: bool


def read_flag(text: str, head: re.Match[str]) -> Flag | None:
    """Read the flag that begins at a match of HEAD; None if it is not a flag."""
    group = head.lastgroup or ""
    typed = head[group].lower()
    name = NAMES.get(typed) or (_similar(typed) if group == "other" else None)
    is_dashed = group in ("named", "other")
    start = _skip(GAP, text, head.end(group))
    if group == "bare":
        start = _skip(DASH, text, start)
    if is_dashed and (name in WORDED or group == "other") and _is_prose(text, head, group, start):
        return None
    if name == NEGATIVE and is_dashed:
        return _negative(text, start)
    if name and (value := VALUES[name].match(text, start)):
        return Flag(name, value[0].strip(), value.end(), True)
    return _unknown(text, head, typed) if group == "other" else None


def _skip(pattern: re.Pattern[str], text: str, start: int) -> int:
    """The end of a match at `start`; `start` without one."""
    match = pattern.match(text, start)
    return match.end() if match else start


def _is_prose(text: str, head: re.Match[str], group: str, start: int) -> bool:
    """Whether "- no people", "—style of Van Gogh" or "—came home" is a dash and a sentence.

    A name that is a word, before other words, needs a hyphen right before it.
    """
    typed = head[group].lower()
    mark = text[head.start() : head.start(group)]
    is_loose = mark.endswith(" ") or mark[:1] in "–—"
    is_word = typed in WORDS or load_lexicon().knows(typed) or group == "other"
    return is_loose and is_word and not DIGIT.match(text, start)


@functools.lru_cache(maxsize=1024)
def _similar(name: str) -> str | None:
    """The known flag that a misspelt one means."""
    matches = difflib.get_close_matches(name, NAMES, n=1, cutoff=SIMILAR) if len(name) < 16 else []
    return NAMES[matches[0]] if matches else None


def _negative(text: str, start: int) -> Flag:
    """A negative prompt: quoted, or everything up to the next flag."""
    if quoted := QUOTED.match(text, start):
        value = next(group for group in quoted.groups() if group is not None)
        return Flag(NEGATIVE, value.strip(), quoted.end(), True)
    following = HEAD.search(text, start)
    end = following.start() if following else len(text)
    value = text[start:end].rstrip()
    return Flag(NEGATIVE, value.strip(" ,;\"'\n\t"), start + len(value), True)


def _unknown(text: str, head: re.Match[str], name: str) -> Flag | None:
    """An unknown flag and its value: a few words up to the next flag or the end."""
    following = HEAD.search(text, head.end())
    end = following.start() if following else len(text)
    words = text[head.end() : min(end, head.end() + 200)].split()
    if len(words) > MAX_UNKNOWN_WORDS or end - head.end() > 200:
        return None
    end = head.end() + len(text[head.end() : end].rstrip())
    return Flag(name, " ".join(words).strip(" ,.;\"'"), end, False)
