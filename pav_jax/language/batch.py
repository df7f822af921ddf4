"""A batch of rows that works off a queue of samples: a row that ends takes the next of the queue.

Prompts are run through the model in groups of as many as there are rows, each once for all of its
samples. Between chunks of steps, rows that have ended get the next samples of the queue, so that a
long answer does not hold up the others.
"""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.language import decode, prefill
from pav_jax.language.prefill import NEW_TOKENS_MULTIPLE
from pav_jax.language.samples import Bucket, Sample
from pav_jax.parallel import processes

CHUNK_STEPS = 32  # steps between two looks at the rows, while samples wait
REFILL_SHARE = 8  # a chunk also ends when one row in this many is done
MIN_RESIZED_ROWS = 16  # a step of fewer takes about as long as one of half as many


class Batch:
    """The rows of one shape, and the queue that they work off.

    A caller either runs a queue that it gives at once, or steps, and may add and cancel samples.
    """

    def __init__(
        self,
        sampler: Any,
        bucket: Bucket,
        weights: Any,
        prompts: Sequence[list[int]] | Mapping[int, list[int]],
        queue: Sequence[Sample] = (),
        rows: int | None = None,
    ):
        self.sampler = sampler
        self.bucket = bucket
        self.merged = sampler.adapters.merged if bucket.is_merged else None
        self.full_shape = sampler.shape(bucket, rows)
        self.queue = collections.deque(queue)
        self.shape = self._first_shape()
        self.most_drawn = 1  # tokens of the row that has drawn most
        self.dispatching: contextlib.AbstractContextManager = contextlib.nullcontext()
        self.is_stopped = False
        self.weights = weights
        self.prompts = prompts
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
        while (self.queue or any(self.in_row)) and not self.is_stopped:
            answers |= self.step()
        return answers

    def step(self, max_steps: int | None = None) -> dict[Sample, list[int]]:
        """Fill free rows from the queue, and draw at most `max_steps` tokens of every row.

        Args:
          max_steps: None: until the batch can be refilled or resized, or all rows have ended.

        Returns:
          New token ids of the samples that have ended.
        """
        with self.dispatching:
            self._dispatch(max_steps)
        return self._take_finished()

    def _dispatch(self, max_steps: int | None) -> None:
        """Start what `step` does on the device; compiles programs that do not exist yet."""
        while self.queue and not all(self.in_row):
            self._fill()
        if max_steps is None:
            self._halve_rows()
            self._add_slots()
            stop = self._stop()
        else:
            stop = np.int32(max_steps), np.int32(self.shape.rows)
        layers, outer = self.weights
        names = [sample.adapter if sample else self.merged for sample in self.in_row]
        weights = self.sampler.adapters.layers_of_rows(layers, names), outer
        self.rows = decode.decode_rows(
            self.shape, weights, self.rows, self.layer_prefixes, stop, self.settings
        )

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
        steps = self.shape.new_slots - self.most_drawn
        return np.int32(steps), np.int32(b - b // 2 if self._may_halve() else b)

    def _first_shape(self) -> prefill.Shape:
        """Slots for few new tokens if all samples begin at once, else for all."""
        full = self.full_shape
        begin_at_once = full.rows >= MIN_RESIZED_ROWS and 0 < len(self.queue) <= full.rows
        has_rings = any(map(full.ring_slots, full.model.config.kinds))
        if begin_at_once and not has_rings and self.sampler.may_resize:
            slots = min(NEW_TOKENS_MULTIPLE, full.new_slots)
            return dataclasses.replace(full, new_slots=slots)
        return full

    def _add_slots(self) -> None:
        """Double the slots for new tokens when a row has filled those that there are."""
        filled = self.shape.new_slots
        if self.most_drawn == filled < self.full_shape.new_slots:
            slots = min(2 * filled, self.full_shape.new_slots)
            self.shape = dataclasses.replace(self.shape, new_slots=slots)
            self.rows = decode.add_slots(self.shape, self.rows)

    def _may_halve(self) -> bool:
        is_large = self.shape.rows >= MIN_RESIZED_ROWS
        return is_large and not self.queue and self.sampler.may_resize

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
        if self.sampler.may_resize:
            while b >= MIN_RESIZED_ROWS and len(self.group) <= b // 2:
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
            self.full_shape,
            self.sampler.adapters.variables_of_rows(self.sampler.variables, names),
            self._prefix_of_rows(names),
            batch["prompts"],
            batch["lengths"],
        )

    def _take_finished(self) -> dict[Sample, list[int]]:
        """Return the answers of rows that have ended, and free the rows."""
        rows = self.rows
        state = (rows.done_B, rows.counts_B, rows.tokens_BxM, rows.log_probs_B)
        done_B, counts_B, tokens_BxM, log_probs_B = self._read(*state)
        answers = {}
        for row, sample in enumerate(self.in_row):
            if sample is not None and done_B[row]:
                answers[sample] = ids = tokens_BxM[row, : counts_B[row]].tolist()
                self.in_row[row] = None
                if self.sampler.log_probs is not None:
                    length = max(1, len(ids) - (ids[-1] in self.shape.eos))
                    self.sampler.log_probs[sample] = float(log_probs_B[row]) / length
        drawn = [counts_B[row] for row, sample in enumerate(self.in_row) if sample]
        self.most_drawn = max(drawn, default=1)
        return answers

    def _read(self, *arrays: Any) -> Iterable[np.ndarray]:
        return map(np.asarray, processes.gather_to_host(arrays))
