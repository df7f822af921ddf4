"""Boosters: prompts in, rewrites out."""

import dataclasses
import json
import warnings
from pathlib import Path

import pytest

from pav_jax.booster.booster import GENERAL_SAMPLING, Booster, clean
from pav_jax.booster.guard import Guard
from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.sampling import Sampling
from pav_jax.records import Refinement
from tests.tiny.byte_language_model import tiny_language_model
from tests.tiny.chat_formats import FORMATS, chat_tokenizer


class FakeLanguageModel:
    """Answer with the prompt and a few words, or as `answer` says."""

    name = "fake"
    generation: dict = {}

    def __init__(self, answer=lambda prompt: f"  {prompt}, in soft light \n"):
        self.answer = answer
        self.calls = []

    def generate(self, prompts, num_return_sequences=1, seed=0, **settings):
        self.calls.append((prompts, settings))
        self.seeds = seed
        return [
            [self.answer(chat[-1]["content"]) for _ in range(num_return_sequences)]
            for chat in prompts
        ]


def test_refine_order_and_fields():
    lm = FakeLanguageModel()
    rewrites = Booster(lm, Sampling(max_new_tokens=30)).refine(
        ["a dog runs", "rain"], num_return_sequences=2, seed=[5, 6]
    )
    assert rewrites == [
        [Refinement(p, f"{p}, in soft light", s, "fake")] * 2
        for p, s in (("a dog runs", 5), ("rain", 6))
    ]
    prompts, settings = lm.calls[0]
    assert (
        prompts[0] == [{"role": "user", "content": "a dog runs"}]
        and settings["max_new_tokens"] == 30
    )


def test_refine_shared_seed_gives_each_prompt_its_own():
    lm = FakeLanguageModel()
    booster = Booster(lm, Sampling())
    booster.refine(["a dog runs", "rain"], seed=5)
    dog, rain = lm.seeds
    assert dog != rain
    booster.refine(["rain"], seed=[5])
    assert lm.seeds == [rain]
    booster.refine("rain", seed=6)
    assert lm.seeds != [rain]


def test_refine_wrong_number_of_seeds():
    with pytest.raises(BadInput, match="1 seeds for 2 prompts") as error:
        Booster(FakeLanguageModel(), Sampling()).refine(["a dog runs", "rain"], seed=[5])
    assert error.value.field == "seed"


def test_refine_image_is_passed_along():
    booster = Booster(FakeLanguageModel(), guard=Guard())
    rewrites = booster.refine(["a dog", "rain"], image=["a.png", None], num_return_sequences=2)
    assert [[r.image for r in row] for row in rewrites] == [["a.png"] * 2, [None] * 2]
    assert booster.refine("a dog", image=Path("a.png"))[0][0].image == "a.png"
    with pytest.raises(BadInput, match="image: 1 images for 2 prompts"):
        booster.refine(["a dog", "rain"], image=["a.png"])


def test_refine_single_string():
    assert [
        [r.prompt for r in rewrites] for rewrites in Booster(FakeLanguageModel()).refine("a dog")
    ] == [["a dog"]]


@pytest.mark.parametrize("answer", ["", "  \n\t ", "\x00\x07"])
def test_refine_empty_answer_returns_prompt(answer):
    assert Booster(FakeLanguageModel(lambda _: answer)).refine("a dog")[0][0].refined == "a dog"


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\x00\x1b", "\ud800", "a" * 10_001])
def test_refine_empty_or_too_long_prompt(prompt):
    with pytest.raises(BadInput) as error:
        Booster(FakeLanguageModel()).refine(["fine", prompt])
    assert error.value.field == "prompts"


@pytest.mark.parametrize(
    "prompt",
    ["<b>a dog</b> & {{ x }} 100 %", "a 👩‍🚀 on the moon", "ein Mädchen, 猫", "a" * 10_000],
)
def test_clean_keeps_markup_and_emoji(prompt):
    assert clean(prompt) == prompt


def test_clean_control_characters():
    assert clean("\x1b[31ma\x00 dog\r\nruns\ud83d\x7f") == "[31ma dog  runs"


@pytest.mark.parametrize(
    "prompt", ["Scene 1: a dog\nScene 2: it sleeps", "a dog\n\tand a cat\nin snow\r\n", "a  cat\n"]
)
def test_refine_prompt_that_stands_is_as_typed(prompt):
    lm = FakeLanguageModel(lambda _: "A red car.")
    refinement = Booster(lm, guard=Guard()).refine("\x00\ud800" + prompt)[0][0]
    assert refinement.refined == prompt and refinement.original == "\x00\ud800" + prompt
    assert refinement.prompt == clean(prompt)
    assert ("structured" in refinement.reason) == (prompt.count("\n") > 1 or "Scene" in prompt)
    assert [chat[0]["content"] for prompts, _ in lm.calls for chat in prompts] == (
        [] if "structured" in refinement.reason else ["a cat"]
    )


def test_refine_unguarded_prompt_on_one_line():
    lm = FakeLanguageModel(lambda _: "")
    refinement = Booster(lm).refine(" a dog\nruns ")[0][0]
    assert refinement.refined == lm.calls[0][0][0][0]["content"] == "a dog runs"


def test_from_pretrained_sampling_and_template(tmp_path):
    lm = dataclasses.replace(
        tiny_language_model(), generation={"temperature": 0.5, "max_new_tokens": 9}
    )
    lm.save_pretrained(tmp_path / "booster")
    booster = Booster.from_pretrained(tmp_path / "booster")
    assert booster.sampling == Sampling(max_new_tokens=9, temperature=0.5)
    first = booster.refine(["a dog", "rain"], seed=3)
    assert first == booster.refine(["a dog", "rain"], seed=3) and first[1:] == booster.refine(
        "rain", seed=3
    )
    assert (
        json.loads((tmp_path / "booster" / "generation_config.json").read_text())["temperature"]
        == 0.5
    )

    (tmp_path / "t.jinja").write_text("rewrite: {{ messages[0]['content'] }}")
    other = Booster.from_pretrained(tmp_path / "booster", template=tmp_path / "t.jinja")
    assert (
        other.language_model.tokenizer.decode(other.language_model.prompt_ids("x")) == "rewrite: x"
    )


def test_from_pretrained_general_model_gets_the_shipped_instruction(monkeypatch):
    general = dataclasses.replace(
        tiny_language_model(), tokenizer=chat_tokenizer(FORMATS["qwen2"]), generation={}
    )
    monkeypatch.setattr(
        "pav_jax.booster.booster.LanguageModel.from_pretrained", lambda *_, **__: general
    )

    def text(booster):
        return chat.chat_text(booster.language_model.tokenizer, chat.user_chat("two dogs"))

    with pytest.warns(UserWarning, match=r"using the shipped one \(template=model keeps its own\)"):
        default = Booster.from_pretrained("general")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = Booster.from_pretrained("general", template="auto")
        own = Booster.from_pretrained("general", template="model")
    assert text(default) == text(chosen) != text(own)
    assert "You rewrite short prompts" in text(default)
    assert default.sampling == chosen.sampling == Sampling(**GENERAL_SAMPLING)
