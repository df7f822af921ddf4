"""Tokenizers in GGUF files: the same tokens of varied texts before and after, or refused."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from pav_jax.checkpoints.gguf_tokenizers import (
    SPLITTINGS,
    StoredTokenizer,
    adds_special,
    build_tokenizer,
    merges_of_scores,
    read_vocabulary,
)
from pav_jax.errors import BadInput

LINES = (
    "a girl is playing guitar; moss-covered stone 3 12 2024 1,000.5 it's I'LL we’ve",
    "naïve time-lapse",
    "cafe\u0301 Ünïcödé 猫が走る красная лиса 👩‍🚀 \u212b \u1e9b\u0323 OPEN-24H #tag <b>",
    "x=y+z $5 ... ?!",
    "(masterpiece:1.2) <|end|> [x] ▁ _under_ ½ ٣٤ 'tis \u200b",
)
WORDS = [word for line in LINES for word in line.split()]
GLUE = (" ", " ", " ", "  ", "   ", "\n", "\n\n", ", ", "-", "", "\t", " \n ")


def varied_texts(count: int) -> list[str]:
    """Texts of words, numbers, signs and scripts with all kinds of spaces between them."""
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        parts = [rng.choice(WORDS) + rng.choice(GLUE) for _ in range(rng.randint(1, 14))]
        texts.append(rng.choice(GLUE) + "".join(parts))
    return ["", " ", *texts]


TEXTS = varied_texts(200)


def trained(pre_tokenizer, normalizer=None, ignore_merges=False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 600 tokens and two added ones."""
    bpe = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    bpe.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        bpe.normalizer = normalizer
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    bpe.add_tokens([AddedToken("<b>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")


def refuse(field: str, problem: str) -> BadInput:
    return BadInput(f"{field} {problem}", field=field)


def back_from_gguf(tokenizer, vocabulary) -> PreTrainedTokenizerFast:
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    ids = {name: getattr(tokenizer, f"{name}_id") for name in names}
    bos, eos = adds_special(tokenizer)
    stored = StoredTokenizer(
        model="gpt2" if vocabulary.pre else "llama",
        pre=vocabulary.pre,
        tokens=vocabulary.tokens,
        kinds=[int(kind) for kind in vocabulary.token_types],
        merges=vocabulary.merges,
        scores=vocabulary.scores,
        special={name: i for name, i in ids.items() if i is not None},
        add_bos=bos,
        add_eos=eos,
        add_space_prefix=False,
        chat_template=None,
    )
    return build_tokenizer(stored, refuse)


def assert_same_tokens(tokenizer, back) -> None:
    assert back(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    for text in TEXTS[:50]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for skip in (False, True):
            expected = tokenizer.decode(ids, skip_special_tokens=skip)
            assert back.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("name", [name for name in SPLITTINGS if name != "llama3"])
def test_read_vocabulary_gives_same_tokens(name):
    splitting = SPLITTINGS[name]
    tokenizer = trained(splitting.pre_tokenizer(), splitting.normalizer, splitting.ignore_merges)
    vocabulary = read_vocabulary(tokenizer, len(tokenizer) + 9, "m")
    assert vocabulary.pre == name
    assert len(vocabulary.tokens) == len(tokenizer) + 9
    assert_same_tokens(tokenizer, back_from_gguf(tokenizer, vocabulary))


def test_splittings_differ_on_varied_texts():
    """The texts tell every splitting from the others, so that a wrong name would be seen."""
    splits = []
    for splitting in {id(each): each for each in SPLITTINGS.values()}.values():
        normalize = splitting.normalizer.normalize_str if splitting.normalizer else str
        split = splitting.pre_tokenizer().pre_tokenize_str
        splits.append([[word for word, _ in split(normalize(text))] for text in TEXTS])
    assert all(a != b for i, a in enumerate(splits) for b in splits[:i])


BYTES = pre.ByteLevel(add_prefix_space=False, use_regex=False)
QWEN2 = SPLITTINGS["qwen2"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        lambda: trained(pre.ByteLevel(add_prefix_space=True)),
        lambda: trained(pre.ByteLevel(add_prefix_space=False), normalizers.NFC()),
        lambda: trained(QWEN2.pre_tokenizer()),
        lambda: trained(QWEN2.pre_tokenizer(), normalizers.NFKC()),
        lambda: trained(QWEN2.pre_tokenizer(), QWEN2.normalizer, ignore_merges=True),
        lambda: trained(SPLITTINGS["llama-bpe"].pre_tokenizer()),
        lambda: trained(pre.Sequence([pre.Split(Regex(r"\p{N}{1,2}"), "isolated"), BYTES])),
        lambda: trained(pre.Sequence([pre.Digits(individual_digits=False), BYTES])),
        lambda: trained(pre.Sequence([pre.Whitespace(), BYTES])),
    ],
)
def test_read_vocabulary_unknown_splitting_is_refused(tokenizer):
    with pytest.raises(BadInput, match="splits texts by") as error:
        read_vocabulary(tokenizer(), 700, "m")
    assert error.value.field == "tokenizer"


def sentencepiece(merge_order=sorted) -> PreTrainedTokenizerFast:
    """A BPE with byte fallback in the form that Gemma has on the Hugging Face Hub."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Replace(" ", "▁")
    words = [text for text in TEXTS if text.isascii()]
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    bpe.train_from_iterator(words, trainer)
    pieces = sorted(bpe.get_vocab(), key=bpe.get_vocab().__getitem__)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    scores = [-float(i) for i in range(len(tokens))]
    merges = merge_order(merges_of_scores(vocabulary, scores))
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    bpe = Tokenizer(model)
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre.Split(" ", "merged_with_previous")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


def test_read_vocabulary_sentencepiece_gives_same_tokens():
    tokenizer = sentencepiece(list)
    vocabulary = read_vocabulary(tokenizer, len(tokenizer), "m")
    assert vocabulary.pre == ""
    assert_same_tokens(tokenizer, back_from_gguf(tokenizer, vocabulary))


def test_read_vocabulary_sentencepiece_merges_without_scores():
    with pytest.raises(BadInput, match="do not follow from scores"):
        read_vocabulary(sentencepiece(lambda merges: merges[::-1]), 1000, "m")
