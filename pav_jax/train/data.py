"""Training examples on disk, prepared for batches."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from pav_jax.language.encoder import Encoder, make_encoder
from pav_jax.language.language_model import LanguageModel
from pav_jax.parallel import processes
from pav_jax.parallel.mesh import batch_shards
from pav_jax.storage.addresses import AnyPath
from pav_jax.train import batches, tfds_builders
from pav_jax.train.config import DPOConfig, SFTConfig

BUILDERS = {"sft": tfds_builders.SftPairs, "dpo": tfds_builders.Preferences}


@dataclasses.dataclass(frozen=True)
class ExampleData:
    """Examples on disk, and how they become batches.

    Attributes:
      source: random access to the examples.
      answer_fields: the fields of an example that hold answers.
      lengths: padded lengths, in tokens.
      sizes: tokens of each example's longest row.
      pack_multiple: examples are packed into rows, and a batch has a multiple of this many rows; 0:
        one row per answer.
    """

    source: Sequence[Mapping[str, Any]]
    encoder: Encoder
    answer_fields: tuple[str, ...]
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    pack_multiple: int = 0

    def batches(self, batch_size: int, seed: int | None, columns: Mapping[str, Any] | None = None):
        """Batches of `batch_size` examples over all processes; each process gets its own rows.

        Args:
          seed: of the order; None keeps the order of the file.
          columns: additional arrays with one row per example.
        """
        return batches.make_batches(
            self.source,
            self.encoder,
            self.answer_fields,
            self.lengths,
            batch_size,
            seed,
            columns,
            self.pack_multiple,
            self.sizes,
            (jax.process_index(), jax.process_count()),
        )


def read_data(
    name: str,
    path: str | os.PathLike,
    lm: LanguageModel,
    fields: SFTConfig | DPOConfig,
    folder: AnyPath,
) -> ExampleData:
    """Prepare the examples in the file `path` under `folder`, check each, and print a summary.

    Args:
      name: "sft" or "dpo".

    Examples of whose answers truncation leaves too little are left out.

    Raises:
      BadInput: no example, an empty answer, a token outside the vocabulary, or a tokenizer without
        chat template.
    """
    with processes.first_process_first(f"{name} data"):
        source = tfds_builders.data_source(BUILDERS[name], path, folder / "tfds")
    encoder = make_encoder(lm, fields.max_length, fields.max_prompt_length)
    answer_fields = batches.ANSWER_FIELDS[name]
    survey = batches.survey(source, encoder, answer_fields, path)
    print(f"{name}: {survey}", file=sys.stderr)
    if survey.unusable:
        source = batches.Subset(source, survey.indices)
    if isinstance(fields, SFTConfig) and fields.packing:
        shards = batch_shards(lm.mesh) if lm.mesh is not None else 1
        return ExampleData(
            source,
            encoder,
            answer_fields,
            (fields.max_length,),
            survey.sizes,
            pack_multiple=fields.gradient_accumulation_steps * shards,
        )
    lengths = batches.padded_lengths(fields.length_buckets, survey.longest, fields.max_length)
    return ExampleData(source, encoder, answer_fields, lengths, survey.sizes)
