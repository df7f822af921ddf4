"""The tokenizers of the mini models: one byte-level BPE vocabulary with the special tokens of T5,
CLIP or the rewriter."""

import functools
from pathlib import Path

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from pav_jax.mini.captions import NUM_STYLES, caption, styled_caption, user_prompt
from pav_jax.mini.world import draw_scene

SPECIALS = ("<pad>", "</s>", "<unk>", "<s>", "<|user|>", "<|assistant|>", "<|end|>")
PAD, EOS, UNK, BOS, USER, ASSISTANT, END = range(len(SPECIALS))
VOCABULARY = 2048

# The template contains the rewriter's instruction, so that apply_chat_template of transformers
# gives the exact input.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}<|user|>describe this video in full: {{ m['content'] }}<|end|>"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@functools.cache
def _vocabulary() -> str:
    """The trained BPE as JSON. Its texts come from a fixed seed, so that it is the same
    everywhere."""
    rng = np.random.default_rng(1)
    scenes = [draw_scene(rng) for _ in range(4000)]
    texts = [user_prompt(s, rng) for s in scenes] + [caption(s, rng, canonical=0.4) for s in scenes]
    texts += [styled_caption(s, i % NUM_STYLES, rng) for i, s in enumerate(scenes)]
    texts += ["describe this video in full: "] * 50
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIALS),
            show_progress=False,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return bpe.to_str()


def _with_special_tokens(template: str | None, **names) -> PreTrainedTokenizerFast:
    """The vocabulary as a transformers tokenizer that wraps texts in `template`."""
    bpe = Tokenizer.from_str(_vocabulary())
    if template:
        bpe.post_processor = processors.TemplateProcessing(
            single=template,
            special_tokens=[(name, SPECIALS.index(name)) for name in ("<s>", "</s>")],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        **names,
    )


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Ends texts with </s>."""
    return _with_special_tokens("$A </s>", eos_token="</s>", model_max_length=64)


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """Wraps texts in <s> and </s>."""
    return _with_special_tokens(
        "<s> $A </s>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )


def rewriter_tokenizer() -> PreTrainedTokenizerFast:
    """Adds nothing to texts; has the chat template."""
    tokenizer = _with_special_tokens(None, eos_token="<|end|>", model_max_length=256)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the files of the tokenizer."""
    tokenizer.save_pretrained(folder)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> np.ndarray:
    """Token ids, int32 [B, length], truncated and right-padded to `length`."""
    encoding = tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    return np.asarray(encoding["input_ids"], np.int32)
