"""The mini tokenizers: round trips, saved files, special tokens and the chat template."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from pav_jax.language import chat
from pav_jax.mini import tokenizers as t
from pav_jax.mini.captions import NUM_STYLES, styled_caption, user_prompt
from pav_jax.mini.world import draw_scene

TOKENIZERS = {"t5": t.t5_tokenizer, "clip": t.clip_tokenizer, "rewriter": t.rewriter_tokenizer}


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(12)
    scenes = [draw_scene(rng) for _ in range(200)]
    prompts = [user_prompt(s, rng) for s in scenes]
    return prompts + [styled_caption(s, i % NUM_STYLES, rng) for i, s in enumerate(scenes)]


@pytest.fixture(scope="module", params=TOKENIZERS)
def named_tokenizer(request):
    return request.param, TOKENIZERS[request.param]()


def test_decode_round_trip(named_tokenizer, texts):
    _, tokenizer = named_tokenizer
    strange = ["ein mädchen, 猫 🐕", "<b>1 & 2</b> {{ x }}", "x" * 50]
    for text in texts + strange:
        ids = tokenizer(text)["input_ids"]
        assert t.UNK not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_tokenizer_ignores_case(named_tokenizer):
    _, tokenizer = named_tokenizer
    assert tokenizer("A Red BALL")["input_ids"] == tokenizer("a red ball")["input_ids"]


def test_save_loads_in_transformers(named_tokenizer, texts, tmp_path):
    _, tokenizer = named_tokenizer
    t.save(tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert (again.pad_token_id, again.eos_token_id, again.chat_template) == (
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        tokenizer.chat_template,
    )


def test_special_tokens(named_tokenizer):
    name, tokenizer = named_tokenizer
    ids = tokenizer("a red ball")["input_ids"]
    first, last = {"t5": (None, t.EOS), "clip": (t.BOS, t.EOS), "rewriter": (None, None)}[name]
    assert (ids[0] == t.BOS) == (first == t.BOS) and (ids[-1] == t.EOS) == (last == t.EOS)
    assert tokenizer.pad_token_id == t.PAD and len(tokenizer) <= t.VOCABULARY
    assert [tokenizer.convert_tokens_to_ids(s) for s in t.SPECIALS] == list(range(len(t.SPECIALS)))


def test_tokens_per_word(texts):
    tokenizer = t.rewriter_tokenizer()
    words = sum(len(text.split()) for text in texts)
    assert sum(map(len, tokenizer(texts)["input_ids"])) < 1.5 * words


def test_encode_pads_and_truncates(texts):
    ids = t.encode(t.clip_tokenizer(), [*texts, "a " * 100], 24)
    assert ids.shape == (len(texts) + 1, 24) and ids.dtype == np.int32
    assert (ids[:, 0] == t.BOS).all() and ((ids == t.EOS).sum(1) == 1).all()
    ends = (ids == t.EOS).argmax(1)
    assert (
        all((row[end + 1 :] == t.PAD).all() for row, end in zip(ids, ends, strict=True))
        and ends[-1] == 23
    )


def test_chat_template_instruction():
    tokenizer = t.rewriter_tokenizer()
    question = [{"role": "user", "content": "a red ball falls"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>describe this video in full: a red ball falls<|end|><|assistant|>"
    answered = [*question, {"role": "assistant", "content": "a short video"}]
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    assert whole == text + "a short video<|end|>"


def test_chat_template_matches_chat_module(texts):
    tokenizer = t.rewriter_tokenizer()
    for prompt in texts[:20]:
        messages = chat.user_chat(prompt)
        plain = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert plain == chat.encode(tokenizer, messages)
        assert plain[0] == t.USER and plain[-1] == t.ASSISTANT and plain.count(t.END) == 1
    assert tokenizer.eos_token_id == t.END


@pytest.mark.slow
def test_vocabulary_is_reproducible():
    first = t._vocabulary()
    t._vocabulary.cache_clear()
    assert t._vocabulary() == first
