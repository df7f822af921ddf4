"""The shipped instruction to rewrite, in the prompt format of every family."""

import copy
import dataclasses

import pytest

from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.shipped_templates import FOLDER, lacks_instruction, shipped_template
from pav_jax.language.thoughts import without_thoughts
from tests.tiny.chat_formats import FORMATS, ChatFormat, chat_tokenizer

INSTRUCTION = "You rewrite short prompts for a text-to-video model."
MESSAGES = [*chat.user_chat("two dogs"), {"role": "assistant", "content": "Two dogs run."}]


@pytest.fixture(params=FORMATS)
def chat_format(request):
    return FORMATS[request.param]


@pytest.fixture
def shipped(chat_format):
    """A tokenizer of the format with the shipped template."""
    tokenizer = chat_tokenizer(chat_format)
    file = shipped_template(tokenizer, chat_format.model_type)
    assert file == FOLDER / f"rewriter_{chat_format.shipped}.jinja"
    tokenizer.chat_template = file.read_text()
    return tokenizer


def test_lacks_instruction_of_general_models_only(chat_format, shipped):
    general = chat_tokenizer(chat_format)
    assert lacks_instruction(general, chat_format.model_type)
    assert not lacks_instruction(shipped, chat_format.model_type)


def test_shipped_template_has_instruction_and_prompt(shipped):
    text = chat.chat_text(shipped, chat.user_chat("two dogs"))
    assert text.count(INSTRUCTION) == 1
    assert text.count("two dogs") == 1
    assert text.index(INSTRUCTION) < text.index("a cat on a red sofa") < text.index("two dogs")
    # the turns of the example are written as those of the chat
    turn = chat.chat_text(shipped, MESSAGES, add_generation_prompt=False)
    example = text[text.index("a cat on a red sofa") : text.index("A fluffy grey cat")]
    assert example.replace("a cat on a red sofa", "two dogs") in turn
    assert turn.startswith(text[: text.index("two dogs")])


def test_shipped_template_is_one_for_transformers(shipped):
    messages = chat.user_chat("two dogs")
    ids = shipped.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.encode(shipped, messages) == ids


def test_encode_has_one_bos(chat_format, shipped):
    templates = (
        shipped.chat_template,
        chat_format.template,
        "{{ bos_token }}{{ bos_token }}x{{ messages[0].content }}",
        "{{ messages[0].content }}",
    )
    for template in templates:
        tokenizer = copy.copy(shipped)
        tokenizer.chat_template = template
        ids = chat.encode(tokenizer, chat.user_chat("two dogs"))
        if chat_format.adds_bos:
            assert ids[0] == tokenizer.bos_token_id != ids[1]
            assert ids.count(tokenizer.bos_token_id) == 1
        plain = chat.encode(tokenizer, "two dogs")
        assert plain == tokenizer("two dogs")["input_ids"]
        if chat_format.adds_bos:
            assert chat.encode(tokenizer, f"{tokenizer.bos_token}two dogs") == plain


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_models_are_told_not_to_think(name):
    tokenizer = chat_tokenizer(FORMATS[name])
    own = chat.chat_text(tokenizer, chat.user_chat("two dogs"))
    tokenizer.chat_template = shipped_template(tokenizer, name).read_text()
    text = chat.chat_text(tokenizer, chat.user_chat("two dogs"))
    ending = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert own.endswith(ending) and text.endswith(ending)


def test_shipped_template_unknown_format():
    plain = dataclasses.replace(FORMATS["llama3"], tokens=())
    with pytest.raises(BadInput, match="formats are llama3, .*jinja file") as error:
        shipped_template(chat_tokenizer(plain), "llama")
    assert error.value.field == "template"


@pytest.mark.parametrize("is_special", [True, False])
def test_decode_answers_keeps_marks_of_thoughts(is_special):
    marks = ("[THINK]", "[/THINK]")
    base = ChatFormat("mistral", "mistral", marks if is_special else (), "<s>", "</s>", True)
    tokenizer = chat_tokenizer(dataclasses.replace(base, plain_tokens=() if is_special else marks))
    answer = tokenizer("[THINK]a cat?[/THINK]two dogs</s>", add_special_tokens=False)["input_ids"]
    endless = tokenizer("a cat, no", add_special_tokens=False)["input_ids"]
    opened = tokenizer("[INST]two dogs[/INST][THINK]")["input_ids"]
    (text,) = chat.decode_answers(tokenizer, [], [answer])
    assert text == "[THINK]a cat?[/THINK]two dogs"
    assert without_thoughts(text) == "two dogs"
    (text,) = chat.decode_answers(tokenizer, opened, [endless])
    assert without_thoughts(text) == ""
    assert chat.decode_answers(tokenizer, [], [endless]) == ["a cat, no"]
