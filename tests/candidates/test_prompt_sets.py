import pytest

from pav_jax.candidates.prompt_sets import read_prompt_set, read_sets
from pav_jax.errors import BadInput


def test_read_prompt_set_text(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n  a   dog \n", encoding="utf-8")
    prompt_set = read_prompt_set(str(tmp_path / "p.txt"))
    assert prompt_set.prompts == ("a cat", "a dog")
    assert prompt_set.oracles == (None, None)
    assert prompt_set.first(1).prompts == ("a cat",)
    assert prompt_set.first(None) == prompt_set


def test_read_prompt_set_oracle(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a cat", "oracle": "a film of a cat"}\n{"prompt": "a dog"}\n'
    )
    assert read_prompt_set(str(tmp_path / "p.jsonl")).oracles == ("a film of a cat", None)


@pytest.mark.parametrize(
    "text, line, field",
    [
        ("", "", None),
        ('{"prompt": "x"}\n{"prompt"', ":2", None),
        ('{"text": "x"}', ":1", "prompt"),
        ('["x"]', ":1", "prompt"),
        ('{"prompt": "x", "oracle": 3}', ":1", "oracle"),
        ('{"prompt": "x"}\n{"prompt": " x "}', "", None),
    ],
)
def test_read_prompt_set_broken(tmp_path, text, line, field):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_prompt_set(str(path))
    assert caught.value.source == f"{path}{line}"
    assert caught.value.field == field


def test_read_prompt_set_missing(tmp_path):
    with pytest.raises(BadInput) as caught:
        read_prompt_set(str(tmp_path / "nothing.txt"))
    assert caught.value.source == str(tmp_path / "nothing.txt")


def test_read_sets(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    sets = read_sets({"b": str(tmp_path / "p.txt"), "a": str(tmp_path / "p.txt")}, 1)
    assert list(sets) == ["a", "b"] and sets["a"].prompts == ("a cat",)
    with pytest.raises(BadInput) as caught:
        read_sets({})
    assert caught.value.field == "evaluate.prompts"
