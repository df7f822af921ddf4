"""What Open-Sora's T5 reads: scores appended to the prompt, then the cleaning its training captions
went through.

Source: hpcaitech/Open-Sora, tag v1.2.0, `opensora/utils/inference_utils.py` and
`opensora/models/text_encoder/t5.py`; the cleaning is DeepFloyd IF's, which PixArt and diffusers
share. The rules work on web captions, in this order, and are applied twice; some of them reach into
plain prose as well (they lower the case, drop brackets and most of "3x3" or "#1").
"""

import html
import re
import urllib.parse
import warnings

HOST = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk"
DASHES = (
    r"\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0\uFE31\uFE32"
    r"\uFE58\uFE63\uFF0D"
)

# (pattern, replacement) in the order of the original
LINKS = [
    (rf"\b((?:{scheme}:(?:\/{{1,3}}|[a-zA-Z0-9%])|{HOST}))", "") for scheme in ("https?", "www")
]
MARKS = [
    (r"@[\w\d]+\b", ""),  # nicknames
    (r"[\u31c0-\u9fff]+", ""),  # CJK strokes to unified ideographs, seven blocks in a row
    (rf"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # article numbers
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"[\S]+\.(?:{FILES}|mp4)", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\/\*]+", " "),
    (r"\s+\.\s+", " "),
]
WORDS = [
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # product codes: jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILES}|mp4)(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes; the second x is Cyrillic
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
]


def with_scores(
    prompt: str,
    aesthetic: float | None = None,
    motion: float | None = None,
    camera: str | None = None,
) -> str:
    """The prompt with the scores a video is to have, each unless the prompt names one itself."""
    for name, value in (
        ("aesthetic score", aesthetic),
        ("motion score", motion),
        ("camera motion", camera),
    ):
        if value is not None and f"{name}:" not in prompt:
            prompt = (
                f"{prompt} {name}: {value if isinstance(value, str) else format(value, '.1f')}."
            )
    return prompt


def clean(caption: str) -> str:
    """The caption as the text encoder was trained on it: cleaned twice."""
    return _once(_once(caption))


def _once(caption: str) -> str:
    import bs4  # both are slow to import
    import ftfy

    caption = caption.encode(
        "utf-8", "replace"
    ).decode()  # lone surrogates become "?", as in the records
    caption = urllib.parse.unquote_plus(caption).strip().lower()
    caption = _apply([("<person>", "person"), *LINKS], caption)
    with warnings.catch_warnings():  # of prompts that could be names of files
        warnings.simplefilter("ignore", bs4.MarkupResemblesLocatorWarning)
        caption = bs4.BeautifulSoup(caption, features="html.parser").text
    caption = _apply(MARKS, caption)
    if (
        len(re.findall(r"[-_]", caption)) > 3
    ):  # words-joined-by-hyphens rather than hyphenated words
        caption = re.sub(r"[-_]", " ", caption)
    caption = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
    return _apply(WORDS, caption).strip()


def _apply(rules: list[tuple[str, str]], text: str) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text
