import pytest

from pav_jax.errors import BadInput
from pav_jax.evaluate import controls


def test_shuffled_moves_every_rewrite():
    for n in range(2, 12):
        prompts = [f"p{i}" for i in range(n)]
        rewrites = {(p, s): f"{p} rewritten {s}" for p in prompts for s in (0, 1)}
        mixed = controls.shuffled(prompts, (0, 1), rewrites)
        assert all(not mixed[p, s].startswith(f"{p} ") for p in prompts for s in (0, 1))
        assert sorted(mixed.values()) == sorted(rewrites.values())


def test_shuffled_single_prompt():
    assert controls.shuffled(["p"], (0,), {("p", 0): "x"}) == {}


def test_best_suffix_highest_mean():
    nan = float("nan")
    assert controls.best_suffix({"a": [1, nan], "b": [0.5, 3], "c": [nan, nan]}) == "b"
    assert controls.best_suffix({"a": [1.0], "b": [1.0]}) == "a"


def test_with_suffix_comma():
    assert controls.with_suffix("a cat runs. ", "4k") == "a cat runs, 4k"


def test_oracle_unknown_caption():
    assert controls.oracle(["p", "q"], ["a caption", None], (7,)) == {("p", 7): "a caption"}


def test_suffixes_file(tmp_path):
    assert len(controls.suffixes()) >= 5
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(BadInput) as caught:
        controls.suffixes(tmp_path / "none.txt")
    assert caught.value.source == str(tmp_path / "none.txt")


def test_shuffled_alternating_prompts():
    prompts = [f"{subject} {i}" for i in range(50) for subject in ("ball", "star", "moon", "ring")]
    mixed = controls.shuffled(prompts, (0,), {(p, 0): p for p in prompts})
    assert (
        sum(text.split()[0] == p.split()[0] for (p, _), text in mixed.items()) < 100
    )  # by chance, 50
