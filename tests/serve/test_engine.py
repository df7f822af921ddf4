"""The thread that answers all requests: shared batches, cancelled and failing jobs."""

import dataclasses
import time

import pytest

from pav_jax.language.batch import Batch
from pav_jax.language.sampling import Sampling
from pav_jax.language.scheduler import Sampler
from pav_jax.serve.call import Call
from pav_jax.serve.engine import Engine, Job
from pav_jax.serve.errors import ApiError
from tests.tiers import first_fast
from tests.tiny.byte_language_model import tiny_language_model

SETTINGS = Sampling(max_new_tokens=40)
WORDS = ["rain", "a girl", "two dogs run", "x", "the quick brown fox jumps over", "7 cats", "sea"]


@pytest.fixture(scope="module")
def lm():
    return tiny_language_model()


@pytest.fixture(scope="module")
def engine(lm):
    engine = Engine(lm)
    engine.start()
    yield engine
    engine.close()


def make_job(engine, prompt, seed=0, n=1, settings=SETTINGS, timeout_s=60.0, **fields):
    ids = engine.encode(prompt)
    return Job(ids, False, seed, n, settings, settings.max_new_tokens, Call(timeout_s), **fields)


@pytest.mark.parametrize("words", first_fast([WORDS[:5], [*WORDS, "a longer text " * 7]]))
def test_answers_do_not_depend_on_other_jobs(engine, lm, words):
    settings = [SETTINGS, dataclasses.replace(SETTINGS, temperature=0.5), SETTINGS]
    jobs = [
        make_job(engine, word, seed, 1 + seed % 4, settings[seed % 3])
        for seed, word in enumerate(words)
    ]
    for job in jobs:
        engine.submit(job)
    for job in jobs:
        answers = job.wait()
        (expected,) = lm.generate_ids([job.prompt_ids], job.settings, job.n, job.seed)
        assert [a.text for a in answers] == [engine.decode(job, tokens) for tokens in expected]
        assert [a.tokens for a in answers] == [len(tokens) for tokens in expected]
    assert engine.num_waiting() == 0


def test_cancelled_and_late_jobs_free_their_rows(engine, lm):
    cancelled = make_job(engine, "sea", n=2000)
    late = make_job(engine, "sea", n=2000, timeout_s=0.3)
    job = make_job(engine, "rain")
    engine.submit(cancelled)
    engine.submit(late)
    engine.submit(job)
    time.sleep(0.05)
    cancelled.call.cancel()
    assert job.wait()[0].tokens > 0
    # it did not wait for theirs
    assert len(cancelled.answers) < 2000 and len(late.answers) < 2000
    for failed in (cancelled, late):
        with pytest.raises(ApiError, match="within the time limit"):
            failed.wait()
    again = make_job(engine, "rain")
    engine.submit(again)
    assert again.wait() == job.wait()


@pytest.mark.parametrize("method", [(Batch, "step"), (Batch, "_compute_prompts"), (Batch, "add")])
def test_failure_of_the_model_fails_its_jobs_only(engine, monkeypatch, method):
    job = make_job(engine, "rain")
    with monkeypatch.context() as patch:
        patch.setattr(*method, lambda *_: 1 / 0)
        engine.submit(job)
        with pytest.raises(ApiError, match="failed to answer"):
            job.wait()
    assert engine.is_running()
    again = make_job(engine, "rain")
    engine.submit(again)
    assert again.wait()[0].tokens > 0


def test_failure_to_open_a_batch_fails_the_first_job_only(engine, monkeypatch, caplog):
    jobs = [make_job(engine, word, settings=Sampling(max_new_tokens=33)) for word in ("sea", "x")]
    open_batch = Sampler.open_batch
    failures = iter([True])

    def fail_once(*arguments):
        return 1 / 0 if next(failures, False) else open_batch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "open_batch", fail_once)
        for job in jobs:
            engine.submit(job)
        with pytest.raises(ApiError, match="failed to answer"):
            jobs[0].wait()
        assert jobs[1].wait()[0].tokens > 0
    (record,) = caplog.records
    assert "ZeroDivisionError" in record.message and "in fail_once" in record.message


def test_failure_in_a_new_batch_fails_its_jobs_only(engine, monkeypatch):
    # no batch has these settings yet
    jobs = [make_job(engine, "sea", settings=Sampling(max_new_tokens=n)) for n in (31, 32)]
    add = Batch.add
    failures = iter([True])

    def fail_once(*arguments):
        return 1 / 0 if next(failures, False) else add(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "add", fail_once)
        for job in jobs:
            engine.submit(job)
        with pytest.raises(ApiError, match="failed to answer"):
            jobs[0].wait()
        assert jobs[1].wait()[0].tokens > 0


def test_closed_engine_fails_all_jobs(lm):
    engine = Engine(lm)
    job = make_job(engine, "rain", n=1000)
    engine.submit(job)
    engine.start()
    engine.close()
    with pytest.raises(ApiError, match="shutting down"):
        job.wait()
    with pytest.raises(ApiError, match="shutting down"):
        engine.submit(make_job(engine, "rain"))
    assert not engine.is_running()


def test_progress_is_told_while_texts_are_written(engine):
    texts = []
    job = make_job(engine, "sea", notify=lambda: texts.append(job.texts[0]))
    engine.submit(job)
    answer = job.wait().pop()
    assert len(texts) >= 40 // 8
    assert all(answer.text.startswith(text.rstrip("\ufffd")) for text in texts)
