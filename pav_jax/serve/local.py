"""Answers requests with a booster in this process."""

import dataclasses
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from pav_jax.booster.booster import Booster, clean
from pav_jax.booster.guard import OFF, Request
from pav_jax.booster.likelihood import log_likelihoods
from pav_jax.booster.replies import read_reply
from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.records import Refinement, stable_seed
from pav_jax.seeds import seeds_for_prompts
from pav_jax.serve.backend import Reply, TextRequest
from pav_jax.serve.call import Call
from pav_jax.serve.engine import Answer, Engine, Job
from pav_jax.serve.errors import ApiError, timed_out

WARM_UP_PROMPT = "a dog runs"
WARM_UP_TIMEOUT_S = 3600.0  # a large model compiles for minutes
# the end of a text that may become a mark of a thought, or is part of a character
UNSETTLED = re.compile(r"(?:[<\[][^<>\[\]]{0,15}|\ufffd+)\Z")


class LocalBackend:
    """A booster whose language model an engine owns; see `backend.Backend`."""

    def __init__(self, booster: Booster, name: str | None = None):
        """Start the engine.

        Args:
          name: what clients call the model; None: its own name.

        Raises:
          BadInput: an adapter has that name.
        """
        self.booster = booster
        model = booster.language_model
        self.base = name or model.name
        names = [self.base, *model.adapter_names]
        default = booster.default_adapter
        self.models = sorted(names, key=lambda name: name != default)  # the default is first
        if self.base in model.adapter_names:
            raise BadInput(
                f"--name={self.base}: an adapter has this name; choose another",
                source="--name",
            )
        self.engine = Engine(model)
        self.guard = booster.guard
        self.num_rows = booster.language_model.batch_size
        self._likelihood_lock = threading.Lock()  # bounds memory
        self.engine.start()

    def warm_up(self) -> None:
        """Compile the programs for a short prompt, the default settings and the guard.

        Raises:
          BadInput: the model cannot answer.
        """
        call = Call(WARM_UP_TIMEOUT_S)
        request = TextRequest(
            call,
            self.models[0],
            (WARM_UP_PROMPT,),
            1,
            0,
            self.sampling_of(self.models[0]),
            guard=self.guard,
        )
        try:
            self.refine(request)
        except ApiError as error:
            raise BadInput(f"{self.models[0]}: {error.detail}", source="--model") from error
        if self.guard.mode != OFF:
            self.log_likelihoods(Request(WARM_UP_PROMPT), [WARM_UP_PROMPT], call)

    def refine(self, request: TextRequest) -> list[Refinement]:
        """See `backend.Backend`."""
        model = cast(LanguageModel, EngineModel(self, request))
        booster = Booster(model, request.settings, request.guard)
        adapter = self.adapter_of(request.model)
        rewrites = booster.refine(request.prompts, request.n, request.seed, adapter)
        return [refinement for refinements in rewrites for refinement in refinements]

    def log_likelihoods(self, request: Request, texts: Sequence[str], call: Call) -> list[float]:
        """See `booster.likelihood.log_likelihoods`; for one request at a time.

        Raises:
          ApiError: the time was over before it was this one's turn.
        """
        with self._likelihood_lock:
            if call.is_over():
                raise timed_out()
            return log_likelihoods(self.booster.language_model, request, texts)

    def complete(self, request: TextRequest) -> list[list[str]]:
        """See `backend.Backend`."""
        settings = dataclasses.asdict(request.settings)
        return EngineModel(self, request).generate(
            request.prompts, num_return_sequences=request.n, seed=request.seed, **settings
        )

    def stream(self, request: TextRequest, notify: Callable[[], object]) -> "JobStream":
        """See `backend.Backend`."""
        if request.is_rewrite:
            prompts = [clean(prompt) for prompt in request.prompts]
            chats = [chat.user_chat(prompt) for prompt in prompts]
            seeds = [stable_seed(request.seed, prompt) for prompt in prompts]
        else:
            chats = list(request.prompts)
            seeds = seeds_for_prompts(request.seed, len(chats))
        jobs = [
            self.submit(request, text, seed, request.n, request.settings, notify)
            for text, seed in zip(chats, seeds, strict=True)
        ]
        return JobStream(jobs, request)

    def is_healthy(self) -> bool:
        """See `backend.Backend`."""
        return self.engine.is_running()

    def num_waiting(self) -> int:
        """See `backend.Backend`."""
        return self.engine.num_waiting()

    def close(self) -> None:
        """See `backend.Backend`."""
        self.engine.close()

    def submit(
        self,
        request: TextRequest,
        prompt: str | chat.Chat,
        seed: int,
        n: int,
        settings: Sampling,
        notify: Callable[[], object] | None = None,
    ) -> Job:
        """Give the engine the job of n answers to a prompt.

        Raises:
          ApiError: the prompt does not fit into the model's context.
        """
        adapter = self.adapter_of(request.model)
        ids = self.engine.encode(prompt, adapter)
        slots = self._slots(settings.max_new_tokens)
        limit = self.booster.language_model.max_prompt_tokens(slots)
        if len(ids) > limit:
            raise ApiError(
                400,
                f"the prompt has {len(ids):,} tokens, with the model's instruction if it has one;"
                f" shorten it to {limit:,}",
                code="context_length_exceeded",
            )
        job = Job(
            ids,
            not isinstance(prompt, str),
            seed,
            n,
            dataclasses.replace(settings, max_new_tokens=slots),
            settings.max_new_tokens,
            request.call,
            request.stop,
            adapter,
            notify,
        )
        self.engine.submit(job)
        return job

    def sampling_of(self, model: str) -> Sampling:
        """See `backend.Backend`."""
        return self.booster.sampling_of(self.adapter_of(model))

    def adapter_of(self, model: str) -> str | None:
        """Return the adapter that a model's name stands for; None for the base model."""
        return None if model == self.base else model

    def _slots(self, max_tokens: int) -> int:
        """How many tokens a batch has slots for: few sizes, because each compiles anew."""
        slots = self.booster.sampling.max_new_tokens
        while slots < max_tokens:
            slots *= 2
        return min(slots, self.booster.language_model.config.max_position_embeddings)


class EngineModel:
    """Stands for the language model in a booster: one request's view of the engine."""

    def __init__(self, backend: LocalBackend, request: TextRequest):
        self.name = backend.base
        self._backend = backend
        self._request = request

    def generate(
        self,
        prompts: Sequence[str | chat.Chat],
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
        adapter_names: str | None = None,
        **settings: Any,
    ) -> list[list[str]]:
        """Generate texts as `LanguageModel.generate` does, with the request's adapter."""
        texts, _ = self.generate_scored(
            prompts, Sampling(**settings), num_return_sequences, seed, adapter_names
        )
        return texts

    def generate_scored(
        self,
        prompts: Sequence[str | chat.Chat],
        settings: Sampling,
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
        adapter_names: str | None = None,
    ) -> tuple[list[list[str]], list[list[float]]]:
        """See `language.scored_texts.generate_scored`; with the request's adapter."""
        del adapter_names  # the request names it
        seeds = seeds_for_prompts(seed, len(prompts))
        jobs = [
            self._backend.submit(self._request, prompt, seed, num_return_sequences, settings)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        groups = [_record(job, self._request.call) for job in jobs]
        texts = [[answer.text for answer in answers] for answers in groups]
        return texts, [[answer.log_prob for answer in answers] for answers in groups]

    def log_likelihoods(self, request: Request, texts: Sequence[str]) -> list[float]:
        """See `booster.likelihood.log_likelihoods`."""
        return self._backend.log_likelihoods(request, texts, self._request.call)


class JobStream:
    """The answers of jobs while they are written; see `backend.TextStream`."""

    def __init__(self, jobs: Sequence[Job], request: TextRequest):
        self._jobs = jobs
        self._request = request

    def texts(self) -> list[str]:
        """See `backend.TextStream`."""
        return [
            self._read(text if i in job.answers else _settled(text, job.stop))
            for job in self._jobs
            for i, text in enumerate(job.texts)
        ]

    def finish(self) -> list[Reply]:
        """See `backend.TextStream`."""
        is_rewrite, prompts = self._request.is_rewrite, self._request.prompts
        fallbacks = map(clean, prompts) if is_rewrite else [""] * len(prompts)
        return [
            Reply(self._read(answer.text) or fallback)
            for job, fallback in zip(self._jobs, fallbacks, strict=True)
            for answer in _record(job, self._request.call)
        ]

    def _read(self, text: str) -> str:
        return read_reply(text) if self._request.is_rewrite else text


def _record(job: Job, call: Call) -> list[Answer]:
    """Wait for a job's answers, and count them in the call."""
    answers = job.wait()
    call.prompt_tokens += len(job.prompt_ids)
    call.completion_tokens += sum(answer.tokens for answer in answers)
    call.finish_reasons += [answer.finish_reason for answer in answers]
    return answers


def _settled(text: str, stop: Iterable[str]) -> str:
    """The beginning of an unfinished text that more tokens do not change."""
    text = UNSETTLED.sub("", text)
    ends = [text[:-i] for s in stop for i in range(1, len(s)) if text.endswith(s[:i])]
    return min(ends, key=len, default=text)
