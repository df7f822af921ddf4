"""The booster's border: what it takes, what it gives."""

import dataclasses
import json

import pytest

from pav_jax.booster.booster import Booster, clean
from pav_jax.errors import BadInput
from pav_jax.language.sampling import Sampling
from pav_jax.records import Refinement
from tests.language.conftest import tiny_language_model


class FakeLanguageModel:
    """Answers with what it was asked, or with nothing."""

    name = "fake"
    generation: dict = {}

    def __init__(self, answer=lambda prompt: f"  {prompt}, in soft light \n"):
        self.answer, self.calls = answer, []

    def generate(self, prompts, num_return_sequences=1, seed=0, **settings):
        self.calls.append((prompts, settings))
        self.seeds = seed
        return [
            [self.answer(chat[-1]["content"]) for _ in range(num_return_sequences)]
            for chat in prompts
        ]


def test_prompts_go_in_as_user_chats_and_come_out_as_refinements_in_order():
    lm = FakeLanguageModel()
    got = Booster(lm, Sampling(max_new_tokens=30)).refine(
        ["a dog runs", "rain"], num_return_sequences=2, seed=[5, 6]
    )
    assert got == [
        [Refinement(p, f"{p}, in soft light", s, "fake")] * 2
        for p, s in (("a dog runs", 5), ("rain", 6))
    ]
    prompts, settings = lm.calls[0]
    assert (
        prompts[0] == [{"role": "user", "content": "a dog runs"}]
        and settings["max_new_tokens"] == 30
    )


def test_prompts_that_share_a_seed_draw_their_own_numbers_whatever_their_company():
    lm = FakeLanguageModel()
    booster = Booster(lm, Sampling())
    booster.refine(["a dog runs", "rain"], seed=5)
    dog, rain = lm.seeds
    assert dog != rain
    booster.refine(["rain"], seed=[5])
    assert lm.seeds == [rain]
    booster.refine("rain", seed=6)
    assert lm.seeds != [rain]


def test_one_string_is_one_prompt():
    assert [
        [r.prompt for r in rewrites] for rewrites in Booster(FakeLanguageModel()).refine("a dog")
    ] == [["a dog"]]


@pytest.mark.parametrize("answer", ["", "  \n\t ", "\x00\x07"])
def test_an_empty_answer_falls_back_to_the_users_prompt(answer):
    assert Booster(FakeLanguageModel(lambda _: answer)).refine("a dog")[0][0].refined == "a dog"


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "\x00\x1b", "\ud800", "a" * 10_001])
def test_empty_and_endless_prompts_are_refused(prompt):
    with pytest.raises(BadInput):
        Booster(FakeLanguageModel()).refine(["fine", prompt])


@pytest.mark.parametrize(
    "prompt",
    ["<b>a dog</b> & {{ x }} 100 %", "a 👩‍🚀 on the moon", "ein Mädchen, 猫", "a" * 10_000],
)
def test_markup_emoji_and_long_prompts_pass_unchanged(prompt):
    assert clean(prompt) == prompt


def test_control_characters_are_stripped_and_line_ends_become_blanks():
    assert clean("\x1b[31ma\x00 dog\r\nruns\ud83d\x7f") == "[31ma dog  runs"


def test_the_embedded_booster_is_the_default_and_its_name_holds_no_path(tmp_path, monkeypatch):
    monkeypatch.setattr("pav_jax.checkpoints.embedded.CHECKPOINTS", tmp_path)
    tiny_language_model().save_pretrained(tmp_path / "rewriter")
    assert Booster.from_pretrained().language_model.name == "mini:rewriter"
    tiny_language_model().save_pretrained(tmp_path / "booster")
    assert Booster.from_pretrained().language_model.name == "mini:booster"


def test_a_saved_model_becomes_a_booster_with_its_own_sampling(tmp_path):
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
