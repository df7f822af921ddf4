import pytest

from pav_jax.candidates.prompt_sets import read_prompt_set
from pav_jax.errors import BadInput


def test_text_files_have_one_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n  a   dog \n", encoding="utf-8")
    found = read_prompt_set(str(tmp_path / "p.txt"))
    assert found.prompts == ("a cat", "a dog") and found.oracles == (None, None)
    assert found.first(1).prompts == ("a cat",) and found.first(0) == found


def test_json_lines_may_know_the_oracle(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a cat", "oracle": "a film of a cat"}\n{"prompt": "a dog"}\n'
    )
    assert read_prompt_set(str(tmp_path / "p.jsonl")).oracles == ("a film of a cat", None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no prompt in it"),
        ('{"prompt": "x"}\n{"prompt"', r"p.jsonl:2: not valid JSON"),
        ('{"text": "x"}', "needs an object with a `prompt`"),
        ('["x"]', "needs an object"),
        ('{"prompt": "x", "oracle": 3}', "`oracle` must be text"),
        ('{"prompt": "x"}\n{"prompt": " x "}', ":2: .* twice"),
    ],
)
def test_a_broken_set_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_prompt_set(str(tmp_path / "p.jsonl"))


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(BadInput, match="nothing.txt: no such file"):
        read_prompt_set(str(tmp_path / "nothing.txt"))
