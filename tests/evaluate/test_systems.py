import json

import pytest

from pav_jax.booster.guard import Guard
from pav_jax.errors import BadInput
from pav_jax.evaluate.systems import RewriteStore, check_systems, fingerprint, resolve_systems
from pav_jax.records import Refinement


def test_rewrites_are_recorded(tmp_path):
    requests = []

    def system(prompts, seed):
        requests.extend((p, seed) for p in prompts)
        return [f"{p} {seed}" for p in prompts]

    for _ in range(2):
        answers = RewriteStore(tmp_path).get_or_create("mine", system, ["a", "b"], (0, 5))
    assert answers["b", 5] == "b 5"
    assert sorted(requests) == [("a", 0), ("a", 5), ("b", 0), ("b", 5)]


def test_fingerprint_of_changed_booster(tmp_path):
    folder = tmp_path / "booster"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = fingerprint("sft", folder)
    (folder / "config.json").write_text('{"x": 1}')
    assert fingerprint("sft", folder) != before


def test_rewrites_wrong_number(tmp_path):
    with pytest.raises(BadInput) as caught:
        RewriteStore(tmp_path).get_or_create("mine", lambda p, seed: ["x"], ["a", "b"], (0,))
    assert caught.value.field == "evaluate.systems"


def test_rewrites_broken_file(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps({"prompt": "a", "refined": "b"}) + "\n{}\n")
    with pytest.raises(BadInput) as caught:
        RewriteStore(tmp_path / "w").get_or_create("mine", str(tmp_path / "r.jsonl"), ["a"], (0,))
    assert caught.value.source == f"{tmp_path / 'r.jsonl'}:2"


def test_resolve_systems(tmp_path):
    names = ("original", "base", "sft", "dpo_2", "grpo")
    systems = resolve_systems(
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
    with pytest.raises(BadInput) as caught:
        resolve_systems(("gpt",), {}, None, tmp_path)
    assert caught.value.field == "evaluate.systems"
    for check in (lambda: fingerprint("sft", systems["sft"]), lambda: check_systems(systems)):
        with pytest.raises(BadInput) as caught:
            check()
        assert caught.value.source == str(systems["sft"])


class Guarded:
    """A booster that keeps some prompts."""

    def refine(self, prompts, num_return_sequences=1, seed=0):
        return [[Refinement(p, p, seed, "m", reverted=p == "b")] for p in prompts]


def test_reverted_rewrites_are_recorded(tmp_path):
    for _ in range(2):
        store = RewriteStore(tmp_path)
        assert store.get_or_create("mine", Guarded(), ["a", "b"], (0, 5))["b", 5] == "b"
        assert store.reverted["mine"] == {("b", 0), ("b", 5)}
        store.get_or_create("mute", lambda prompts, seed: [" "] * len(prompts), ["a"], (0,))
        assert store.reverted["mute"] == {("a", 0)}


def test_rewrites_of_another_guard_are_made_again(tmp_path):
    requests = []

    def system(prompts, seed):
        requests.extend(prompts)
        return [f"{p}." for p in prompts]

    for guard in (Guard("off"), Guard("on"), Guard("on")):
        RewriteStore(tmp_path, guard).get_or_create("mine", system, ["a"], (0,))
    assert requests == ["a", "a"]
