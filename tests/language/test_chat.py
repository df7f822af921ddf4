"""Prompts to token ids."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.language import chat


def test_encode_chat_matches_transformers(lm):
    messages = [{"role": "user", "content": "a girl is playing <b>guitar</b> 🎸"}]
    expected = lm.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert chat.encode(lm.tokenizer, messages) == expected
    assert lm.prompt_ids(messages[0]["content"]) == expected


def test_encode_plain_text(lm):
    assert lm.tokenizer.decode(chat.encode(lm.tokenizer, "two  dogs\n")) == "two  dogs\n"


@pytest.mark.parametrize("prompt", ["", [], [{"role": "user"}], ["a dog"]])
def test_encode_empty_or_malformed_prompt(lm, prompt):
    with pytest.raises(BadInput):
        chat.encode(lm.tokenizer, prompt)


def test_with_template_broken_template(lm, tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}")
    with pytest.raises(BadInput, match="template"):
        lm.with_template(file)
    file.write_text("{{ raise_exception('no system') }}")
    with pytest.raises(BadInput, match="no system"):
        lm.with_template(file)


def test_with_template_leaves_original_unchanged(lm, tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("rewrite: {{ messages[0]['content'] }}")
    other = lm.with_template(file)
    assert other.tokenizer.decode(other.prompt_ids("a dog")) == "rewrite: a dog"
    assert other.prompt_ids("a dog") != lm.prompt_ids("a dog")
