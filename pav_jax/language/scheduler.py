"""Answers to many prompts in batches, each of samples that share compiled programs."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pav_jax.language import chat, concurrent_batches, decode, prefill
from pav_jax.language.adapter_set import AdapterSet
from pav_jax.language.batch import Batch
from pav_jax.language.concurrent_batches import run_concurrently, split_evenly
from pav_jax.language.large_models import is_large_on_cpu, sizes_keep_results
from pav_jax.language.samples import Bucket, Sample
from pav_jax.language.sampling import Sampling, prompt_bucket
from pav_jax.models.decoder.model import Decoder
from pav_jax.parallel.mesh import batch_shards
from pav_jax.parallel.sharding_rules import device_put_global

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
      log_probs: for each finished sample the mean log-probability of its tokens without the
        ending one, in nats; the caller takes them out. None: they are not computed.
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
    log_probs: dict[Sample, float] | None = None

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
            count = self.num_batches(bucket, len(queue))
            batches = [
                Batch(self, bucket, weights, prompts, part, self.rows // count)
                for part in split_evenly(queue, count)
            ]
            answers |= run_concurrently(batches)
        return answers

    def num_batches(self, bucket: Bucket, samples: int) -> int:
        """How many batches share the rows, and run at the same time."""
        if not self.may_resize:
            return 1
        weights = sum(a.nbytes for a in jax.tree.leaves(self.variables["params"]))
        rows = min(self.rows, samples)
        return concurrent_batches.num_batches(rows, self.shape(bucket).row_bytes, weights)

    def shape(self, bucket: Bucket, rows: int | None = None) -> prefill.Shape:
        """Return the shape of a batch of the prompts of a bucket."""
        lengths = (bucket.prefix, bucket.prompt)
        # keys and values of the prefix differ between adapters, so each row has its own
        if self.adapters.names and not (bucket.is_merged and self.adapters.merged):
            lengths = (0, sum(lengths))
        return prefill.make_shape(
            self.model,
            rows or self.rows,
            *lengths,
            self.settings,
            self.eos,
            self.mesh,
            self.log_probs is not None,
        )

    def split_weights(self) -> Any:
        """Return a copy of the variables as `open_batch` takes them."""
        return decode.split_layers(self.model.config.num_hidden_layers, self.variables)

    @functools.cached_property
    def may_resize(self) -> bool:
        """Whether batches change their size: the slots grow, idle rows go when the queue is empty.

        That is where it saves more time than compilation takes, and where the answers stay the
        same; the products of adapters depend on the number of rows.
        """
        is_large = "lora" not in self.variables and is_large_on_cpu(self.variables, self.mesh)
        return is_large and sizes_keep_results()

    def open_batch(
        self,
        bucket: Bucket,
        weights: Any,
        prompts: Sequence[list[int]] | Mapping[int, list[int]],
    ) -> Batch:
        """Return a batch without samples, for a caller that adds them as they come.

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
