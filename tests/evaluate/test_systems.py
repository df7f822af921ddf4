import json

import pytest

from pav_jax.errors import BadInput
from pav_jax.evaluate.systems import Rewrites, fingerprint, systems_named


def test_each_question_is_asked_once_even_over_restarts(tmp_path):
    asked = []

    def system(prompts, seed):
        asked.extend((p, seed) for p in prompts)
        return [f"{p} {seed}" for p in prompts]

    for _ in range(2):
        answers = Rewrites(tmp_path).of("mine", system, ["a", "b"], (0, 5))
    assert answers["b", 5] == "b 5"
    assert sorted(asked) == [("a", 0), ("a", 5), ("b", 0), ("b", 5)]


def test_a_retrained_booster_is_asked_again(tmp_path):
    folder = tmp_path / "booster"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = fingerprint("sft", folder)
    (folder / "config.json").write_text('{"x": 1}')
    assert fingerprint("sft", folder) != before


def test_wrong_number_of_answers_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="mine gave 1 rewrites for 2 prompts"):
        Rewrites(tmp_path).of("mine", lambda p, seed: ["x"], ["a", "b"], (0,))


def test_a_file_of_rewrites_names_its_broken_line(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt": "a", "refined": "b"}) + "\n{}\n")
    with pytest.raises(BadInput, match="r.jsonl:2: needs an object"):
        Rewrites(tmp_path / "w").of("mine", str(tmp_path / "r.jsonl"), ["a"], (0,))


def test_system_names_lead_to_the_work_directory(tmp_path):
    names = ("original", "base", "sft", "dpo_2", "grpo")
    systems = systems_named(
        (*names, "gpt"), {"theirs": "x.jsonl"}, "the rewriter", tmp_path, {"gpt": "a chat model"}
    )
    assert systems.pop("gpt") == "a chat model"
    assert list(systems) == [*names, "theirs"]
    assert (
        systems["original"] is None
        and systems["base"] == "the rewriter"
        and systems["theirs"] == "x.jsonl"
    )
    assert str(systems["dpo_2"]).endswith("round_2/booster")
    assert str(systems["grpo"]).endswith("grpo/booster")
    with pytest.raises(BadInput, match="no system 'gpt'"):
        systems_named(("gpt",), {}, None, tmp_path)
    with pytest.raises(BadInput, match="sft, has its stage been run"):
        fingerprint("sft", systems["sft"])
