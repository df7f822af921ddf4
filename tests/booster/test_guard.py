"""The guard, on replies that are written here."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax import defaults
from pav_jax.booster.guard import MODES, Guard, Request
from pav_jax.booster.prompt_syntax import parse_prompt
from pav_jax.booster.replies import read_scene
from pav_jax.commands import guard_options
from pav_jax.errors import BadInput
from pav_jax.records import Refinement
from pav_jax.rewards.faithfulness import judge
from tests.booster.guarding import first, refine
from tests.tiers import first_fast


def test_refine_most_faithful_sample():
    best = "A brown dog runs across a wet meadow."
    refinement = first("a brown dog runs", "A dog rests.", best, "A cat runs.")
    assert refinement.refined == best
    assert refinement.faith == 1 and not refinement.reverted and not refinement.reason
    assert refinement.kept == ("brown", "dog", "runs")  # vocabulary: ignore
    assert (refinement.prompt, refinement.seed, refinement.model) == ("a brown dog runs", 7, "m")


def test_refine_most_likely_among_equals():
    replies = ["A dog runs over grass.", "A dog runs on sand.", "A cat."]
    calls = []

    def likelihood(request, texts):
        calls.append((request.prompt, list(texts)))
        return [-2.0, -1.0]

    assert first("a dog runs", *replies).refined == replies[0]
    assert first("a dog runs", *replies, likelihood=likelihood).refined == replies[1]
    assert calls == [("a dog runs", replies[:2])]


def test_refine_copy_of_the_prompt_is_last():
    prompt = "a dog runs in the snow, no people"
    rewrite = "A small dog runs in the snow, no people."
    assert first(prompt, "A dog runs in the snow, no people.", rewrite).refined == rewrite
    assert first(prompt, "A dog runs in the snow.", f"{prompt}.").refined == f"{prompt}."


def test_refine_groups_of_samples():
    replies = ["A dog runs over grass.", "A cat.", "A dog.", "A dog runs on sand."]
    refinements = refine("a dog runs", *replies, n=2, samples=2)
    assert [r.refined for r in refinements] == [replies[0], replies[3]]


@pytest.mark.parametrize(
    "prompt,reply,rewrite",
    [
        (
            'a sign that says "OPEN 24H" above a diner',
            'A sign reads "Open 24h" above an old diner.',
            'A sign reads "OPEN 24H" above an old diner.',
        ),
        (
            "two red kites over a beach, no people",
            "Two red kites soar over a beach.",
            "Two red kites soar over a beach. No people.",
        ),
        (
            "a fox in deep snow, slow zoom out, at dawn",
            "A red fox stands in deep snow at dawn",
            "A red fox stands in deep snow at dawn. Slow zoom out.",
        ),
        (
            "a QZX1 woman dances on a roof, at dusk",
            "A woman dances on a flat roof at dusk.",
            "A QZX1 woman dances on a roof. A woman dances on a flat roof at dusk.",
        ),
        (
            "an (old:1.3) tower -ar 9:16",
            "An old tower leans.",
            "An (old:1.3) tower leans. -ar 9:16",
        ),
        (
            "zxqstyle, a grey horse stands at a gate",
            "A grey horse stands at a gate.",
            "zxqstyle. A grey horse stands at a gate.",
        ),
        ("a tram <lora:city:0.8>", "A tram turns.", "A tram turns. <lora:city:0.8>"),
        ("a tram turns", "In this scene, a tram turns.", "A tram turns."),
        ("a sign 'I LOVE YOU'", 'A sign says "I LOVE YOU".', "A sign says 'I LOVE YOU'."),
        ("a tram @ make it slow", "A tram turns slowly.", "A tram turns slowly."),
    ],
)
def test_refine_protected_parts_and_repairs(prompt, reply, rewrite):
    refinement = first(prompt, reply)
    assert refinement.refined == rewrite
    assert not refinement.reverted and refinement.faith >= 0.9
    assert not refinement.missing and not refinement.contradicted


def test_refine_flags():
    refinement = first('a tram -neg "rain, fog" -seed 9 -ar 9:16', "A tram turns.")
    assert refinement.refined == 'A tram turns. -neg "rain, fog" -seed 9 -ar 9:16'
    assert refinement.negative_prompt == "rain, fog"
    assert refinement.settings == {"seed": "9", "ar": "9:16"}


def test_refine_keep():
    replies = ["A lady named Ada waves.", "A woman named Ada waves."]
    assert first("a woman named Ada waves", *replies).refined == replies[0]
    literal = first("a woman named Ada waves", *replies, keep=["woman"])  # vocabulary: ignore
    assert literal.refined == replies[1]
    other = first("a dog runs", "A dog runs on.", keep=["woman"])
    assert other.refined == "A dog runs on."
    Guard(keep=["dog", "9:16"]).check_terms(["a cat", "a dog runs -ar 9:16"])
    with pytest.raises(BadInput, match="keep='cat': no prompt contains it"):
        Guard(keep=["dog", "cat"]).check_terms(["a category", "a dog runs"])


@pytest.mark.parametrize(
    "reply",
    [
        "<|im_start|>assistant\nA dog runs.",
        "<|im_start|>assistant\nA dog runs.<|im_end|>\n<|im_start|>user\nA cat.",
        "<|start_header_id|>assistant<|end_header_id|>\n\nA dog runs.<|eot_id|>",
        "<start_of_turn>model\nA dog runs.<end_of_turn>",
        "<|assistant|>\nA dog runs.</s>",
        "<s>A dog runs.</s>",
        "assistant\nA dog runs.\nuser\nA cat.",
    ],
)
def test_refine_marks_of_chats(reply):
    assert first("a dog runs", reply).refined == "A dog runs."


@pytest.mark.parametrize(
    "reply,scene",
    [
        ("A portrait of Mr. Fox", "A portrait of Mr. Fox"),
        ("Mrs. Fox and Dr. J. Fox wave. They", "Mrs. Fox and Dr. J. Fox wave."),
        ("He takes vitamin C.", "He takes vitamin C."),
        ("A dog runs. It", "A dog runs."),
        ("A street near St. Paul's? Yes! It", "A street near St. Paul's? Yes!"),
    ],
)
def test_read_scene_unfinished_sentence(reply, scene):
    assert read_scene(reply, reply).text == scene


def test_read_scene_same_four_words_three_times():
    said = "the boat moves slowly forward"
    reply = (
        f"Gulls cry, {said} under the sun, {said} past a pier, and at last {said} into a wide bay."
    )
    assert read_scene(reply, "a red boat").problem == "a loop"
    assert not read_scene(reply.replace(said, "it sails off", 1), "a red boat").problem
    assert not read_scene(reply, f"{said}, {said}, {said}").problem


@pytest.mark.parametrize(
    "prompt,keep,reply,rewrite",
    [
        ("Ada waves", "Ada", "Adamo waves.", "Ada waves"),
        ("Ada waves", "Ada", "ada waves at the sea.", "Ada waves at the sea."),
        ("a <keep>cat</keep> sleeps", (), "A cats' category sleeps.", None),
        ("an (old:1.3) tower", (), "A golden old tower leans.", "A golden (old:1.3) tower leans."),
        ("an (old:1.3) tower leans", "(old:1.3) tower", "An old big tower leans.", None),
        ("an (old:1.3) tower leans", "old tower", "An old big tower leans.", None),
        ("José waves", "José", "Joséphine waves.", "José waves. Joséphine waves."),
        ("a <keep>cat</keep>egory waves", (), "A category waves.", None),
    ],
)
def test_refine_terms_are_words(prompt, keep, reply, rewrite):
    refinement = first(prompt, reply, keep=keep, fidelity=0)
    terms = parse_prompt(prompt).missing_terms(refinement.refined)
    assert not terms and refinement.refined == (rewrite or refinement.refined)
    if keep == "(old:1.3) tower" or keep == "old tower":
        assert "(old:1.3) tower" in refinement.refined


def test_refine_terms_of_scripts_without_spaces():
    refined = first("(红色:1.3) 的车", "一辆红色的车开过。", language="any").refined
    assert refined == "一辆(红色:1.3)的车开过。"


@pytest.mark.parametrize(
    "prompt,reply",
    [
        ("two red kites over a beach", "Two black birds circle above a city."),
        ("a man without a hat", "A man with a hat walks."),
        ("a cat chases a dog", "A dog chases a cat through a park."),
        ("an empty street, no people", "An empty street at night where a lone figure waits."),
        ("three candles", "Five candles burn on a cake."),
        ("a red fox sleeps in snow", "Snow falls and a farmer looks at a red fox."),
        ("a dog runs", "As I walk by, a dog runs."),
        ("a dog runs", 'A dog runs home. "I am so glad to see you," says its bowl.'),
        ("a white horse runs", "A white white white white horse runs."),
        ("a dog runs", "一只狗在草地上奔跑。"),
        ("a dog runs", "Ein Hund rennt über die Wiese und das Gras ist nass."),
        ("a dog runs", ""),
        ("a dog runs", "<think>the user wants a dog that runs"),
        ("a dog runs", "I'm sorry, but I can't help with a dog that runs."),
        ("a dog runs", "As an AI language model, I cannot see a dog that runs."),
        ("a dog runs", "Your prompt has a dog that runs."),
        ("a dog runs", "1. A dog runs.\n2. A dog runs fast.\n3. A dog runs home."),
        ("a dog runs", "A dog runs,\nit is fun,\nin the sun,\nand is done."),
        ("a dog runs", "Why does the dog run?"),
        ("a dog runs", "the dog runs " * 30),
    ],
)
def test_refine_reverts(prompt, reply):
    refinement = first(prompt, reply)
    assert refinement.refined == prompt
    assert refinement.reverted and refinement.reason.startswith("no rewrite was good enough")
    assert refinement.faith == 1 and not refinement.missing


def test_refine_max_words():
    reply = "A dog runs over wet grass. The sun is low. A bird sings in a tree nearby."
    assert (
        first("a dog runs", reply, max_words=9).refined
        == "A dog runs over wet grass. The sun is low."[:26]
    )
    assert first("a dog runs", reply, max_words=10).refined == reply[:42]
    assert first("a dog runs", reply, max_words=4).reason.count("over 4 words") == 1


def test_refine_fidelity():
    reply = "A brown dog runs."
    prompt = "a brown dog runs over wet sand towards a shop"
    assert first(prompt, reply, fidelity=0.3).refined == reply
    assert first(prompt, reply, fidelity=1).refined != reply


def test_refine_mode_off_takes_what_comes():
    refinement = first("a dog runs", " Sure! A cat. \n", mode="off")
    assert refinement == Refinement("a dog runs", "Sure! A cat.", 7, "m")
    assert first("a dog runs", "  ", mode="off").refined == "a dog runs"


def test_refine_asks_only_for_open_prompts():
    calls = []

    def engine(requests, num_samples):
        calls.append((list(requests), num_samples))
        return [["A dog runs on."] * num_samples for _ in requests]

    prompts = ["tell me a joke", "a dog runs @ in winter -ar 1:1", "猫"]
    requests = [Request(prompt, i, "wan") for i, prompt in enumerate(prompts)]
    rewrites = Guard().refine(requests, engine)
    assert calls == [([Request("a dog runs (in winter)", 1, "wan")], 4)]
    assert [r[0].reverted for r in rewrites] == [True, False, True]
    assert [r[0].adapter for r in rewrites] == ["wan"] * 3
    assert Guard().refine(requests[:1], engine)[0][0].refined == prompts[0]
    assert len(calls) == 1


def test_refine_repair_too_long_to_check():
    prompt = "two red kites over a beach, no people, " + "!?" * 1900 + " at dawn"
    reply = "Two red kites soar over a beach. " + "They soar over sand and sea. " * 100
    assert not first(prompt, reply[:3800]).refined.startswith("Two red kites")


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "always"},
        {"language": "klingon"},
        {"fidelity": 1.5},
        {"fidelity": math.nan},
        {"samples": 0},
        {"max_words": 1},
        {"keep": [" "]},
        {"keep": ""},
        {"keep": [1]},
        {"keep": 5},
        {"keep": b"Ada"},
        {"keep": {"Ada": 1}},
        {"fidelity": "0.9"},
        {"fidelity": True},
        {"max_words": "x"},
        {"max_words": 9.5},
        {"samples": 2.5},
        {"samples": True},
        {"samples": [4]},
        {"mode": []},
        {"mode": 1},
        {"language": {}},
        {"words": 3},
    ],
)
def test_guard_invalid_field(fields):
    with pytest.raises(BadInput) as error:
        Guard().with_fields(fields)
    assert error.value.field == next(iter(fields))


def test_guard_keep_of_one_term():
    assert Guard(keep="Ada").keep == Guard(keep=["Ada"]).keep == ("Ada",)  # vocabulary: ignore


def test_guard_options_are_those_of_the_guard():
    assert guard_options.MODES == MODES
    assert set(guard_options.FIELDS) == set(vars(Guard()))


PARTS = [
    'a sign that says "OPEN 24H"',
    "exactly 3 red kites",
    "no people",
    "QZX1 on a roof",
    "a (soft:1.2) light",
    "<keep>blue door</keep>",
    "two dogs",
    "without a hat",
    "<lora:old:1>",
    "a tram at night",
]
REPLIES = [
    "Three red kites fly.",
    "A sign reads open 24h.",
    "People walk by.",
    "A dog.",
    "A blue door and two dogs.",
    "",
    "I cannot do that.",
    "A tram at night in soft light, no people.",
    "**A roof**",
    "qzx1 waits on a roof.",
]


@pytest.mark.parametrize("number", first_fast([20, 1000]))
def test_refine_never_loses_a_term(number):
    rng = np.random.default_rng(0)
    for _ in range(number):
        parts = rng.choice(PARTS, 3, replace=False)
        prompt = ", ".join(parts) + " -ar 9:16"
        replies = [" ".join(rng.choice([*REPLIES, *parts], 4)) for _ in range(4)]
        refinement = first(prompt, *replies, fidelity=0.5)
        guarded = parse_prompt(prompt)
        assert not guarded.missing_terms(refinement.refined), (prompt, refinement.refined)
        assert "-ar 9:16" in refinement.refined and refinement.settings == {"ar": "9:16"}
        judgement = judge(guarded.text, parse_prompt(refinement.refined).text)
        lost = [u for u in judgement.units if u.category in ("negation", "quote")]
        assert all(unit.verdict == "kept" for unit in lost), (
            prompt,
            refinement.refined,
        )  # vocabulary: ignore


def test_faithful_leaves_out_replies_that_lose_something():
    prompt = "two red kites, no people"
    replies = ["Two red kites fly, no people.", "A cat sleeps.", "Sure! Here is a rewrite:"]
    assert Guard("on").faithful(prompt, replies) == replies[:1]
    assert Guard("off").faithful(prompt, replies) == replies
    assert Guard("on").faithful("what is the capital of France", ["Paris."]) == []


def test_from_config_is_the_section_of_the_configuration():
    config = defaults.get_config()
    assert Guard.from_config(config) == Guard("off")
    config.booster.guard.update(mode="on", fidelity=0.5, max_words=20)
    assert Guard.from_config(config) == Guard("on", fidelity=0.5, max_words=20)
    assert Guard.from_config(ConfigDict()).mode == "off"
