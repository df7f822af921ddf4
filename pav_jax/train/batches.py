"""From pairs of texts to padded batches of token ids; the order depends on (seed, step) only."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from pav_jax.errors import BadInput
from pav_jax.language.encoder import EncodedExample, Encoder

ANSWER_FIELDS = {"sft": ("refined",), "dpo": ("chosen", "rejected")}
LENGTH_MULTIPLE = 16  # tokens; the longest example is rounded up to it where no buckets are given


@dataclasses.dataclass(frozen=True)
class Survey:
    """Sizes of all usable examples.

    Attributes:
      indices: of the usable examples.
      sizes: tokens of each usable example's longest row.
      truncated_prompts, truncated_answers: numbers of examples.
      unusable: number of examples of whose answers truncation leaves too little.
    """

    indices: tuple[int, ...]
    sizes: tuple[int, ...]
    truncated_prompts: int
    truncated_answers: int
    unusable: int

    @property
    def num_examples(self) -> int:
        """The number of usable examples."""
        return len(self.sizes)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.sizes)

    def __str__(self) -> str:
        text = f"{self.num_examples} examples, at most {self.longest} tokens"
        if self.truncated_prompts:
            text += f", {self.truncated_prompts} prompts truncated on the left"
        if self.truncated_answers:
            text += f", {self.truncated_answers} answers truncated"
        if self.unusable:
            text += f", {self.unusable} left out (truncated answers too short or equal)"
        return text


def survey(
    source: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    answer_fields: Sequence[str],
    path: str | os.PathLike,
) -> Survey:
    """Read and check every example.

    Args:
      path: the file of the examples, for messages.

    Raises:
      BadInput: an empty answer, or a token outside the model's vocabulary; names file and line. Or
        no example is usable.
    """
    indices = []
    sizes = []
    truncated_prompts = 0
    truncated_answers = 0
    for index in range(len(source)):
        example = source[index]
        prompt, answers = _texts(example, answer_fields)
        location = f"{path}:{int(example['line'])}"
        for field, text in zip(answer_fields, answers, strict=True):
            if not text.strip():
                raise BadInput(
                    f"{location}: {field!r} is empty; delete the line or write an answer",
                    source=path,
                    field=field,
                )
        encoded = encoder.encode(prompt, answers)
        largest = max(int(row.max()) for row in encoded.rows)
        if largest >= encoder.vocab_size:
            raise BadInput(
                f"{location}: token {largest} is outside the model's vocabulary of"
                f" {encoder.vocab_size}; use the tokenizer that belongs to the model",
                source=path,
            )
        if encoded.is_usable:
            indices.append(index)
            sizes.append(max(map(len, encoded.rows)))
        truncated_prompts += int(encoded.prompt_truncated)
        truncated_answers += int(encoded.answer_truncated)
    if not indices:
        raise BadInput(
            f"{path}: no example has enough of its answer within max_length={encoder.max_length}"
            " tokens; raise max_length or lower max_prompt_length",
            source=path,
            field="max_length",
        )
    return Survey(
        tuple(indices),
        tuple(sizes),
        truncated_prompts,
        truncated_answers,
        unusable=len(source) - len(indices),
    )


class Subset(Sequence):
    """Some of the examples of a source."""

    def __init__(self, source: Sequence[Mapping[str, Any]], indices: Sequence[int]):
        """`indices`: of the examples, in order."""
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        return self._source[self._indices[index]]


def _texts(example: Mapping[str, Any], answer_fields: Sequence[str]) -> tuple[str, list[str]]:
    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    return text(example["prompt"]), [text(example[field]) for field in answer_fields]


def padded_lengths(configured: Sequence[int], longest: int, max_length: int) -> tuple[int, ...]:
    """The lengths that rows are padded to.

    Those of `configured` that hold a row, or else the longest example's length, rounded up.
    """
    if not configured:
        return (min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_length),)
    longest = max(longest, min(configured))
    largest = min((length for length in configured if length >= longest), default=longest)
    return (*(length for length in sorted(configured) if length < longest), largest)


def pack_rows(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into rows of at most `capacity` tokens; returns the items of each row, in order.

    First fit decreasing: at most 11/9 of the fewest rows (Johnson 1973). Grain's packing packs a
    stream: it would move examples between batches, and the loss of a batch would no longer be that
    of its unpacked examples.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = next((i for i, space in enumerate(free) if space >= sizes[item]), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(capacity)
        rows[row].append(item)
        free[row] -= sizes[item]
    return [sorted(row) for row in rows]


@dataclasses.dataclass(frozen=True)
class _BatchMaker:
    """Makes the arrays of a batch from the indices of its examples. See `make_batches`."""

    source: Sequence[Mapping[str, Any]]
    encoder: Encoder
    answer_fields: Sequence[str]
    lengths: Sequence[int]
    columns: Mapping[str, np.ndarray]
    pack_multiple: int
    sizes: np.ndarray
    process: tuple[int, int]

    def padded(self, indices_B: np.ndarray) -> dict[str, Any]:
        """One row for each answer."""
        longest = self.sizes[indices_B].max()  # of all processes' rows, so that lengths agree
        length = min(length for length in self.lengths if length >= longest)
        indices = self._rows_of_process(indices_B)
        ids = np.full(
            (len(indices), len(self.answer_fields), length), self.encoder.padding, np.int32
        )
        answer = np.zeros(ids.shape, bool)
        num_tokens = 0
        for i, index in enumerate(indices):
            encoded = self._encode(index)
            for j, row in enumerate(encoded.rows):
                ids[i, j, : len(row)] = row
                answer[i, j, encoded.num_prompt_tokens : len(row)] = True
                num_tokens += len(row)
        if len(self.answer_fields) == 1:
            ids = ids[:, 0]
            answer = answer[:, 0]
        columns = {name: column[indices] for name, column in self.columns.items()}
        return {"ids": ids, "answer": answer, **columns, "tokens": num_tokens}

    def packed(self, indices_B: np.ndarray) -> dict[str, Any]:
        """Several examples in each row."""
        length = self.lengths[-1]
        rows = pack_rows(self.sizes[indices_B].tolist(), length)
        rows += [[]] * (-len(rows) % self.pack_multiple)
        rows = self._rows_of_process(rows)
        ids = np.full((len(rows), length), self.encoder.padding, np.int32)
        answer = np.zeros(ids.shape, bool)
        segments = np.zeros(ids.shape, np.int32)
        for i, members in enumerate(rows):
            start = 0
            for number, member in enumerate(members, 1):
                encoded = self._encode(indices_B[member])
                (tokens,) = encoded.rows
                end = start + len(tokens)
                ids[i, start:end] = tokens
                answer[i, start + encoded.num_prompt_tokens : end] = True
                segments[i, start:end] = number
                start = end
        num_tokens = int((segments > 0).sum())
        return {"ids": ids, "answer": answer, "segments": segments, "tokens": num_tokens}

    def _encode(self, index: Any) -> EncodedExample:
        prompt, answers = _texts(self.source[int(index)], self.answer_fields)
        return self.encoder.encode(prompt, answers)

    def _rows_of_process(self, rows: Any) -> Any:
        index, count = self.process
        return rows[index * len(rows) // count : (index + 1) * len(rows) // count]


def make_batches(
    source: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    answer_fields: Sequence[str],
    lengths: Sequence[int],
    batch_size: int,
    seed: int | None,
    columns: Mapping[str, np.ndarray] | None = None,
    pack_multiple: int = 0,
    sizes: Sequence[int] | None = None,
    process: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """An endless iterator of batches; every epoch has its own order, drawn from (seed, epoch).

    Each batch is {"ids": int32, "answer": bool, "tokens": int}: rows [B, T] for one answer field,
    [B, 2, T] for two, T the smallest of `lengths` that holds them; "answer" marks the answers'
    tokens; "tokens" counts the tokens that are not padding.

    Args:
      lengths: padded lengths, in tokens.
      seed: None keeps the file's order.
      columns: additional arrays with one row per example, passed along under their names.
      pack_multiple: with one answer field, packs a batch's examples into rows of the largest of
        `lengths`, numbered by "segments" int32 [B, T] (1, 2, ... and 0 for padding); B is as small
        as possible, a multiple of this. 0: a row for each example.
      sizes: tokens of each example's longest row, as `survey` counts them; None: counted here.
      process: (index, count): this process gets its rows of each batch, B / count consecutive ones.
    """
    if sizes is None:
        sizes = []
        for i in range(len(source)):
            encoded = encoder.encode(*_texts(source[i], answer_fields))
            sizes.append(max(map(len, encoded.rows)))
    maker = _BatchMaker(
        source,
        encoder,
        answer_fields,
        lengths,
        dict(columns or {}),
        pack_multiple,
        np.asarray(sizes),
        process,
    )
    order = grain.MapDataset.range(len(source))
    if seed is not None:
        order = order.seed(seed).shuffle()
    # a number instead of Grain's endless repeat(), whose length does not fit len() at batch size 1
    order = order.repeat(1 << 31)
    # one thread: rows are short, and the cores are needed for the model
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    make_batch = maker.packed if pack_multiple else maker.padded
    return iter(order.batch(batch_size).map(make_batch).to_iter_dataset(options))
