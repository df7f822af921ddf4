"""Tokenizers in GGUF files, both ways: the few that can be described exactly; others are refused.

A file names how a text is split into words (`tokenizer.ggml.pre`) and does not describe it. So a
name is written only for a tokenizer that does exactly what llama.cpp does under it (src/
llama-vocab.cpp), with the normalizer that models of that name have on the Hugging Face Hub.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from pav_jax.errors import BadInput

BYTE_LEVEL = "gpt2"  # values of tokenizer.ggml.model
SENTENCEPIECE = "llama"
SPACE = "\u2581"  # SentencePiece's
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# Hugging Face's name of a special token -> its key in tokenizer.ggml.<key>_token_id
SPECIAL_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}
# with these, llama.cpp ends an answer even if no field of the file says so
END_OF_TURN = ("<end_of_turn>", "<|eot_id|>", "<|im_end|>")
Refuse = Callable[[str, str], BadInput]  # (field, problem) -> the error


@dataclasses.dataclass(frozen=True)
class Splitting:
    """What a value of `tokenizer.ggml.pre` means.

    Attributes:
      patterns: texts are split by each in turn; what lies between matches is kept, too.
      gpt2_words: split by GPT-2's pattern after them.
      normalizer: of texts, before they are split.
      ignore_merges: a word that is a token is not split further.
    """

    patterns: tuple[str, ...] = ()
    gpt2_words: bool = False
    normalizer: Any = None
    ignore_merges: bool = False
    digits: bool = False

    def pre_tokenizer(self) -> Any:
        """Return it as `tokenizers` has it."""
        steps: list[Any] = [
            pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns
        ]
        if self.digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2_words))
        return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)

    def matches(self, spec: dict[str, Any]) -> bool:
        """Whether a tokenizer.json splits, normalizes and merges so."""
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = self.pre_tokenizer()
        if self.normalizer is not None:
            model.normalizer = self.normalizer
        own = json.loads(model.to_str())
        return (
            _without_offsets(spec["pre_tokenizer"]) == _without_offsets(own["pre_tokenizer"])
            and spec["normalizer"] == own["normalizer"]
            and bool(spec["model"].get("ignore_merges")) == self.ignore_merges
        )


GPT2 = Splitting(gpt2_words=True)
LLAMA3 = Splitting((rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{OTHERS}",), ignore_merges=True)
SPLITTINGS = {
    "gpt-2": GPT2,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "smollm": Splitting(gpt2_words=True, digits=True),
    "qwen2": Splitting(
        (rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{OTHERS}",), normalizer=normalizers.NFC()
    ),
    # of llama.cpp, for files that name none
    "default": Splitting(
        (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"),
    ),
}


def _without_offsets(spec: Any) -> Any:
    """A pre-tokenizer without `trim_offsets`, which decides no token; nested sequences joined."""
    if spec is None:
        return []
    if spec["type"] == "Sequence":
        return [step for each in spec["pretokenizers"] for step in _without_offsets(each)]
    return [{name: value for name, value in spec.items() if name != "trim_offsets"}]


# ------------------------------------------------------------------------------------------ reading


@dataclasses.dataclass(frozen=True)
class StoredTokenizer:
    """The fields of a file, whose types were checked."""

    model: str
    pre: str
    tokens: Sequence[str]
    kinds: Sequence[int]
    merges: Sequence[str]
    scores: Sequence[float]
    special: dict[str, int]  # Hugging Face's name -> id
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None


def build_tokenizer(stored: StoredTokenizer, refuse: Refuse) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a file, with its special tokens and chat template.

    Raises:
      BadInput: another kind of tokenizer, or its merges do not fit its tokens.
    """
    if stored.model == BYTE_LEVEL:
        bpe = _byte_level(stored, refuse)
    elif stored.model == SENTENCEPIECE:
        bpe = _sentencepiece(stored, refuse)
    else:
        raise refuse(
            "tokenizer.ggml.model",
            f"is {stored.model!r}; supported are byte-level BPE ({BYTE_LEVEL!r}) and SentencePiece"
            f" BPE ({SENTENCEPIECE!r})",
        )
    added = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    for token, kind in zip(stored.tokens, stored.kinds, strict=False):
        if kind in added:  # one by one: a list would be sorted by whether they are special
            add = bpe.add_special_tokens if added[TokenType(kind)] else bpe.add_tokens
            add([AddedToken(token, special=added[TokenType(kind)], normalized=False)])
    special = {name: stored.tokens[i] for name, i in stored.special.items()}
    first = [special["bos_token"]] if stored.add_bos and "bos_token" in special else []
    last = [special["eos_token"]] if stored.add_eos and "eos_token" in special else []
    if first or last:
        bpe.post_processor = TemplateProcessing(
            single=" ".join([*first, "$A", *last]),
            special_tokens=[(token, stored.tokens.index(token)) for token in {*first, *last}],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, clean_up_tokenization_spaces=False, **special
    )
    tokenizer.chat_template = stored.chat_template
    return tokenizer


def _vocabulary(stored: StoredTokenizer) -> dict[str, int]:
    """Tokens by their text, without those that only fill up the embeddings."""
    count = len(stored.tokens)
    while count and stored.tokens[count - 1] == f"[PAD{count - 1}]":
        count -= 1
    return {token: i for i, token in enumerate(stored.tokens[:count])}


def _byte_level(stored: StoredTokenizer, refuse: Refuse) -> Tokenizer:
    if stored.pre not in SPLITTINGS:
        raise refuse(
            "tokenizer.ggml.pre", f"is {stored.pre!r}; supported are {', '.join(SPLITTINGS)}"
        )
    splitting = SPLITTINGS[stored.pre]
    merges: Any = [tuple(merge.split(" ")) for merge in stored.merges]
    try:
        bpe = Tokenizer(
            models.BPE(_vocabulary(stored), merges, ignore_merges=splitting.ignore_merges)
        )
    except Exception as error:  # tokenizers raises nothing narrower
        raise refuse(
            "tokenizer.ggml.merges", f"do not fit the tokens ({error}); download the file again"
        ) from error
    bpe.pre_tokenizer = splitting.pre_tokenizer()
    if splitting.normalizer is not None:
        bpe.normalizer = splitting.normalizer
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _sentencepiece(stored: StoredTokenizer, refuse: Refuse) -> Tokenizer:
    """SentencePiece's BPE with byte fallback, as Gemma has it."""
    if stored.add_space_prefix:
        raise refuse(
            "tokenizer.ggml.add_space_prefix",
            "adds a space in front of texts, which is not supported; use the original folder",
        )
    if len(stored.scores) != len(stored.tokens):
        raise refuse("tokenizer.ggml.scores", "must be one per token; download the file again")
    vocabulary = _vocabulary(stored)
    unknown = stored.special.get("unk_token")
    merges: Any = merges_of_scores(vocabulary, stored.scores)
    bpe = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            unk_token=None if unknown is None else stored.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    bpe.normalizer = normalizers.Replace(" ", SPACE)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return bpe


def merges_of_scores(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return the merges, first to last, of SentencePiece's BPE, which joins the pair of the highest
    score; pairs that make the same token are ordered by the ids of their parts."""
    merges = []
    for token, token_id in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                merges.append((-scores[token_id], token_id, left, right, cut, token))
    return [(token[:cut], token[cut:]) for *_, cut, token in sorted(merges)]


# ------------------------------------------------------------------------------------------ writing


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in GGUF's terms; `pre` is empty for SentencePiece's BPE."""

    tokens: list[str]
    token_types: list[TokenType]
    merges: list[str]
    pre: str
    scores: list[float]


def read_vocabulary(tokenizer: Any, size: int, name: str) -> Vocabulary:
    """Describe a fast tokenizer in GGUF's terms.

    Args:
      size: rows of the embeddings; tokens are filled up to as many.
      name: of the model, for messages.

    Raises:
      BadInput: the file's reader would not split every text into the same tokens.
    """

    def refuse(problem: str) -> BadInput:
        return BadInput(
            f"{name}: its tokenizer {problem}, which GGUF cannot describe; export --to=hf",
            source=name,
            field="tokenizer",
        )

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    _check_plain(spec, tokenizer, refuse)
    count = len(tokenizer)
    tokens = [
        text if text is not None else f"[PAD{i}]"
        for i, text in enumerate(tokenizer.convert_ids_to_tokens(range(count)))
    ]
    types = [TokenType.NORMAL] * count
    for token in spec["added_tokens"]:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        types[token["id"]] = kind
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in spec["model"]["merges"]]
    scores: list[float] = []
    pre = ""
    if spec["model"].get("byte_fallback"):
        scores = _scores(spec, tokens, merges, types, refuse)
    else:
        pre = _splitting(spec, refuse)
    tokens += [f"[PAD{i}]" for i in range(count, size)]
    types += [TokenType.UNUSED] * (size - count)
    scores += [-1e9] * (size - count if scores else 0)
    return Vocabulary(tokens, types, [" ".join(merge) for merge in merges], pre, scores)


def _check_plain(spec: dict[str, Any], tokenizer: Any, refuse: Callable[[str], BadInput]) -> None:
    """Refuse what no kind of tokenizer in GGUF has."""
    model = spec["model"]
    if model["type"] != "BPE":
        raise refuse(f"is {model['type']}")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise refuse(f"sets {option}")
    for token in spec["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise refuse(f"strips spaces around {token['content']!r}")
        if token["normalized"] and " " in token["content"]:
            raise refuse(f"normalizes {token['content']!r}")
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    bos, eos = adds_special(tokenizer)
    first = [tokenizer.bos_token_id] if bos else []
    if tokenizer("a")["input_ids"] != first + plain + ([tokenizer.eos_token_id] if eos else []):
        raise refuse("adds other tokens than BOS and EOS to texts")


def _splitting(spec: dict[str, Any], refuse: Callable[[str], BadInput]) -> str:
    """The value of tokenizer.ggml.pre."""
    for pre, splitting in SPLITTINGS.items():
        if splitting.matches(spec):
            return pre
    steps = [str(step.get("type")) for step in _without_offsets(spec["pre_tokenizer"])]
    normalizer = (spec["normalizer"] or {}).get("type", "no normalizer")
    raise refuse(
        f"splits texts by {', '.join(steps) or 'nothing'} with {normalizer}, unlike the known"
        f" {', '.join(SPLITTINGS)}"
    )


def _scores(
    spec: dict[str, Any],
    tokens: list[str],
    merges: list[tuple[str, ...]],
    types: list[TokenType],
    refuse: Callable[[str], BadInput],
) -> list[float]:
    """The scores of SentencePiece's BPE whose merges these are; sets the types of bytes."""
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if spec["normalizer"] != normalizer or _splits_words(spec["pre_tokenizer"]):
        raise refuse("normalizes or splits texts unlike Gemma's")
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    scores = [-float(ranks.get(token, len(merges))) for token in tokens]
    if merges_of_scores(spec["model"]["vocab"], scores) != merges:
        raise refuse("has merges that do not follow from scores of its tokens")
    unknown = spec["model"].get("unk_token")
    for i, token in enumerate(tokens):
        if token == unknown:
            types[i] = TokenType.UNKNOWN
        elif len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">"):
            types[i] = TokenType.BYTE
    return scores


def _splits_words(spec: Any) -> bool:
    """Whether a pre-tokenizer does anything to a text without spaces."""
    without = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    return spec is not None and {k: spec.get(k) for k in without} != without


def adds_special(tokenizer: Any) -> tuple[bool, bool]:
    """Return whether a tokenizer puts BOS before texts, and EOS after them."""
    ids = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    extra = len(ids) - len(plain)
    bos = extra > 0 and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    eos = extra > bos and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id
    return bos, eos


def write_tokenizer(writer: GGUFWriter, tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Add a tokenizer's metadata to a file."""
    writer.add_tokenizer_model(BYTE_LEVEL if vocabulary.pre else SENTENCEPIECE)
    writer.add_tokenizer_pre(vocabulary.pre or "default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.token_types)
    if vocabulary.pre:
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(False)
    for token_id, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if token_id is not None:
            add(token_id)
    bos, eos = adds_special(tokenizer)
    writer.add_add_bos_token(bos)
    writer.add_add_eos_token(eos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
