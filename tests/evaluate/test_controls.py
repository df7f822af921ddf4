import pytest

from pav_jax.errors import BadInput
from pav_jax.evaluate import controls


def test_no_prompt_keeps_its_own_rewrite_when_shuffled():
    for n in range(2, 12):
        prompts = [f"p{i}" for i in range(n)]
        rewrites = {(p, s): f"{p} rewritten {s}" for p in prompts for s in (0, 1)}
        mixed = controls.shuffled(prompts, (0, 1), rewrites)
        assert all(not mixed[p, s].startswith(f"{p} ") for p in prompts for s in (0, 1))
        assert sorted(mixed.values()) == sorted(rewrites.values())


def test_one_prompt_cannot_be_shuffled():
    assert controls.shuffled(["p"], (0,), {("p", 0): "x"}) == {}


def test_the_best_suffix_has_the_highest_mean_of_what_is_known():
    nan = float("nan")
    assert controls.best_suffix({"a": [1, nan], "b": [0.5, 3], "c": [nan, nan]}) == "b"
    assert controls.best_suffix({"a": [1.0], "b": [1.0]}) == "a"


def test_a_suffix_joins_with_one_comma():
    assert controls.with_suffix("a cat runs. ", "4k") == "a cat runs, 4k"


def test_oracles_are_used_only_where_known():
    assert controls.oracle(["p", "q"], ["a caption", None], (7,)) == {("p", 7): "a caption"}


def test_the_shipped_suffixes_are_general_and_a_file_without_any_is_reported(tmp_path):
    assert len(controls.suffixes()) >= 5
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(BadInput, match="none.txt"):
        controls.suffixes(tmp_path / "none.txt")


def test_prompts_that_come_in_turns_are_shuffled_too():
    prompts = [f"{subject} {i}" for i in range(50) for subject in ("ball", "star", "moon", "ring")]
    mixed = controls.shuffled(prompts, (0,), {(p, 0): p for p in prompts})
    assert (
        sum(text.split()[0] == p.split()[0] for (p, _), text in mixed.items()) < 100
    )  # by chance, 50
