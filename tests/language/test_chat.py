"""Prompts become the token ids that plain transformers gives."""

import pytest

from pav_jax.errors import BadInput
from pav_jax.language import chat


def test_a_chat_gives_the_ids_of_transformers_own_template_call(lm):
    messages = [{"role": "user", "content": "a girl is playing <b>guitar</b> 🎸"}]
    want = lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.encode(lm.tokenizer, messages) == want == lm.prompt_ids(messages[0]["content"])


def test_plain_text_is_taken_as_it_is(lm):
    assert lm.tokenizer.decode(chat.encode(lm.tokenizer, "two  dogs\n")) == "two  dogs\n"


@pytest.mark.parametrize("prompt", ["", [], [{"role": "user"}], ["a dog"]])
def test_nothing_to_continue_is_refused(lm, prompt):
    with pytest.raises(BadInput):
        chat.encode(lm.tokenizer, prompt)


def test_a_broken_template_is_one_clear_line(lm, tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}")
    with pytest.raises(BadInput, match="template"):
        lm.with_template(file)
    file.write_text("{{ raise_exception('no system') }}")
    with pytest.raises(BadInput, match="no system"):
        lm.with_template(file)


def test_a_template_file_replaces_the_models_own_and_leaves_the_first_model_alone(lm, tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("rewrite: {{ messages[0]['content'] }}")
    other = lm.with_template(file)
    assert other.tokenizer.decode(other.prompt_ids("a dog")) == "rewrite: a dog"
    assert other.prompt_ids("a dog") != lm.prompt_ids("a dog")
