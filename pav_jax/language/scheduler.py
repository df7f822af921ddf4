"""Answers to many prompts with a fixed batch of rows: a row that ends takes the next of the queue.

Prompts are run through the model in groups of as many as there are rows, each once for all of its
samples. Between chunks of steps, rows that have ended get the next samples of the queue, so that a
long answer does not hold up the others.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pav_jax.language import chat, decode, prefill
from pav_jax.language.adapter_set import AdapterSet
from pav_jax.language.large_models import is_large_on_cpu, rows_are_independent
from pav_jax.language.sampling import Sampling, prompt_bucket
from pav_jax.models.decoder.model import Decoder
from pav_jax.parallel import processes
from pav_jax.parallel.mesh import batch_shards
from pav_jax.parallel.sharding_rules import device_put_global

CHUNK_STEPS = 32  # steps between two looks at the rows, while samples wait
REFILL_SHARE = 8  # a chunk also ends when one row in this many is done
MIN_HALVED_ROWS = 16  # a step of fewer takes about as long as one of half as many
MIN_PREFIX = 48  # a shorter prefix is not worth programs of its own
MIN_BUCKET_AFTER_PREFIX = 32


def shared_prefix(tokenizer: Any, prompts: Sequence[list[int]]) -> tuple[int, ...]:
    """Return the tokens before the user's words in the chat template, if a prompt may have them.

    They belong to the template, not to these prompts: how the tokens of a prompt are computed must
    not depend on the others.

    Args:
      tokenizer: None has no template.
    """
    if tokenizer is None or max(map(len, prompts), default=0) <= MIN_PREFIX:
        return ()
    return chat.prefix(tokenizer)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer to draw.

    Attributes:
      prompt: index of its prompt.
      number: of the sample; its random key is fold_in(key(seed), number).
      seed: of its prompt.
      adapter: its name in the sampler's `adapters`; None for none.
    """

    prompt: int
    number: int
    seed: int
    adapter: str | None = None

    @property
    def source(self) -> tuple[int, str | None]:
        """What its first token depends on: prompt and adapter."""
        return self.prompt, self.adapter


class Bucket(NamedTuple):
    """What the samples of one batch have in common.

    Attributes:
      prefix: tokens of the shared prefix.
      prompt: padded length of the rest.
      is_merged: they all use the adapter that is merged into the parameters, or none of them does.
    """

    prefix: int
    prompt: int
    is_merged: bool


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What the answers are drawn from, and how.

    Attributes:
      model: the architecture.
      variables: {"params": ...} and optionally "lora", stacked over layers.
      settings: how tokens are drawn.
      eos: ids of the tokens that end an answer.
      rows: of a batch.
      prefix: tokens that many prompts begin with, at least MIN_PREFIX; or none.
      mesh: the mesh that `variables` are sharded over.
      adapters: those that samples choose from; "lora" of the variables is theirs, if there are any.
      prefix_caches: keys and values of the prefix, of the adapters that have needed them.
    """

    model: Decoder
    variables: Any
    settings: Sampling
    eos: tuple[int, ...]
    rows: int
    prefix: tuple[int, ...] = ()
    mesh: jax.sharding.Mesh | None = None
    adapters: AdapterSet = dataclasses.field(default_factory=AdapterSet)
    prefix_caches: dict[str | None, Any] = dataclasses.field(default_factory=dict)

    def __call__(
        self, prompts: Sequence[list[int]], samples: Sequence[Sample]
    ) -> dict[Sample, list[int]]:
        """Draw all samples.

        A row ends with an `eos` token, after `max_new_tokens`, or at the end of the model's
        context.

        Returns:
          New token ids of each sample, the `eos` token included.
        """
        buckets: dict[Bucket, list[Sample]] = {}
        for sample in samples:
            bucket = self.bucket(prompts[sample.prompt], sample.adapter)
            buckets.setdefault(bucket, []).append(sample)
        weights = self.split_weights()
        answers: dict[Sample, list[int]] = {}
        for bucket, queue in buckets.items():
            batch = self.open_batch(bucket, weights, prompts)
            batch.add(queue)
            answers |= batch.run()
        return answers

    def split_weights(self) -> Any:
        """Return a copy of the variables as `open_batch` takes them."""
        return decode.split_layers(self.model.config.num_hidden_layers, self.variables)

    @functools.cached_property
    def may_halve_rows(self) -> bool:
        """Whether batches get smaller when the queue is empty and half of their rows are idle.

        That is where it saves more time than compilation takes, and where the answers stay the
        same; the products of adapters depend on the number of rows.
        """
        is_large = "lora" not in self.variables and is_large_on_cpu(self.variables, self.mesh)
        return is_large and rows_are_independent()

    def open_batch(
        self,
        bucket: Bucket,
        weights: Any,
        prompts: Sequence[list[int]] | Mapping[int, list[int]],
    ) -> "Batch":
        """Return a batch without samples.

        Args:
          bucket: of all its prompts.
          weights: from `split_weights`.
          prompts: where it looks up the prompts of its samples; it may grow.
        """
        return Batch(self, bucket, weights, prompts)

    def bucket(self, ids: list[int], adapter: str | None = None) -> Bucket:
        """What the samples of one batch have in common."""
        r = len(self.prefix)
        is_merged = self.adapters.is_merged(adapter)
        if r >= MIN_PREFIX and len(ids) > r and tuple(ids[:r]) == self.prefix:
            return Bucket(r, prompt_bucket(len(ids) - r, MIN_BUCKET_AFTER_PREFIX), is_merged)
        return Bucket(0, prompt_bucket(len(ids)), is_merged)

    def prefix_cache(self, adapter: str | None) -> Any:
        """Return keys and values of the prefix with this adapter; they are computed once."""
        if adapter not in self.prefix_caches:
            copies = 1 if self.mesh is None else batch_shards(self.mesh)
            ids = self.put({"ids": np.tile(np.asarray(self.prefix, np.int32), (copies, 1))})["ids"]
            variables = self.adapters.variables_of_rows(self.variables, [adapter] * copies)
            self.prefix_caches[adapter] = prefill.compute_prefix(self.model, variables, ids)
        return self.prefix_caches[adapter]

    def put(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Arrays of one value per row, on the devices."""
        if self.mesh is None:
            return dict(arrays)
        return device_put_global(arrays, decode.batch_shardings(arrays, self.mesh))


class Batch:
    """The rows of one shape, and the queue that they work off; made by `Sampler.open_batch`.

    A caller either runs the whole queue, or steps, and may add and cancel samples between steps.
    """

    def __init__(
        self,
        sampler: Sampler,
        bucket: Bucket,
        weights: Any,
        prompts: Sequence[list[int]] | Mapping[int, list[int]],
    ):
        self.sampler = sampler
        self.bucket = bucket
        self.merged = sampler.adapters.merged if bucket.is_merged else None
        # keys and values of the prefix differ between adapters, so each row has its own
        lengths = (bucket.prefix, bucket.prompt)
        if sampler.adapters.names and not self.merged:
            lengths = (0, sum(lengths))
        self.shape = prefill.make_shape(
            sampler.model, sampler.rows, *lengths, sampler.settings, sampler.eos, sampler.mesh
        )
        self.weights = weights
        self.prompts = prompts
        self.queue: collections.deque[Sample] = collections.deque()
        self.settings = decode.run_time_settings(sampler.model, sampler.settings)
        self.layer_prefixes = None
        if self.shape.prefix:
            depth = sampler.model.config.num_hidden_layers
            self.layer_prefixes = decode.split_prefix(depth, sampler.prefix_cache(self.merged))
        self.rows = decode.empty_rows(self.shape)
        self.in_row: list[Sample | None] = [None] * self.shape.rows
        self.group: list[tuple[int, str | None]] = []  # prompts and adapters that have a cache

    def add(self, samples: Iterable[Sample]) -> None:
        """Append samples to the queue, those of one prompt next to each other."""
        self.queue.extend(samples)

    def cancel(self, sample: Sample) -> None:
        """Take a sample out of the queue, or free its row."""
        if sample in self.queue:
            self.queue.remove(sample)
        elif sample in self.in_row:
            row = self.in_row.index(sample)
            self.in_row[row] = None
            is_row_B = np.arange(self.shape.rows) == row
            self.rows = dataclasses.replace(self.rows, done_B=self.rows.done_B | is_row_B)

    def run(self) -> dict[Sample, list[int]]:
        """Draw all samples of the queue."""
        answers: dict[Sample, list[int]] = {}
        while self.queue or any(self.in_row):
            answers |= self.step()
        return answers

    def step(self, max_steps: int | None = None) -> dict[Sample, list[int]]:
        """Fill free rows from the queue, and draw at most `max_steps` tokens of every row.

        Args:
          max_steps: None: until rows can be refilled or halved, or all have ended.

        Returns:
          New token ids of the samples that have ended.
        """
        while self.queue and not all(self.in_row):
            self._fill()
        if max_steps is None:
            self._halve_rows()
            stop = self._stop()
        else:
            stop = np.int32(max_steps), np.int32(self.shape.rows)
        layers, outer = self.weights
        names = [sample.adapter if sample else self.merged for sample in self.in_row]
        weights = self.sampler.adapters.layers_of_rows(layers, names), outer
        self.rows = decode.decode_rows(
            self.shape, weights, self.rows, self.layer_prefixes, stop, self.settings
        )
        return self._take_finished()

    def drawn(self) -> dict[Sample, list[int]]:
        """Return the tokens drawn so far of the samples that have not ended."""
        counts_B, tokens_BxM = self._read(self.rows.counts_B, self.rows.tokens_BxM)
        return {
            sample: tokens_BxM[row, : counts_B[row]].tolist()
            for row, sample in enumerate(self.in_row)
            if sample is not None
        }

    def _stop(self) -> tuple[np.int32, np.int32]:
        """When the next chunk ends: steps, rows that are done."""
        b = self.shape.rows
        if self.queue:
            return np.int32(CHUNK_STEPS), np.int32(max(1, b // REFILL_SHARE))
        return np.int32(self.shape.new_slots), np.int32(b - b // 2 if self._may_halve() else b)

    def _may_halve(self) -> bool:
        is_large = self.shape.rows >= MIN_HALVED_ROWS
        return is_large and not self.queue and self.sampler.may_halve_rows

    def _halve_rows(self) -> None:
        """Go on with half of the rows, and again with half of those, while the others are idle."""
        while self._may_halve():
            b = self.shape.rows
            busy = [row for row, sample in enumerate(self.in_row) if sample]
            if not 0 < len(busy) <= b // 2:
                return
            idle = [row for row, sample in enumerate(self.in_row) if not sample]
            index_C = np.array([*busy, *idle][: b // 2], np.int32)
            self.rows = decode.take_rows(self.rows, index_C)
            self.in_row = [self.in_row[row] for row in index_C]
            self.shape = dataclasses.replace(self.shape, rows=b // 2)

    def _prefix_of_rows(self, names: list[str | None]) -> prefill.Prefix | None:
        """Return the prefix that prompts with these adapters continue, if there is one."""
        if not self.bucket.prefix:
            return None
        sampler = self.sampler
        ids_R = np.asarray(sampler.prefix, np.int32)
        if self.shape.prefix:
            return prefill.Prefix(ids_R, sampler.prefix_cache(self.merged))
        caches = {name: sampler.prefix_cache(name) for name in names}
        choices = (None, *sampler.adapters.names)
        # any stands for those that no row chooses: programs are compiled for all
        cache = tuple(caches.get(name, caches[names[0]]) for name in choices)
        index_B = np.array([choices.index(name) for name in names], np.int32)
        return prefill.Prefix(ids_R, cache, sampler.put({"index": index_B})["index"])

    def _fill(self) -> None:
        """Give free rows the next samples whose prompts have a cache, or compute caches."""
        if self.queue[0].source not in self.group:
            self._compute_prompts()
        b = self.shape.rows
        sources_B = np.full(b, -1, np.int32)
        limits_B = np.zeros(b, np.int32)
        draws_Bx2 = np.zeros((b, 2), np.uint32)
        for row in range(b):
            if self.in_row[row] is not None:
                continue
            if not self.queue or self.queue[0].source not in self.group:
                break
            sample = self.queue.popleft()
            self.in_row[row] = sample
            sources_B[row] = self.group.index(sample.source)
            limits_B[row] = self._limit(len(self.prompts[sample.prompt]))
            draws_Bx2[row] = sample.seed % 2**32, sample.number
        assignment = {"sources": sources_B, "limits": limits_B, "draws": draws_Bx2}
        self.rows = decode.fill_rows(
            self.shape, self.rows, self.cached, self.sampler.put(assignment), self.settings
        )

    def _limit(self, prompt_length: int) -> int:
        """The most tokens of an answer."""
        left = self.sampler.model.config.max_position_embeddings - prompt_length
        return min(self.sampler.settings.max_new_tokens, max(1, left))

    def _compute_prompts(self) -> None:
        """Run the next prompts of the queue through the model."""
        b = self.shape.rows
        r, p = self.bucket.prefix, self.bucket.prompt
        queued = itertools.groupby(self.queue, lambda sample: sample.source)
        self.group = [source for source, _ in itertools.islice(queued, b)]
        if self.sampler.may_halve_rows:
            while b >= MIN_HALVED_ROWS and len(self.group) <= b // 2:
                b //= 2
        prompts_BxP = np.zeros((b, p), np.int32)
        lengths_B = np.zeros(b, np.int32)  # 0 marks a padding row
        for i, (prompt, _) in enumerate(self.group):
            ids = self.prompts[prompt][r:]
            prompts_BxP[i, p - len(ids) :] = ids
            lengths_B[i] = len(ids)
        names = [adapter for _, adapter in self.group]
        names += names[:1] * (b - len(names))  # padding rows may use any adapter
        batch = self.sampler.put({"prompts": prompts_BxP, "lengths": lengths_B})
        self.cached = prefill.compute_prompts(
            self.shape,
            self.sampler.adapters.variables_of_rows(self.sampler.variables, names),
            self._prefix_of_rows(names),
            batch["prompts"],
            batch["lengths"],
        )

    def _take_finished(self) -> dict[Sample, list[int]]:
        """Return the answers of rows that have ended, and free the rows."""
        state = (self.rows.done_B, self.rows.counts_B, self.rows.tokens_BxM)
        done_B, counts_B, tokens_BxM = self._read(*state)
        answers = {}
        for row, sample in enumerate(self.in_row):
            if sample is not None and done_B[row]:
                answers[sample] = tokens_BxM[row, : counts_B[row]].tolist()
                self.in_row[row] = None
        return answers

    def _read(self, *arrays: Any) -> Iterable[np.ndarray]:
        return map(np.asarray, processes.gather_to_host(arrays))
