"""A Llama-architecture model into one GGUF file, as llama.cpp's converter lays it out; `gguf.py`
reads it back.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md) and the PyPI package `gguf`, which
quantises and writes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize

from pav_jax.checkpoints.gguf import LAYER_TENSORS, LLAMA3_SPLIT, TENSORS
from pav_jax.errors import BadInput
from pav_jax.models.llama import LlamaConfig

QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCK = 32  # numbers along a row that share a scale, in q8_0 and q4_0


def write_gguf(
    path: str | os.PathLike,
    config: LlamaConfig,
    tensors: Mapping[str, np.ndarray],
    tokenizer: Any,
    name: str = "model",
    quantization: str = "bf16",
) -> None:
    """Writes the file `path`, which appears whole.

    Args:
      tensors: {Hugging Face name: array in the Hugging Face layout}.
      tokenizer: a fast tokenizer with byte-level BPE; its chat template goes along.
      quantization: of matrices; vectors stay float32. q8_0 and q4_0 leave matrices whose rows are
        no multiple of 32.

    Raises:
      BadInput: rescaled rotary positions, biases, another kind of tokenizer, or no room on the
        disk.
    """
    if config.rope_scaling is not None:
        raise BadInput(
            f"{name}: rope_scaling is not written to GGUF; export --to=hf and convert with"
            " llama.cpp"
        )
    if quantization not in QUANTIZATIONS:
        raise BadInput(f"quantization={quantization!r} is none of {', '.join(QUANTIZATIONS)}")
    part = Path(f"{os.fspath(path)}.part")
    vocabulary = _vocabulary(tokenizer, name)
    renamed = {_gguf_name(hf, name): (hf, array) for hf, array in tensors.items()}
    try:
        writer = GGUFWriter(part, "llama")
        _sizes(writer, config, name)
        _tokenizer(writer, tokenizer, vocabulary)
        for new, (hf, array) in sorted(renamed.items()):
            array = np.asarray(array, np.float32)
            if "q_proj" in hf or "k_proj" in hf:
                heads = config.num_attention_heads if "q_proj" in hf else config.num_key_value_heads
                array = _permute(array, heads)
            kind = _kind(array, quantization)
            writer.add_tensor(new, quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, path)
    except OSError as error:
        raise BadInput(
            f"{path}: could not be written ({error.strerror or error}); make room and run again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _gguf_name(hf: str, model: str) -> str:
    names = {theirs: ours for ours, theirs in TENSORS.items()}
    parts = {theirs: ours for ours, theirs in LAYER_TENSORS.items()}
    if hf in names:
        return names[hf]
    _, _, layer, rest = hf.split(".", 3) if hf.startswith("model.layers.") else ("", "", "", hf)
    stem, _, kind = rest.rpartition(".")
    if stem not in parts or kind != "weight":
        raise BadInput(f"{model}: tensor {hf!r} has no place in a GGUF file of architecture llama")
    return f"blk.{layer}.{parts[stem]}.weight"


def _kind(array: np.ndarray, quantization: str) -> GGMLQuantizationType:
    if array.ndim < 2:
        return GGMLQuantizationType.F32
    if quantization.startswith("q") and array.shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[quantization.upper()]


def _permute(array: np.ndarray, heads: int) -> np.ndarray:
    """The halves that rotary positions pair, interleaved: the inverse of `gguf._unpermute`."""
    half = array.shape[0] // heads // 2
    return array.reshape(heads, 2, half, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _sizes(writer: GGUFWriter, c: LlamaConfig, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)


def _vocabulary(tokenizer: Any, name: str) -> dict[str, Any]:
    """{"tokens", "kinds", "merges", "pre"} of a byte-level BPE."""
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    kind, pre = made["model"]["type"], json.dumps(made["pre_tokenizer"] or {}, ensure_ascii=False)
    if kind != "BPE" or "ByteLevel" not in pre:
        raise BadInput(
            f"{name}: its tokenizer is {kind}, GGUF is written for byte-level BPE only; export"
            " --to=hf"
        )
    if (
        made["normalizer"] or '"add_prefix_space": true' in pre
    ):  # the same words would become other tokens
        raise BadInput(
            f"{name}: its tokenizer changes a text before it cuts it (normalizer, prefix space),"
            " which GGUF cannot say; export --to=hf"
        )
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in made["model"]["merges"]
    ]
    special = {token["id"] for token in made["added_tokens"] if token["special"]}
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = [TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))]
    llama3 = json.dumps(LLAMA3_SPLIT, ensure_ascii=False) in pre
    split = "llama-bpe" if llama3 else "smollm" if "Digits" in pre else "gpt-2"
    return {"tokens": tokens, "kinds": kinds, "merges": merges, "pre": split}


def _tokenizer(writer: GGUFWriter, tokenizer: Any, vocabulary: Mapping[str, Any]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["kinds"])
    writer.add_token_merges(vocabulary["merges"])
    for token_id, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if token_id is not None:
            add(token_id)
    starts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(bool(starts and tokenizer.bos_token_id is not None))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
