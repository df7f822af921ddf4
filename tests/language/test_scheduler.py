"""The queue of samples: rows that end are refilled, and prompts share the template's prefix."""

import dataclasses
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pav_jax.language import batch, chat, concurrent_batches, large_models, scheduler
from pav_jax.language.sampling import Sampling
from pav_jax.models.decoder.config import LayerKind
from pav_jax.seeds import seeds_for_prompts
from tests.tiers import first_fast
from tests.tiny.byte_language_model import TEMPLATE, tiny_language_model

WORDS = ["rain", "a girl", "two dogs run", "x", "the quick brown fox jumps over", "7 cats", "sea"]
INSTRUCTION = "Write the prompt again, in the words of a film: " * 2


PROGRAM_ON_MESHES = """
import sys
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.parallel.mesh import make_mesh
answers = []
for sizes in ({}, dict(data=2, tensor=2), dict(fsdp=2, tensor=2, sequence=2)):
    mesh = make_mesh(**sizes)
    lm = LanguageModel.from_pretrained(sys.argv[1], "float32", mesh, batch_size=4)
    ids = [lm.prompt_ids(words) for words in ("rain", "a girl", "two dogs run", "x", "7 cats")]
    answers.append(lm.generate_ids(ids, Sampling(max_new_tokens=20), num_return_sequences=2))
assert answers[0] == answers[1] == answers[2]
"""


@pytest.fixture(scope="module")
def instructed(lm):
    """The tiny model with an instruction before the user's words, and its prompts."""
    tokenizer = lm.tokenizer.__class__(
        tokenizer_object=lm.tokenizer.backend_tokenizer, eos_token="<|end|>", pad_token="<pad>"
    )
    tokenizer.chat_template = INSTRUCTION + TEMPLATE
    model = dataclasses.replace(lm, tokenizer=tokenizer)
    return model, [model.prompt_ids(words) for words in WORDS]


def ending_early(lm, prompts, settings):
    """The model with the eos that makes the lengths of these prompts' answers most different."""
    full = lm.generate_ids(prompts, settings)
    tokens = {t for (answer,) in full for t in answer}
    spread = lambda t: len({a.index(t) if t in a else -1 for (a,) in full})  # noqa: E731
    return dataclasses.replace(lm, eos=(max(sorted(tokens), key=spread),))


@pytest.mark.parametrize("rows", first_fast([3, 16]))
@pytest.mark.parametrize("has_prefix", [False, True])
def test_sampler_answers_equal_those_of_a_prompt_alone(lm, instructed, rows, has_prefix):
    settings = Sampling(max_new_tokens=30)
    prompts = instructed[1] if has_prefix else [list(w.encode()) for w in WORDS]
    model = ending_early(instructed[0] if has_prefix else lm, prompts, settings)
    model = dataclasses.replace(model, batch_size=rows)
    together = model.generate_ids(prompts, settings, num_return_sequences=3, seed=range(7))
    assert len({len(a) for answers in together for a in answers}) > 3
    for seed in (0, 6):
        alone = model.generate_ids([prompts[seed]], settings, num_return_sequences=3, seed=seed)
        assert alone == [together[seed]]


def test_sampler_refills_rows_that_end(instructed, monkeypatch):
    model, prompts = instructed
    settings = Sampling(max_new_tokens=60)
    model = dataclasses.replace(ending_early(model, prompts, settings), batch_size=4)
    expected = model.generate_ids(prompts, settings, num_return_sequences=4)
    for steps, share in ((1, 1), (7, 4), (64, 1)):
        monkeypatch.setattr(batch, "CHUNK_STEPS", steps)
        monkeypatch.setattr(batch, "REFILL_SHARE", share)
        assert model.generate_ids(prompts, settings, num_return_sequences=4) == expected


def record_resized_shapes(monkeypatch):
    """Let batches of a small model change their size; returns the list of shapes of all chunks."""
    if not large_models.sizes_keep_results():
        pytest.skip("results on this CPU depend on the size of the batch")
    monkeypatch.setattr(large_models, "MIN_PARAMETERS", 0)
    decode_rows = batch.decode.decode_rows
    shapes = []

    def record(shape, *rest):
        shapes.append(shape)
        return decode_rows(shape, *rest)

    monkeypatch.setattr(batch.decode, "decode_rows", record)
    return shapes


@pytest.mark.slow
def test_sampler_halves_rows_when_the_queue_is_empty(instructed, monkeypatch):
    model, prompts = instructed
    settings = Sampling(max_new_tokens=60)
    model = dataclasses.replace(ending_early(model, prompts, settings), batch_size=16)
    expected = model.generate_ids(prompts, settings, num_return_sequences=4)
    shapes = record_resized_shapes(monkeypatch)
    monkeypatch.setattr(batch, "MIN_RESIZED_ROWS", 4)
    assert model.generate_ids(prompts, settings, num_return_sequences=4) == expected
    rows = [shape.rows for shape in shapes]
    assert rows == sorted(rows, reverse=True) and {16, 8, 4} <= set(rows) <= {16, 8, 4, 2}
    shapes.clear()
    (alone,) = model.generate_ids(prompts[:1], settings, num_return_sequences=4)
    assert alone == expected[0] and max(shape.rows for shape in shapes) == 4


@pytest.mark.slow
def test_sampler_adds_slots_when_they_are_filled(instructed, monkeypatch):
    model, prompts = instructed
    settings = Sampling(max_new_tokens=40)
    model = dataclasses.replace(ending_early(model, prompts, settings), batch_size=16)
    monkeypatch.setattr(batch.prefill, "NEW_TOKENS_MULTIPLE", 8)
    expected = model.generate_ids(prompts, settings, num_return_sequences=2)
    shapes = record_resized_shapes(monkeypatch)
    monkeypatch.setattr(batch, "NEW_TOKENS_MULTIPLE", 8)
    assert max(len(answer) for answers in expected for answer in answers) == 40
    assert model.generate_ids(prompts, settings, num_return_sequences=2) == expected
    slots = [shape.new_slots for shape in shapes]
    assert sorted(set(slots)) == [8, 16, 32, 40] and slots == sorted(slots)
    shapes.clear()
    model.generate_ids(prompts, settings, num_return_sequences=16)
    assert {shape.new_slots for shape in shapes} == {40}, "refilled rows are of different ages"


@pytest.mark.slow
def test_sampler_runs_batches_concurrently(instructed, monkeypatch):
    model, prompts = instructed
    settings = Sampling(max_new_tokens=30)
    model = dataclasses.replace(ending_early(model, prompts, settings), batch_size=16)
    expected = model.generate_ids(prompts, settings, num_return_sequences=5)
    record_resized_shapes(monkeypatch)
    monkeypatch.setattr(concurrent_batches, "CACHE_SHARE", 0)
    monkeypatch.setattr(concurrent_batches, "MIN_ROWS", 4)
    monkeypatch.setattr(concurrent_batches, "num_cores", lambda: 3)
    sizes = []
    run = scheduler.run_concurrently
    monkeypatch.setattr(
        scheduler,
        "run_concurrently",
        lambda batches: sizes.append([batch.shape.rows for batch in batches]) or run(batches),
    )
    assert model.generate_ids(prompts, settings, num_return_sequences=5) == expected
    assert sizes == [[5, 5, 5]]


def test_num_batches_of_small_caches_is_one(monkeypatch):
    monkeypatch.setattr(concurrent_batches, "num_cores", lambda: 2)
    counts = [concurrent_batches.num_batches(rows, 7_000_000, 540_000_000) for rows in (64, 80)]
    assert counts == [1, 2]
    assert concurrent_batches.num_batches(64, 4_000_000, 2_000_000_000) == 1
    assert concurrent_batches.num_batches(4096, 4_000_000, 2_000_000_000) == 2


def test_concurrent_batches_stop_at_the_first_error():
    class Endless:
        is_stopped = False

        def run(self):
            while not self.is_stopped:
                time.sleep(0.01)

    class Broken:
        def run(self):
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        scheduler.run_concurrently([Broken(), Endless()])


def test_sampler_does_not_resize_where_results_depend_on_sizes(instructed, monkeypatch):
    model, _ = instructed
    monkeypatch.setattr(large_models, "MIN_PARAMETERS", 0)
    monkeypatch.setattr(scheduler, "sizes_keep_results", lambda: False)
    assert not model.make_sampler(Sampling()).may_resize
    monkeypatch.setattr(scheduler, "sizes_keep_results", lambda: True)
    assert model.make_sampler(Sampling()).may_resize
    adapted = dataclasses.replace(model, lora={"layers": {}})
    assert not adapted.make_sampler(Sampling()).may_resize


def test_sampler_runs_prefix_once_and_each_prompt_once(instructed, monkeypatch):
    model, prompts = instructed
    model = dataclasses.replace(model, batch_size=4)
    runs = {"compute_prefix": [], "compute_prompts": []}
    for name, calls in runs.items():
        program = getattr(batch.prefill, name)
        monkeypatch.setattr(
            batch.prefill,
            name,
            lambda *a, program=program, calls=calls: calls.append(a[-1]) or program(*a),
        )
    model.generate_ids(prompts, Sampling(max_new_tokens=9), num_return_sequences=5)
    assert [ids.shape for ids in runs["compute_prefix"]] == [(1, len(chat.prefix(model.tokenizer)))]
    lengths = np.concatenate(runs["compute_prompts"])
    assert sorted(lengths[lengths > 0]) == sorted(
        len(ids) - len(chat.prefix(model.tokenizer)) for ids in prompts
    )


@pytest.mark.slow
def test_sampler_greedy_with_prefix_matches_no_prefix(instructed, monkeypatch):
    model, prompts = instructed
    kinds = (LayerKind(window=20), LayerKind())
    config = dataclasses.replace(model.config, layer_kinds=kinds)
    model = dataclasses.replace(model, config=config, model=model.model.clone(config=config))
    settings = Sampling(max_new_tokens=40, temperature=0.0, repetition_penalty=1.1)
    shared = model.generate_ids(prompts[:4], settings)
    monkeypatch.setattr(scheduler, "MIN_PREFIX", 10**6)
    assert shared == model.generate_ids(prompts[:4], settings)


def test_sampler_greedy_with_prefix_matches_transformers(instructed, tmp_path):
    model, prompts = instructed
    assert len(chat.prefix(model.tokenizer)) >= scheduler.MIN_PREFIX
    model.save_pretrained(tmp_path)
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    settings = Sampling(max_new_tokens=40, temperature=0.0, repetition_penalty=1.1)
    for ids, (tokens,) in zip(prompts, model.generate_ids(prompts, settings), strict=True):
        expected = theirs.generate(
            torch.tensor([ids]),
            max_new_tokens=40,
            do_sample=False,
            repetition_penalty=1.1,
            eos_token_id=list(model.eos),
            pad_token_id=0,
        )
        assert tokens == expected[0, len(ids) :].tolist()


@pytest.mark.slow
def test_sampler_answers_are_equal_on_meshes(instructed, tmp_path):
    instructed[0].save_pretrained(tmp_path)
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", PROGRAM_ON_MESHES, tmp_path], env=env, check=True)


def test_prefix_of_a_template_that_fails(lm):
    tokenizer = tiny_language_model().tokenizer
    tokenizer.chat_template = None
    assert chat.prefix(tokenizer) == ()


def test_batch_answers_do_not_depend_on_steps_added_or_cancelled_samples(instructed):
    model, prompts = instructed
    settings = Sampling(max_new_tokens=40)
    model = dataclasses.replace(ending_early(model, prompts, settings), batch_size=3)
    expected = model.generate_ids(prompts, settings, num_return_sequences=2)
    seeds = seeds_for_prompts(0, len(prompts))
    samples = [scheduler.Sample(i, n, seeds[i]) for i in range(len(prompts)) for n in range(2)]
    sampler = model.make_sampler(settings, chat.prefix(model.tokenizer))
    buckets = {sampler.bucket(ids) for ids in prompts}
    assert len(buckets) == 1
    batch = sampler.open_batch(buckets.pop(), sampler.split_weights(), prompts)
    waiting = list(samples)
    cancelled = {samples[1], samples[6], samples[-1]}
    answers = {}
    partial = {}
    while waiting or len(answers) < len(samples) - len(cancelled):
        batch.add(waiting[:2])
        waiting = waiting[2:]
        answers |= batch.step(3)
        partial |= batch.drawn()
        for sample in cancelled - set(waiting):
            batch.cancel(sample)
    for sample, tokens in partial.items():
        assert expected[sample.prompt][sample.number][: len(tokens)] == tokens
    for sample in set(samples) - cancelled:
        assert answers[sample] == expected[sample.prompt][sample.number]
    assert batch.step(3) == batch.drawn() == {}
