import hypothesis
import pytest
from hypothesis import strategies as st

from pav_jax.booster.prompt_syntax import Kind, own_term, parse_prompt
from tests.growth import assert_linear

SETTINGS = [
    ("a tram in the rain -ar 9:16", {"ar": "9:16"}),
    ("a tram in the rain --ar 4:5 --style raw", {"ar": "4:5", "style": "raw"}),
    ("a tram in the rain -gs24 -motion1", {"gs": "24", "motion": "1"}),
    ("a tram in the rain, fps-30, ar-1:1", {"fps": "30", "ar": "1:1"}),
    ("a tram in the rain-ar 9:16", {"ar": "9:16"}),
    ("a tram in the rain.-motion 4", {"motion": "4"}),
    ("a tram in the rain -ar: 9:16 - fps 8", {"ar": "9:16", "fps": "8"}),
    ("a tram in the rain —seed 77", {"seed": "77"}),
    ("a tram in the rain -camera pan up", {"camera": "pan up"}),
    ("a tram in the rain -camra zoom out", {"camera": "zoom out"}),
    ("a tram in the rain -motoin 3 -sed 5", {"motion": "3", "seed": "5"}),
    (
        "a tram in the rain\nNegative prompt: x\nSteps: 2, CFG: 7",
        {"parameters": "Steps: 2, CFG: 7"},
    ),
    ("a tram in the rain --v 6 --weird 20", {"v": "6", "weird": "20"}),
    ("a tram in the rain -lens very wide", {"lens": "very wide"}),
    ("a tram in the rain -cfg=7.5", {"gs": "7.5"}),
    ("a tram in the rain —v 6 —s 250", {"v": "6", "s": "250"}),
    ("a tram in the rain —motoin 3 – fps 24", {"motion": "3", "fps": "24"}),
]
NO_SETTINGS = [
    "a hut - style of Van Gogh",
    "a hut —style of Van Gogh",
    "a road - camera pans left",
    "a town –now empty",
    "a man —came home",
    "a town – no people",
    "a town —no people",
    "a print - negative space",
    "a road —weird very odd",
    "slow-motion 2 dogs on a well-known beach",
    "a man - no hat - waits",
    "a chair -some say a throne- in an old hall of a castle",
    "a seed 3 days old",
    "mother-in-law at -5 degrees",
]
NEGATIVE = [
    ('a quiet lake -neg "boats, no birds" -fps 24', "boats, no birds"),
    ("a quiet lake -neg boats, birds -ar 1:1", "boats, birds"),
    ("a quiet lake -ng boats", "boats"),
    ("a quiet lake --no boats --seed 4", "boats"),
    ("a quiet lake -neg &quot;boats&quot;", "boats"),
    ("a quiet lake -neg “boats” -neg birds", "boats, birds"),
    (
        "a quiet lake\nNegative prompt: boats, &quot;birds&quot;\nSteps: 20, Seed: 4",
        'boats, "birds"',
    ),
    ("a quiet lake -seed 4 Negative prompt: low -quality", "low -quality"),
    ("a quiet lake", ""),
]
TERMS = [
    ('a sign that reads "FRESH BREAD"', ("FRESH BREAD",)),
    ("a cake with the words 'Otto is 9' on it, the baker's best", ("Otto is 9",)),
    ("a door marked «вход» and “EXIT”", ("вход", "EXIT")),
    ("a (velvet:1.3) curtain", ("velvet",)),
    ("a {green|teal} kite", ("{green|teal}",)),
    ("a {green  car|teal} kite", ("{green car|teal}",)),
    ("a __animal__ on a sofa", ("__animal__",)),
    ("<keep>Aunt Olga</keep> bakes", ("Aunt Olga",)),
    ("QWORP cat rides a ZX81 rocket", ("QWORP", "ZX81")),
    ("zxqstyle, a fox and an sks dog", ("zxqstyle", "sks")),
    ("a TALL man and NO dogs", ()),
    ("a dancefloor in harajuku", ()),
    ("A WOMAN RIDES A HORSE PAST QWORP", ()),
    ("a mug that says &quot;Tea &amp; Milk&quot;", ("Tea & Milk",)),
]
PROMPTS = [
    *(prompt for prompt, _ in (*SETTINGS, *NEGATIVE, *TERMS)),
    *NO_SETTINGS,
    "",
    " \t\n ",
    "prompt: two goats Message: HELLO (Font: RETRO) -seed 9",
    "<lora:paper_art:0.8> a fox &amp; a hen <b>jump</b> @ more snow -ar 1:1",
    "неон, кошка -ar 9:16",
    "((((a:1.2) {x <keep> \"y '' <lora: &quot; -neg",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_render_without_rewrite_is_prompt(prompt):
    assert parse_prompt(prompt).render() == prompt


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.text())  # vocabulary: ignore
def test_render_any_text(text):
    assert parse_prompt(text).render() == text


MARKS = (
    "-ar 9:16|-neg |--style raw|Message: |(Font: X)|<lora:a:1>|<keep>|</keep>|&quot;|&amp;|(a:1.2)"
    "|{a|__b__|QZX1|ein|-x y|fps-24| @ |prompt:"
)
FRAGMENTS = st.sampled_from([*"\"'’“”«»(){}|<>:@&-–— .,\n", *MARKS.split("|")])


@hypothesis.settings(max_examples=200)
@hypothesis.example('" @  @ "')
@hypothesis.example("<keep>-</keep>")
@hypothesis.given(st.lists(FRAGMENTS, max_size=25).map("".join))  # vocabulary: ignore
def test_render_text_of_marks(text):
    parsed = parse_prompt(text)
    assert parsed.render() == text
    assert parsed.missing_terms(parsed.text) == ()


@pytest.mark.parametrize("prompt,expected", SETTINGS)
def test_settings_of_flags(prompt, expected):
    parsed = parse_prompt(prompt)
    assert parsed.settings == expected
    assert parsed.text.rstrip(".") == "a tram in the rain"


@pytest.mark.parametrize("prompt", NO_SETTINGS)
def test_settings_dashes_in_sentences(prompt):
    parsed = parse_prompt(prompt)
    assert (parsed.settings, parsed.negative_prompt, parsed.text) == ({}, "", prompt)


@pytest.mark.parametrize("prompt,expected", NEGATIVE)
def test_negative_prompt(prompt, expected):
    parsed = parse_prompt(prompt)
    assert (parsed.negative_prompt, parsed.text) == (expected, "a quiet lake")


@pytest.mark.parametrize("prompt,expected", TERMS)
def test_terms_literal(prompt, expected):
    parsed = parse_prompt(prompt)
    assert parsed.terms == expected
    assert all(term in parsed.text for term in expected)
    assert parsed.missing_terms("nothing of it") == expected


@pytest.mark.parametrize(
    "prompt,rewrite,missing",
    [
        ("a <keep>cat</keep>", "a category of cats", ("cat",)),
        ("a <keep>cat</keep>", "one-cat act", ()),
        ("a <keep>cat</keep>egory", "a category", ()),
        ("an (old:1.3) door", "a golden door", ("old",)),
        ('a sign "OPEN!"', "a sign OPEN!now", ()),
        ("<keep>猫</keep>", "黑猫跑", ()),
        ("QZX1 cat", "猫QZX1猫", ()),
        ("QZX1 cat", "QZX12 cat", ("QZX1",)),
    ],
)
def test_missing_terms_within_words(prompt, rewrite, missing):
    assert parse_prompt(prompt).missing_terms(rewrite) == missing


@pytest.mark.parametrize(
    "term,own",
    [
        ("(old:1.3) tower", "old tower"),
        ("old  tower", "old tower"),
        ("tower", "tower"),
        ("tow", ""),
        ("new tower", ""),
        (" ", ""),
    ],
)
def test_own_term(term, own):
    assert own_term(term, parse_prompt("an (old:1.3) tower -ar 9:16")) == own


def test_text_entities_and_marks():
    parsed = parse_prompt("<b>Tom &amp; (Ann:1.2)</b> &lt;3 <keep>QWORP</keep> <lora:x:1>")
    assert parsed.text == "Tom & Ann <3 QWORP"


def test_instruction():
    parsed = parse_prompt('a cat @ make it "noir" and slow -ar 1:1')
    assert (parsed.text, parsed.instruction) == ("a cat", 'make it "noir" and slow')
    assert parsed.settings == {"ar": "1:1"}
    assert parse_prompt("mail me@home.org @ 5").instruction == ""


def test_message():
    parsed = parse_prompt("two goats Message: HELLO (Font: RETRO)")
    assert parsed.text == "two goats"
    assert [p.value for p in parsed.parts if p.kind is Kind.MESSAGE] == ["HELLO"]


def test_render_rewrite():
    parsed = parse_prompt(
        "prompt: <lora:paper:0.8> a (velvet:1.3) fox says &quot;hi&quot;, Message: YO (Font: X)"
        ' <keep>QWORP</keep> @ shorter -neg "no people" --style raw'
    )
    assert parsed.render('A fox in velvet, QWORP, says "hi" softly; velvet glows.') == (
        "prompt: <lora:paper:0.8> A fox in (velvet:1.3), <keep>QWORP</keep>, says &quot;hi&quot;"
        ' softly; velvet glows. Message: YO (Font: X) -neg "no people" --style raw'
    )


@pytest.mark.parametrize(
    "rewrite,expected",
    [
        ('A sign reads "Keep Left," in red.', 'A sign reads "Keep Left", in red.'),
        ("A sign reads “Keep Left.” It rains.", 'A sign reads "Keep Left". It rains.'),
        ('A sign reads "Keep Left on Rain" today.', 'A sign reads "Keep Left on Rain" today.'),
        ('A sign reads "Please Keep Left" today.', 'A sign reads "Please Keep Left" today.'),
        ("A sign reads Keep Left.", 'A sign reads "Keep Left".'),
    ],
)
def test_render_quotes_once(rewrite, expected):
    assert parse_prompt('a "Keep Left" sign').render(rewrite) == expected


ADVERSARIAL = (
    "“|'a |''a|{a, |(a|((|<|<keep>a|<lora:|&quot;a|&|@ | @ a|__|-|-x y |-ar |-neg |A1|ein "
)


@pytest.mark.parametrize("piece", [*ADVERSARIAL.split("|"), "{a|", "a"])
def test_parse_prompt_time_linear(piece):
    def parse(length):
        text = (piece * (length // len(piece) + 1))[:length]
        assert parse_prompt(text).render() == text

    assert_linear(parse, 5_000)
