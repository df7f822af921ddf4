"""Writes a language model as one GGUF file in the layout of llama.cpp's converter; `gguf.py` reads
it back.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md) and the PyPI package `gguf`, which
quantizes and writes.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from pav_jax.checkpoints import gguf_layout, gguf_tokenizers
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
      tokenizer: a fast tokenizer of one of the kinds in `gguf_tokenizers`; its chat template is
        written too.
      name: of the model, for the file's metadata and for messages.
      quantization: of matrices; vectors stay float32. With q8_0 and q4_0, matrices whose rows are
        not a multiple of 32 are written as f16.

    Raises:
      BadInput: the model or its tokenizer has something that GGUF files of this architecture
        cannot say; or the file cannot be written.
    """
    architecture = gguf_layout.architecture_of(config, name)
    if quantization not in QUANTIZATIONS:
        raise BadInput(
            f"quantization={quantization!r}: choose one of {', '.join(QUANTIZATIONS)}",
            field="quantization",
        )
    vocabulary = gguf_tokenizers.read_vocabulary(tokenizer, config.vocab_size, name)
    names = {_gguf_name(architecture, hf_name, name): hf_name for hf_name in tensors}
    try:
        with atomic_file(path) as part:
            writer = GGUFWriter(part, architecture.name)
            _add_config(writer, config, name)
            _add_end_of_turn(writer, config, tokenizer)
            gguf_tokenizers.write_tokenizer(writer, tokenizer, vocabulary)
            if (factors := gguf_layout.rope_factors(config)) is not None:
                writer.add_tensor(gguf_layout.ROPE_FACTORS, factors)
            for gguf_name, hf_name in sorted(names.items()):
                array = np.asarray(tensors[hf_name], np.float32)
                array = architecture.to_gguf(array, hf_name, config)
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


def _gguf_name(architecture: gguf_layout.Architecture, hf_name: str, model: str) -> str:
    if (name := architecture.gguf_name(hf_name)) is None:
        raise BadInput(
            f"{model}: tensor {hf_name!r} cannot be stored in a GGUF file of architecture"
            f" {architecture.name}; export --to=hf",
            source=model,
            field=hf_name,
        )
    return name


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
    gguf_layout.write_rope(writer, config.rope)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_windows(writer, config)


def _add_windows(writer: GGUFWriter, config: DecoderConfig) -> None:
    """The windows of Gemma 3 and the rotary positions of layers that have one."""
    for kind in config.layer_kinds:
        if kind.window is None or kind.rope is None:
            continue
        writer.add_sliding_window(kind.window)
        period = gguf_layout.period(config)
        if period is not None and period != gguf_layout.GEMMA3_PERIOD:
            writer.add_sliding_window_pattern(period)
        if kind.rope.theta != gguf_layout.GEMMA3_LOCAL_THETA:
            writer.add_rope_freq_base_swa(kind.rope.theta)
        return


def _add_end_of_turn(writer: GGUFWriter, config: DecoderConfig, tokenizer: Any) -> None:
    """A second token that ends an answer; GGUF has one field beside the tokenizer's EOS."""
    ids = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    for token_id in ids:
        if token_id not in (None, tokenizer.eos_token_id):
            writer.add_eot_token_id(token_id)
            return
