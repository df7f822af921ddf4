"""One thread that owns the language model and answers all requests in shared batches.

Jobs wait in the order in which they came. The thread works on one batch at a time, whose jobs have
the same settings and the same padded prompt length. Between two chunks of tokens it takes the next
jobs that fit into free rows, frees the rows of jobs that have ended or that nobody waits for, and
reports the tokens drawn. When the first job of the queue does not fit, no later one is taken until
the batch is empty. The tokens of a job do not depend on the others (see `language.prefill`).
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pav_jax.language import chat
from pav_jax.language.batch import Batch
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.samples import Sample
from pav_jax.language.sampling import Sampling
from pav_jax.language.scheduler import Sampler
from pav_jax.serve.call import Call
from pav_jax.serve.errors import failed, log_failure, shutting_down, timed_out

CHUNK_TOKENS = 8  # drawn between two looks at the queue
MAX_OPEN_BATCHES = 2  # kept with their caches: the last ones used


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
      text: without special tokens, up to the stop sequence.
      tokens: how many were drawn.
      finish_reason: "stop" for an end by the model or a stop sequence, or "length".
      log_prob: mean log-probability of its tokens without the one that ends it, in nats; NaN where
        the engine ended it.
    """

    text: str
    tokens: int
    finish_reason: str
    log_prob: float = math.nan


@dataclasses.dataclass(eq=False)
class Job:
    """Answers to one prompt.

    Attributes:
      prompt_ids: token ids.
      is_chat: the prompt is a chat, not a text to continue.
      seed: of the prompt.
      n: how many answers.
      settings: how tokens are drawn; `max_new_tokens` is what the batch has slots for.
      max_tokens: the longest answer; at most `settings.max_new_tokens`.
      stop: texts that end an answer.
      adapter: the name of a loaded adapter; None for the model alone.
      call: the request that it belongs to.
      notify: called by the engine's thread when there are new tokens, and at the end.
      batch_key: what the jobs of one batch have in common; set by the engine.
      texts: what each answer holds so far; complete where `answers` has the answer.
      answers: the complete ones, by number.
      result: all answers, when they are complete.
    """

    prompt_ids: Sequence[int]
    is_chat: bool
    seed: int
    n: int
    settings: Sampling
    max_tokens: int
    call: Call
    stop: tuple[str, ...] = ()
    adapter: str | None = None
    notify: Callable[[], object] | None = None
    batch_key: Any = None
    texts: list[str] = dataclasses.field(default_factory=list)
    answers: dict[int, Answer] = dataclasses.field(default_factory=dict)
    result: concurrent.futures.Future = dataclasses.field(default_factory=concurrent.futures.Future)

    def __post_init__(self):
        self.texts = [""] * self.n

    def wait(self) -> list[Answer]:
        """Return the answers when they are complete.

        Raises:
          ApiError: the time is over, or the engine failed.
        """
        try:
            return self.result.result(self.call.seconds_left())
        except TimeoutError:
            raise timed_out() from None

    def fail(self, error: Exception) -> None:
        """End the job with an error."""
        if not self.result.done():
            self.result.set_exception(error)
        if self.notify is not None:
            self.notify()


class Engine:
    """Answers jobs with one language model; `start` it before the first job."""

    def __init__(self, language_model: LanguageModel):
        self.language_model = language_model
        self.prefix = chat.prefix(language_model.tokenizer)
        self._tokenizer_lock = threading.Lock()  # tokenizers change state while they encode
        self._condition = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._batches: collections.OrderedDict[Any, _OpenBatch] = collections.OrderedDict()
        self._weights: Any = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def num_waiting(self) -> int:
        """Return how many jobs no batch has taken yet."""
        return len(self._waiting)

    def is_running(self) -> bool:
        """Return whether jobs are answered."""
        return self._thread.is_alive() and not self._is_closed

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Fail the jobs that are left, and end the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    def encode(self, prompt: str | chat.Chat, adapter: str | None = None) -> list[int]:
        """Return the token ids of a prompt for an adapter, or for the model alone."""
        lm = self.language_model
        with self._tokenizer_lock:
            return lm.adapters.encode(lm.tokenizer, [prompt], [adapter])[0]

    def decode(self, job: Job, tokens: Sequence[int]) -> str:
        """Return the text of tokens of an answer; see `chat.decode_answers`."""
        ids = job.prompt_ids if job.is_chat else ()
        with self._tokenizer_lock:
            return chat.decode_answers(self.language_model.tokenizer, ids, [tokens])[0]

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises:
          ApiError: the engine is closed.
        """
        sampler = self._make_sampler(job.settings)
        job.batch_key = sampler.bucket(list(job.prompt_ids), job.adapter), job.settings
        with self._condition:
            if self._is_closed:
                raise shutting_down()
            self._waiting.append(job)
            self._condition.notify()
        job.call.on_cancel(self._wake)

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify()

    def _run(self) -> None:
        batch = None
        while True:
            with self._condition:
                while not (self._is_closed or self._waiting or (batch and batch.jobs)):
                    self._condition.wait()
                if self._is_closed:
                    break
            try:
                batch = self._choose(batch)
                if batch is not None:
                    self._fill(batch)
                    batch.step()
            except Exception as error:  # these jobs fail, not the server
                self._fail(batch, error)
                batch = None
        for job in [*self._waiting, *(batch.jobs.values() if batch else ())]:
            job.fail(shutting_down())

    def _fail(self, batch: "_OpenBatch | None", error: Exception) -> None:
        """Fail the jobs of a batch; without one the first that waits, which could not open it."""
        self._batches.clear()
        jobs = list(batch.jobs.values()) if batch else []
        with self._condition:
            if not jobs and self._waiting:
                jobs = [self._waiting.popleft()]
        log_failure(error, [job.call.request_id for job in jobs])
        for job in jobs:
            job.fail(failed(job.call.request_id))

    def _choose(self, batch: "_OpenBatch | None") -> "_OpenBatch | None":
        """Return the batch to work on: one that has jobs, else one for the first that waits."""
        with self._condition:
            for job in [job for job in self._waiting if job.call.is_over()]:
                self._waiting.remove(job)
                job.fail(timed_out())
            if batch is not None and batch.jobs:
                return batch
            key = self._waiting[0].batch_key if self._waiting else None
        return None if key is None else self._open(key)

    def _fill(self, batch: "_OpenBatch") -> None:
        """Put jobs of the queue into the free rows of a batch."""
        with self._condition:
            waiting = list(self._waiting)

        def fits(job: Job) -> bool:
            return job.batch_key == batch.key

        for job in itertools.takewhile(fits, waiting) if batch.jobs else filter(fits, waiting):
            if batch.num_free() <= 0:
                break
            with self._condition:
                self._waiting.remove(job)
            batch.add(job)

    def _make_sampler(self, settings: Sampling) -> Sampler:
        adapters = self.language_model.adapters
        named = adapters if adapters.names else None
        return self.language_model.make_sampler(settings, self.prefix, named, log_probs={})

    def _open(self, key: Any) -> "_OpenBatch":
        if key in self._batches:
            self._batches.move_to_end(key)
            return self._batches[key]
        bucket, settings = key
        sampler = self._make_sampler(settings)
        if self._weights is None:
            self._weights = sampler.split_weights()
        while len(self._batches) >= MAX_OPEN_BATCHES:
            self._batches.popitem(last=False)
        prompts: dict[int, list[int]] = {}
        rows = sampler.open_batch(bucket, self._weights, prompts)
        self._batches[key] = _OpenBatch(self, key, rows, prompts)
        return self._batches[key]


class _OpenBatch:
    """A batch of the language model, and the jobs in it."""

    def __init__(self, engine: Engine, key: Any, rows: Batch, prompts: dict[int, list[int]]):
        self.key = key
        self.jobs: dict[int, Job] = {}  # by the number that stands for the prompt in samples
        self._engine = engine
        self._rows = rows
        self._prompts = prompts
        self._next = 0

    def num_free(self) -> int:
        """Return how many rows have no sample; negative if samples wait."""
        unfinished = sum(job.n - len(job.answers) for job in self.jobs.values())
        return self._rows.shape.rows - unfinished

    def add(self, job: Job) -> None:
        """Take a job."""
        self.jobs[self._next] = job
        self._prompts[self._next] = list(job.prompt_ids)
        self._rows.add(_samples(self._next, job))
        self._next += 1

    def step(self) -> None:
        """Draw some tokens for all jobs, and report them."""
        for number, job in list(self.jobs.items()):
            if job.call.is_over():
                self._drop(number)
                job.fail(timed_out())
        if not self.jobs:
            return
        ended = self._rows.step(CHUNK_TOKENS)
        log_probs = self._rows.sampler.log_probs
        for sample, tokens in (self._rows.drawn() | ended).items():
            job = self.jobs[sample.prompt]
            answer = self._read(job, sample, tokens, sample in ended)
            if answer is not None:
                log_prob = log_probs.pop(sample, math.nan)
                job.answers[sample.number] = dataclasses.replace(answer, log_prob=log_prob)
                self._rows.cancel(sample)
        log_probs.clear()
        for number, job in list(self.jobs.items()):
            if len(job.answers) == job.n:
                self._drop(number)
                job.result.set_result([job.answers[i] for i in range(job.n)])
            if job.notify is not None:
                job.notify()

    def _read(self, job: Job, sample: Sample, tokens: list[int], is_end: bool) -> Answer | None:
        """Update the text of an answer; return the answer if it is complete."""
        is_end = is_end or len(tokens) >= job.max_tokens
        if not is_end and not job.stop and job.notify is None:
            return None  # nobody reads the text yet
        tokens = tokens[: job.max_tokens]
        text = self._engine.decode(job, tokens)
        ends = [text.index(stop) for stop in job.stop if stop in text]
        if ends:
            text = text[: min(ends)]
        job.texts[sample.number] = text
        if not is_end and not ends:
            return None
        is_stop = ends or tokens[-1] in self._engine.language_model.eos
        return Answer(text, len(tokens), "stop" if is_stop else "length")

    def _drop(self, number: int) -> None:
        job = self.jobs.pop(number)
        for sample in _samples(number, job):
            self._rows.cancel(sample)
        del self._prompts[number]


def _samples(prompt: int, job: Job) -> list[Sample]:
    return [Sample(prompt, number, job.seed, job.adapter) for number in range(job.n)]
