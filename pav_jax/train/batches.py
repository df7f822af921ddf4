"""From pairs of texts to padded batches of token ids, in an order that is a function of (seed,
step) alone.

A prompt goes through the model's chat template with the generation prompt; the answer's tokens and
the end-of-sequence token follow. Where the answer starts is known from the number of prompt tokens,
never searched for in a string.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from pav_jax.errors import BadInput

ANSWERS = {"sft": ("refined",), "dpo": ("chosen", "rejected")}  # the fields that hold answers
LENGTH_MULTIPLE = 16  # the longest example is rounded up to this where no buckets are given


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns the texts of an example into token ids.

    prompt_ids: a prompt's token ids through the chat template, generation prompt included.
    eos: the token that ends an answer.
    """

    tokenizer: Any
    prompt_ids: Callable[[str], Sequence[int]]
    eos: int
    vocabulary: int
    max_length: int
    max_prompt_length: int

    @property
    def padding(self) -> int:
        """What fills a row up. It may equal the end of sequence: masks come from lengths, not from
        this id."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else pad

    def prompt(self, text: str) -> tuple[list[int], bool]:
        """-> (a prompt's ids, it was cut). A prompt of more than `max_prompt_length` tokens loses
        tokens on its left, behind the beginning-of-sequence token."""
        ids = list(self.prompt_ids(text))
        limit = min(self.max_prompt_length, self.max_length - 2)  # room for one token and the end
        if len(ids) <= limit:
            return ids, False
        head = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return head + ids[len(ids) - limit + len(head) :], True

    def encode(
        self, prompt: str, answers: Sequence[str]
    ) -> tuple[list[np.ndarray], int, bool, bool]:
        """-> (ids of prompt + answer for each answer, prompt tokens, prompt was cut, an answer was
        cut).

        What exceeds `max_length` is cut on the right.
        """
        ids, cut_prompt = self.prompt(prompt)
        tails = [
            self.tokenizer(text, add_special_tokens=False)["input_ids"] + [self.eos]
            for text in answers
        ]
        rows = [np.asarray(ids + tail, np.int32) for tail in tails]
        cut_answer = any(len(row) > self.max_length for row in rows)
        return [row[: self.max_length] for row in rows], len(ids), cut_prompt, cut_answer


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one pass over the data found."""

    sizes: tuple[int, ...]  # tokens of each example's longest row
    cut_prompts: int
    cut_answers: int

    @property
    def examples(self) -> int:
        return len(self.sizes)

    @property
    def longest(self) -> int:
        return max(self.sizes)

    def __str__(self) -> str:
        cut = f", {self.cut_prompts} prompts cut from the left" if self.cut_prompts else ""
        cut += f", {self.cut_answers} answers cut" if self.cut_answers else ""
        return f"{self.examples} examples, at most {self.longest} tokens{cut}"


def survey(
    source: Sequence[Mapping[str, Any]], encoder: Encoder, fields: Sequence[str], path: str | Path
) -> Survey:
    """Reads every example once.

    Raises:
      BadInput: an empty answer, or a token that the model does not have; names the file and the
        line.
    """
    sizes, cut_prompts, cut_answers = [], 0, 0
    for example in (source[i] for i in range(len(source))):
        prompt, answers = _texts(example, fields)
        where = f"{path}:{int(example['line'])}"
        if empty := [f for f, text in zip(fields, answers, strict=True) if not text.strip()]:
            raise BadInput(f"{where}: {empty[0]!r} is empty; delete the line or write an answer")
        rows, _, cut_prompt, cut_answer = encoder.encode(prompt, answers)
        if (top := max(int(row.max()) for row in rows)) >= encoder.vocabulary:
            raise BadInput(
                f"{where}: token {top} is outside the model's vocabulary of {encoder.vocabulary};"
                " is the tokenizer the model's own?"
            )
        sizes.append(max(map(len, rows)))
        cut_prompts, cut_answers = cut_prompts + cut_prompt, cut_answers + cut_answer
    return Survey(tuple(sizes), cut_prompts, cut_answers)


def _texts(example: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, list[str]]:
    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    return text(example["prompt"]), [text(example[f]) for f in fields]


def buckets(configured: Sequence[int], longest: int, max_length: int) -> tuple[int, ...]:
    """The padded lengths: those configured that are of use, or the longest example's, rounded
    up."""
    if not configured:
        return (min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_length),)
    top = max(longest, min(configured))
    return tuple(b for b in sorted(configured) if b < top) + (
        min((b for b in configured if b >= top), default=top),
    )


def packed(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Items into rows of at most `capacity`: the longest first, each into the first row with room
    (first fit decreasing, at most 11/9 of the fewest rows; Johnson 1973). Items keep their order
    within a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((i for i, free in enumerate(room) if free >= lengths[item]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(capacity)
        rows[place].append(item)
        room[place] -= lengths[item]
    return [sorted(row) for row in rows]


def make_batches(
    source: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    fields: Sequence[str],
    lengths: Sequence[int],
    batch_size: int,
    seed: int | None,
    columns: Mapping[str, np.ndarray] | None = None,
    pack: int = 0,
    sizes: Sequence[int] | None = None,
    share: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """An endless iterator of batches; every epoch has its own order, drawn from (seed, epoch).

    Each batch is {"ids": int32, "answer": bool, "tokens": int}: rows [B, T] for one answer field,
    [B, 2, T] for two, T the smallest of `lengths` that holds them; "answer" marks the answers'
    tokens; "tokens" counts what is not padding.

    Args:
      seed: None keeps the file's order.
      columns: further arrays with one row per example, passed along under their names.
      pack: of one answer field: a batch's examples share rows of the longest of `lengths`, told
        apart by "segments" int32 [B, T] (1, 2, ... and 0 for padding); B is as small as can be, in
        multiples of `pack`. 0: a row each.
      sizes: tokens of each example's longest row, as `survey` found them; None: counted here.
      share: (i, n): of n processes that make the same batches, this is number i and reads only its
        rows of each, B / n that follow each other.
    """
    columns, (index, count) = dict(columns or {}), share

    def example(i: int) -> tuple[list[np.ndarray], int]:
        prompt, answers = _texts(source[int(i)], fields)
        rows, start, _, _ = encoder.encode(prompt, answers)
        return rows, start

    def own(rows: Sequence[Any]) -> Sequence[Any]:
        return rows[index * len(rows) // count : (index + 1) * len(rows) // count]

    if sizes is None:
        sizes = [max(map(len, example(i)[0])) for i in range(len(source))]
    sizes_N = np.asarray(sizes)

    def apart(chosen_B: np.ndarray) -> dict[str, Any]:
        length = min(
            bucket for bucket in lengths if bucket >= sizes_N[chosen_B].max()
        )  # all processes' choice
        chosen = own(chosen_B)
        ids = np.full((len(chosen), len(fields), length), encoder.padding, np.int32)
        answer = np.zeros(ids.shape, bool)
        tokens = 0
        for i, (rows, start) in enumerate(map(example, chosen)):
            for j, row in enumerate(rows):
                ids[i, j, : len(row)] = row
                answer[i, j, start : len(row)] = True
                tokens += len(row)
        batch = (
            {"ids": ids, "answer": answer}
            if len(fields) > 1
            else {"ids": ids[:, 0], "answer": answer[:, 0]}
        )
        return (
            batch | {name: column[chosen] for name, column in columns.items()} | {"tokens": tokens}
        )

    def shared(chosen_B: np.ndarray) -> dict[str, Any]:
        members = packed(sizes_N[chosen_B].tolist(), lengths[-1])
        rows = own(members + [[]] * (-len(members) % pack))
        ids = np.full((len(rows), lengths[-1]), encoder.padding, np.int32)
        answer, segments = np.zeros(ids.shape, bool), np.zeros(ids.shape, np.int32)
        for i, row in enumerate(rows):
            at = 0
            for number, member in enumerate(row, 1):
                (tokens,), start = example(chosen_B[member])
                ids[i, at : at + len(tokens)] = tokens
                answer[i, at + start : at + len(tokens)] = True
                segments[i, at : at + len(tokens)] = number
                at += len(tokens)
        return {
            "ids": ids,
            "answer": answer,
            "segments": segments,
            "tokens": int((segments > 0).sum()),
        }

    # endless, but for Grain's own repeat() without a number, whose length does not fit len() at
    # batch size 1
    order = grain.MapDataset.range(len(source))
    order = (order if seed is None else order.seed(seed).shuffle()).repeat(1 << 31)
    # one thread: rows are short and the cores are the model's
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(order.batch(batch_size).map(shared if pack else apart).to_iter_dataset(options))
