"""Prompts that no rewriter should touch, and why."""

import re

from pav_jax.booster.prompt_syntax import Kind, ParsedPrompt
from pav_jax.booster.request_words import without_request
from pav_jax.rewards.faith.judge import MAX_CHARACTERS
from pav_jax.rewards.faith.readable import is_readable
from pav_jax.rewards.faithfulness import judge, load_lexicon

LONG_WORDS = 50  # from which a prompt describes its scene already
MAX_WORDS = 200  # of a prompt that is rewritten
MIN_TAGS = 7
MAX_TAG_WORDS = 2.5  # mean of the words between two commas
ANY_LANGUAGE = "any"
ENGLISH = "en"
WORD = re.compile(r"\w+")

_POLITE = (
    r"\A\W*(?:(?:please|now|then|so|hey|can you|could you|would you|will you|i want you to)\s+)*"
)
_TEXTS = (
    r"(?:poems?|haikus?|limericks?|sonnets?|story|stories|essays?|jokes?|riddles?|songs?"
    r"|lyrics|song lyrics|alphabet|passwords?|(?:\w+ )?plans?|schedule|quiz|letters?|emails?"
    r"|code|functions?|programs?|scripts?|python|javascript|sql|articles?|blog posts?"
    r"|recipes?|lists?|summary|paragraphs?|sentences?|tweets?|reviews?|explanation"
    r"|instructions|resume|cv|names|ideas|tips|reasons|ways|steps|examples|synonyms?|facts"
    r"|questions|advice|speech|prompts?|tutorial|report|answer|translation|definition)"
)
_BEFORE_TEXTS = (
    r"(?:me|us|a|an|the|some|any|my|your|\d+|two|three|four|five|ten|short|long|funny|few|of"
    r"|simple|good|nice|love|sad|scary|small|python|cover|blog|list)"
)
# words of tasks that name a thing
_NOUN = (
    r"(?:(?:outline|print|quote|estimate|output|answer|debate|chat|recommend|convert)s?\s+"
    r"(?:of|between|on (?:a|an|the|her|his))"
    r"|(?:spell|code|answer|quote|chat|print|debate)[ -]?(?:books?|bound|casting|shops?"
    r"|halls?|box(?:es)?|bubbles?|works?))\b"
)
_ASKING = r"(?:is|are|was|were|do|does|did)"
INSTRUCTIONS = (
    # a question
    rf"{_POLITE}(?:what|who|whom|whose|why|how|when|where|which|can|could|would|will|should"
    rf"|has|have|am|{_ASKING})\b(?>[^.!]*\?)\W*\Z",
    rf"{_POLITE}(?:what(?:['’]?s| {_ASKING})|who|whose|which|why|when {_ASKING}|where {_ASKING}"
    rf"|how (?:{_ASKING}|can|many|much|old|far|tall|long))\b",
    rf"{_POLITE}(?:is|are|was|were|does|did)\b",
    rf"{_POLITE}(?:do|am|can|could|should|shall|will|would|have|may) (?:you|i|we)\b",
    rf"{_POLITE}(?:what (?:time|day|year|kind|sort|if)|(?:where|when|how|what|who) "
    r"(?:can|could|should|would|will|to|i|you|we))\b",
    r"\A\W*(?:i|we) (?:need|want|would like|have|am looking for)\b.{0,20}"
    r"\b(?:help|advice|a question|to know|you to|an answer|information)\b",
    # a task whose result is a text
    rf"{_POLITE}(?!{_NOUN})(?:explain|summari[sz]e|translate|answer|solve|calculate|compute|recite|respond"
    r"|prove|quote|brainstorm|estimate|simplify|outline|analy[sz]e|discuss|predict|guess|evaluate"
    r"|argue|debate|memori[sz]e|cite|chat|sing (?:me|us)|give (?:me|us)|tell (?:a|an|the)"
    r"|reply|rephrase|paraphrase|proofread|define|recommend|suggest|convert|spell|debug|classify"
    r"|(?:tell|teach|remind|advise) (?:me|us)|repeat (?:after|this|the|everything|your)|act as"
    r"|pretend|roleplay|help me|print|output|say (?:hi|hello|yes|no|something|the))\b",
    rf"{_POLITE}(?:introduce|describe|explain|tell)\b.{{0,20}}\byourself\b",
    rf"{_POLITE}(?:plan (?:a|my|the|our)|compare|make me (?:laugh|smile|cry|happy))\b",
    r"\A\W*help\W*\Z",
    rf"{_POLITE}count (?:from|to|backwards?)\b",
    rf"{_POLITE}(?:rewrite|correct|fix|edit|improve|continue|complete|finish|shorten|check|review)"
    r"(?:\s+(?:this|the|my|these|following|a))*\s+(?:grammar|spelling|sentence|text|code|words?"
    r"|paragraph|email|essay|story|poem|homework|bug|equation)\b",
    rf"{_POLITE}(?:(?:act|behave|speak|talk) (?:like|as|only)|let['’]?s (?:play|talk|chat))\b",
    rf"{_POLITE}(?:write|compose|create|dra?ft|make|generate|produce|give|list|name|show|say|read)\b"
    rf"(?:\s+{_BEFORE_TEXTS})*\s+{_TEXTS}\b(?!\s+(?:on|in|into|at)\s+(?:a|an|the)\b)",
    rf"{_POLITE}(?:list|name)\s+(?:all|the|some|\d+|two|three|four|five|ten)\b",
    # no scene at all
    r"\A[\d\s+\-*/x=().,^%?]+\Z",
    r"\A\W*(?:hi|hello|hey|thanks(?: a lot)?|thank you|good (?:morning|evening|night))\b"
    r"[\s!.,]*(?:there|all|how are you\W*)?\W*\Z",
)
# an attack on the instruction
ATTACKS = (
    r"\b(?:ignore|disregard|forget|override)\s+"
    r"(?:(?:all|any|the|your|my|of|these|those|previous|prior)\s+)*"
    r"(?:above|previous|prior|instructions?|prompts?|rules|everything|system|what)\b",
    r"\b(?:your|hidden|secret) instructions?\b|\A\W*you (?:must|should|have to|will|only)\b",
    r"\bsystem prompt\b|\bdeveloper mode\b|\bfrom now on,? you\b|\bnew instructions?\s*:"
    r"|\b(?:stop|instead of|do not|don['’]t|without) rewriting\b|\band answer (?:me|:|my|the)"
    r"|\byou are (?:now|an? (?:ai|helpful|assistant|expert))\b",
)
# asks for a video, in whatever words
VIDEO_REQUEST = (
    r"\A\W*(?:(?:please|now|hey|(?:can|could|would|will) you|i['’]d like you to|help (?:me|us)"
    r"|(?:i|we) (?:want|need|would like) you to)\s+)*"
    r"(?:make|create|generate|produce|give|show|draw|render|film|animate|imagine|visuali[sz]e)"
    rf"\s+(?:(?!{_TEXTS}\b)[\w-]+\s+){{0,6}}"
    r"(?:video|clip|shot|scene|animation|movie|film|footage|image|picture|time-?lapse|view|close-?up)s?"
    r"\s+(?:of|about|with|where|showing|that shows|in which)\b"
)
INSTRUCTION, ATTACK = (
    re.compile("|".join(f"(?:{part})" for part in parts), re.IGNORECASE)
    for parts in (INSTRUCTIONS, ATTACKS)
)
VIDEO = re.compile(VIDEO_REQUEST, re.IGNORECASE)
STRUCTURE = re.compile(
    r"\A\s*[{\[]\s*[\"{\[]"  # JSON
    r"|^[^\S\n]*(?:(?:scene|shot|clip|part|step|frame)\s*\d+\b"
    r"|\[?\d{1,2}(?::\d\d(?!\s*(?:[ap]\.?m\b|o['’]?clock))|\s*-\s*\d{1,2}\s*s)"
    r"|(?:subject|style|camera|lighting|setting|action|mood|background|audio)\s*:)",
    re.IGNORECASE | re.MULTILINE,
)


def unfit_reason(parsed: ParsedPrompt, language: str) -> str:
    """Why no rewrite of a prompt could be checked; "" if one can."""
    text = parsed.text
    if not re.search(r"[^\W_]", text):
        return "there is nothing to rewrite"
    if count_words(text) > MAX_WORDS:
        return f"it has over {MAX_WORDS} words"
    if len(text) > MAX_CHARACTERS:
        return f"it has over {MAX_CHARACTERS:,} characters"
    if is_instruction(text):
        return "it asks for a text or an answer, not for a scene"
    if not is_readable(text, load_lexicon()):
        is_any = language == ANY_LANGUAGE
        return "" if is_any else "it is not in English, so that no rewrite of it can be checked"
    scene = without_request(text)
    return (
        "" if judge(scene, scene).units else "it names nothing that a rewrite could be checked for"
    )


def count_words(text: str) -> int:
    """The number of words, also of those that only punctuation separates."""
    return len(WORD.findall(text))


def finished_reason(parsed: ParsedPrompt) -> str:
    """Why a prompt needs no rewrite; "" if it may have one."""
    form = _finished_form(parsed)
    return f"left alone: {form}" if form else ""


def _finished_form(parsed: ParsedPrompt) -> str:
    if count_words(parsed.text) > LONG_WORDS:
        return f"it is long already (over {LONG_WORDS} words)"
    if any(part.kind is Kind.WILDCARD for part in parsed.parts):
        return "it has wildcards, which are filled in later"
    if STRUCTURE.search(parsed.original) or parsed.original.strip().count("\n") > 1:
        return "it is structured already"
    return "it is a list of tags" if _is_tags(parsed) else ""


def _is_tags(parsed: ParsedPrompt) -> bool:
    tags = [tag for tag in parsed.text.split(",") if tag.strip()]
    weights = sum(part.kind is Kind.WEIGHT for part in parsed.parts)
    is_short = len(parsed.text.split()) <= MAX_TAG_WORDS * len(tags)
    return weights > 1 or (len(tags) >= MIN_TAGS and is_short)


def is_instruction(text: str) -> bool:
    """Whether a text asks for an answer instead of describing a scene."""
    return bool(ATTACK.search(text) or (INSTRUCTION.search(text) and not VIDEO.match(text)))
