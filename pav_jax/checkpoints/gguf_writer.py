"""Writes a Llama-architecture model as one GGUF file in the layout of llama.cpp's converter;
`gguf.py` reads it back.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md) and the PyPI package `gguf`, which
quantizes and writes.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize

from pav_jax.checkpoints.gguf import LAYER_TENSORS, LLAMA3_SPLIT, TENSORS
from pav_jax.errors import BadInput
from pav_jax.models.decoder import DecoderConfig
from pav_jax.storage.files import atomic_file

QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCK = 32  # elements along a row that share a scale, in q8_0 and q4_0


def write_gguf(
    path: str | os.PathLike,
    config: DecoderConfig,
    tensors: Mapping[str, np.ndarray],
    tokenizer: Any,
    name: str = "model",
    quantization: str = "bf16",
) -> None:
    """Write the file `path` atomically.

    Args:
      tensors: {Hugging Face name: array in the Hugging Face layout}.
      tokenizer: a fast tokenizer with byte-level BPE; its chat template is written too.
      name: of the model, for the file's metadata and for messages.
      quantization: of matrices; vectors stay float32. With q8_0 and q4_0, matrices whose rows are
        not a multiple of 32 are written as f16.

    Raises:
      BadInput: rescaled rotary positions, biases or another kind of tokenizer, which GGUF files of
        this architecture do not have; or the file cannot be written.
    """
    if config.rope.scaling is not None:
        raise BadInput(
            f"{name}: rope_scaling is not supported in GGUF; export --to=hf and convert with"
            " llama.cpp",
            source=name,
            field="rope_scaling",
        )
    if quantization not in QUANTIZATIONS:
        raise BadInput(
            f"quantization={quantization!r}: choose one of {', '.join(QUANTIZATIONS)}",
            field="quantization",
        )
    vocabulary = _vocabulary(tokenizer, name)
    hf_names = {_gguf_name(hf_name, name): hf_name for hf_name in tensors}
    try:
        with atomic_file(path) as part:
            writer = GGUFWriter(part, "llama")
            _add_config(writer, config, name)
            _add_tokenizer(writer, tokenizer, vocabulary)
            for gguf_name, hf_name in sorted(hf_names.items()):
                array = _to_gguf(np.asarray(tensors[hf_name], np.float32), hf_name, config)
                kind = _quantization_type(array, quantization)
                data = quantize(np.ascontiguousarray(array), kind)
                writer.add_tensor(gguf_name, data, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise BadInput(
            f"{path}: could not be written ({error.strerror or error}); free disk space and run"
            " again",
            source=path,
        ) from error


# ------------------------------------------------------------------------------------------ tensors


def _gguf_name(hf_name: str, model: str) -> str:
    names = {hf: gguf for gguf, hf in TENSORS.items()}
    modules = {hf: gguf for gguf, hf in LAYER_TENSORS.items()}
    if hf_name in names:
        return names[hf_name]
    if hf_name.startswith("model.layers."):
        _, _, layer, rest = hf_name.split(".", 3)
        module, _, kind = rest.rpartition(".")
        if module in modules and kind == "weight":
            return f"blk.{layer}.{modules[module]}.weight"
    raise BadInput(
        f"{model}: tensor {hf_name!r} cannot be stored in a GGUF file of architecture llama; export"
        " --to=hf",
        source=model,
        field=hf_name,
    )


def _to_gguf(array: np.ndarray, hf_name: str, config: DecoderConfig) -> np.ndarray:
    """Put the two rows that rotary positions rotate side by side: the inverse of
    `gguf._unpermute`."""
    if "q_proj" in hf_name:
        heads = config.num_attention_heads
    elif "k_proj" in hf_name:
        heads = config.num_key_value_heads
    else:
        return array
    half = array.shape[0] // heads // 2
    return array.reshape(heads, 2, half, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _quantization_type(array: np.ndarray, quantization: str) -> GGMLQuantizationType:
    if array.ndim < 2:
        return GGMLQuantizationType.F32
    if quantization.startswith("q") and array.shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[quantization.upper()]


# ----------------------------------------------------------------------------------------- metadata


def _add_config(writer: GGUFWriter, config: DecoderConfig, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
    """A byte-level BPE in GGUF's terms."""

    tokens: list[str]
    token_types: list[TokenType]
    merges: list[str]
    pre: str  # how a text is split into words


def _vocabulary(tokenizer: Any, name: str) -> _Vocabulary:
    """Read the vocabulary of a fast tokenizer.

    Raises:
      BadInput: not a byte-level BPE that GGUF can describe.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = spec["model"]["type"]
    pre_tokenizer = json.dumps(spec["pre_tokenizer"] or {}, ensure_ascii=False)
    if kind != "BPE" or "ByteLevel" not in pre_tokenizer:
        raise BadInput(
            f"{name}: its tokenizer is {kind}, but GGUF export supports byte-level BPE only; export"
            " --to=hf",
            source=name,
            field="tokenizer",
        )
    # without these steps the same text would give other tokens
    if spec["normalizer"] or '"add_prefix_space": true' in pre_tokenizer:
        raise BadInput(
            f"{name}: its tokenizer normalizes texts or adds a space in front, which GGUF cannot"
            " describe; export --to=hf",
            source=name,
            field="tokenizer",
        )
    merges = spec["model"]["merges"]
    special = {token["id"] for token in spec["added_tokens"] if token["special"]}
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return _Vocabulary(
        tokens,
        [TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))],
        [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        _split_name(pre_tokenizer),
    )


def _split_name(pre_tokenizer: str) -> str:
    """The value of tokenizer.ggml.pre for a pre-tokenizer's JSON."""
    if json.dumps(LLAMA3_SPLIT, ensure_ascii=False) in pre_tokenizer:
        return "llama-bpe"
    return "smollm" if "Digits" in pre_tokenizer else "gpt-2"


def _add_tokenizer(writer: GGUFWriter, tokenizer: Any, vocabulary: _Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.token_types)
    writer.add_token_merges(vocabulary.merges)
    for token_id, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if token_id is not None:
            add(token_id)
    has_bos = tokenizer.bos_token_id is not None
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(has_bos and first == [tokenizer.bos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
