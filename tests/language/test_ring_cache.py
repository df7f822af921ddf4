"""Layers with an attention window keep as many slots as the window, and answers stay the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.language import batch, decode, prefill, scheduler
from pav_jax.language.ring_cache import ring_mask, ring_of_prompts
from pav_jax.language.sampling import Sampling
from pav_jax.models.decoder import LayerKind, Rope
from tests.tiny.byte_language_model import tiny_language_model

KINDS = (LayerKind(7), LayerKind(None, Rope(1e6)), LayerKind(40), LayerKind(100))
PREFIX = tuple(range(60, 110))  # longer than two of the windows
# shorter and longer than a window
ENDINGS = [[5], [9, 8, 7], list(range(10, 28)), list(range(30)), [1, 2] * 14, [3] * 25]


class UnboundedShape(prefill.Shape):
    """A shape without rings."""

    def ring_slots(self, kind):
        return None


@pytest.fixture(scope="module")
def windowed():
    """Make a model of layers with these windows, with rows for fewer samples than there are."""

    def make(kinds):
        lm = tiny_language_model(3, num_hidden_layers=len(kinds), layer_kinds=kinds)
        return dataclasses.replace(lm, eos=(17, 40, 99, 120))

    return make


def answers(lm, settings, indices=None):
    prompts = [[*PREFIX, *ids] for ids in ENDINGS]
    samples = [
        scheduler.Sample(i, n, 7 + i) for i in indices or range(len(ENDINGS)) for n in range(2)
    ]
    drawn = lm.make_sampler(settings, PREFIX)(prompts, samples)
    return [drawn[sample] for sample in samples]


@pytest.mark.parametrize("window", [1, 2, 5, 16])
def test_ring_holds_the_keys_within_the_window(window):
    padded = 12
    lengths_B = np.array([0, 1, 5, 12])
    positions_BxP = np.arange(padded) - (padded - lengths_B[:, None])
    keys = jnp.asarray(positions_BxP[:, None, :, None], jnp.float32)  # each its own position
    prompts = ring_of_prompts(keys, -2, window, jnp.asarray(lengths_B))
    assert prompts.shape == (4, 1, min(window, padded), 1)
    swapped = ring_of_prompts(keys.swapaxes(2, 3), -1, window, jnp.asarray(lengths_B))
    np.testing.assert_array_equal(swapped.swapaxes(2, 3), prompts)
    ring = np.full((4, window), -99)
    ring[:, : prompts.shape[2]] = prompts[:, 0, :, 0]
    for query_B in lengths_B + np.arange(3 * window)[:, None]:
        ring[np.arange(4), query_B % window] = query_B
        visible = np.asarray(ring_mask(window, jnp.asarray(query_B)))[:, 0, 0]
        for row, query in enumerate(query_B):
            expected = list(range(max(0, query - window + 1), query + 1))
            assert sorted(ring[row, visible[row]]) == expected


@pytest.mark.parametrize("prefix", [0, 50])
def test_rows_have_as_many_slots_as_the_window(windowed, prefix):
    lm = windowed(KINDS)
    shape = prefill.make_shape(lm.model, 3, prefix, 32, Sampling(max_new_tokens=30), (), None)
    caches = jax.eval_shape(lambda: decode.empty_rows(shape).caches)
    expected = [7, 96, 40, 96]  # the others have slots for prompt and answer
    assert [{a.shape for a in kv} for kv in caches] == [
        {(3, 2, 8, s), (3, 2, s, 8)} for s in expected
    ]

    def compute_prompts():
        start = None
        if prefix:
            ids_R = jnp.arange(prefix)
            cache = prefill.compute_prefix(lm.model, lm.variables, ids_R[None])
            start = prefill.Prefix(ids_R, cache)
        ids_BxP = jnp.zeros((3, 32), int)
        return prefill.compute_prompts(shape, lm.variables, start, ids_BxP, jnp.full(3, 4)).cache

    cache = jax.eval_shape(compute_prompts)
    bounded = [min(s, 32) for s in expected]
    keys, values = cache
    assert [a.shape for a in keys] == [(3, 2, 8, s) for s in bounded]
    assert [a.shape for a in values] == [(3, 2, s, 8) for s in bounded]


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [KINDS, (LayerKind(9),) * 2])
def test_answers_equal_those_with_unbounded_caches(windowed, monkeypatch, kinds):
    lm = windowed(kinds)
    monkeypatch.setattr(batch, "CHUNK_STEPS", 5)  # rows are refilled often
    settings = [Sampling(60, top_k=40), Sampling(60, temperature=0.0, repetition_penalty=1.1)]
    bounded = [answers(lm, s) for s in settings]
    monkeypatch.setattr(prefill, "Shape", UnboundedShape)
    assert bounded == [answers(lm, s) for s in settings]
    lengths = [len(answer) for answer in bounded[0]]
    assert min(lengths) < 20 < max(lengths)


def test_answers_in_rings_do_not_depend_on_neighbours(windowed):
    lm = windowed(KINDS)
    settings = Sampling(60, top_k=40)
    together = answers(lm, settings)
    for i in (0, 3):
        assert answers(lm, settings, indices=(i,)) == together[2 * i : 2 * i + 2]
