"""Answers requests through another OpenAI-compatible server: vLLM, sglang-jax, llama.cpp, Ollama.

Each answer is a request of its own, because not all servers take n. Only fields of OpenAI's API are
sent: no top_k and no repetition_penalty. The text of the other server's errors is never shown.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

import openai

from pav_jax.booster.booster import Booster
from pav_jax.booster.guard import Guard
from pav_jax.endpoints.addresses import api_key, check_address
from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.records import Refinement, stable_seed
from pav_jax.redaction import redact_known
from pav_jax.seeds import seeds_for_prompts
from pav_jax.serve.backend import TextRequest
from pav_jax.serve.call import Call
from pav_jax.serve.errors import ApiError, timed_out
from pav_jax.serve.replies import WholeStream, answer

API_KEY_VARIABLE = "PAV_UPSTREAM_API_KEY"
MAX_RETRIES = 2
CONNECT_TIMEOUT_S = 10.0
GUARD = Guard()  # of a request that names none
SAMPLING = Sampling(temperature=0.6, top_p=0.95)  # of a request that names none
T = TypeVar("T")


class UpstreamBackend:
    """The models of another server; see `backend.Backend`."""

    def __init__(
        self,
        address: str,
        models: Sequence[str] = (),
        timeout_s: float = 120.0,
        guard: Guard = GUARD,
    ):
        """Start the client.

        Args:
          address: as in "http://127.0.0.1:8080"; "/v1" is added where it has no path.
          models: the names of models there; empty: those that it lists now.
          timeout_s: for one answer.
          guard: what rewrites must keep by default.

        Raises:
          BadInput: the address cannot be used, or no models are known.
        """
        check_address(address, "--upstream", API_KEY_VARIABLE)
        self.address = address.rstrip("/")
        if self.address.count("/") == 2:
            self.address += "/v1"
        self.guard = guard
        self.num_rows = 16
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        self._client = openai.AsyncOpenAI(
            base_url=self.address,
            api_key=api_key(API_KEY_VARIABLE, "--upstream") or "none",
            max_retries=MAX_RETRIES,
            timeout=openai.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        )
        self.models = list(models) or self._list_models()

    def _list_models(self) -> list[str]:
        try:
            names = self.run(Call(CONNECT_TIMEOUT_S), self._model_names())
        except (ApiError, AttributeError, TypeError):
            names = []
        if not names:
            raise BadInput(
                f"--upstream={self.address}: it lists no models; start it first, or name its model"
                " with --model",
                source="--upstream",
            )
        return names

    async def _model_names(self) -> list[str]:
        return [model.id async for model in self._client.models.list()]

    def sampling_of(self, model: str) -> Sampling:
        """See `backend.Backend`; the same for all models."""
        del model
        return SAMPLING

    def refine(self, request: TextRequest) -> list[Refinement]:
        """See `backend.Backend`."""
        model = cast(LanguageModel, UpstreamModel(self, request))
        booster = Booster(model, request.settings, request.guard)
        rewrites = booster.refine(request.prompts, request.n, request.seed)
        return [refinement for refinements in rewrites for refinement in refinements]

    def complete(self, request: TextRequest) -> list[list[str]]:
        """See `backend.Backend`."""
        return UpstreamModel(self, request).generate(
            request.prompts, num_return_sequences=request.n, seed=request.seed
        )

    def stream(self, request: TextRequest, notify: Callable[[], object]) -> WholeStream:
        """See `backend.Backend`; the answers come as a whole."""
        return WholeStream(lambda: answer(self, request))

    def is_healthy(self) -> bool:
        """See `backend.Backend`."""
        return self._thread.is_alive()

    def num_waiting(self) -> int:
        """See `backend.Backend`."""
        return 0

    def close(self) -> None:
        """See `backend.Backend`."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def run(self, call: Call, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine of the client returns, unless the call is cancelled before.

        Raises:
          ApiError: the other server does not answer, or refuses.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        call.on_cancel(future.cancel)
        try:
            return future.result(call.seconds_left())
        except (TimeoutError, concurrent.futures.CancelledError, openai.APITimeoutError):
            future.cancel()
            raise timed_out() from None
        except openai.APIStatusError as error:
            raise _refused(error.status_code) from None
        except openai.APIConnectionError:
            raise _bad_gateway("cannot be reached") from None
        except (openai.OpenAIError, ValueError, RecursionError):
            raise _bad_gateway("sent an answer that is not JSON") from None

    async def ask(self, model: str, prompt: str | chat.Chat, fields: dict[str, Any]) -> Any:
        """Return the other server's answer to a prompt or a chat."""
        if isinstance(prompt, str):
            return await self._client.completions.create(model=model, prompt=prompt, **fields)
        messages: Any = [dict(message) for message in prompt]
        return await self._client.chat.completions.create(model=model, messages=messages, **fields)


class UpstreamModel:
    """Stands for the language model in a booster: one request's view of the other server."""

    def __init__(self, backend: UpstreamBackend, request: TextRequest):
        self.name = request.model
        self._backend = backend
        self._request = request

    def generate(
        self,
        prompts: Sequence[str | chat.Chat],
        num_return_sequences: int = 1,
        seed: int | Sequence[int] = 0,
        **_: Any,
    ) -> list[list[str]]:
        """Generate texts as `LanguageModel.generate` does, with the settings of the request."""
        settings = self._request.settings
        fields: dict[str, Any] = {
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
        }
        if self._request.stop:
            fields["stop"] = list(self._request.stop)
        requests = [
            self._backend.ask(
                self._request.model,
                prompt,
                fields | {"seed": stable_seed(seed, i) if i else seed % 2**31},
            )
            for prompt, seed in zip(prompts, seeds_for_prompts(seed, len(prompts)), strict=True)
            for i in range(num_return_sequences)
        ]

        async def all_answers() -> list[Any]:
            return await asyncio.gather(*requests)

        replies = self._backend.run(self._request.call, all_answers())
        texts = [self._read(reply) for reply in replies]
        n = num_return_sequences
        return [texts[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _read(self, reply: Any) -> str:
        """The text of a reply; the client does not check the types of what a server sends."""
        try:
            choice = reply.choices[0]
            text = choice.message.content if hasattr(choice, "message") else choice.text
            reason = choice.finish_reason
        except (AttributeError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise _bad_gateway("sent an answer without a text")
        call = self._request.call
        call.finish_reasons.append("length" if reason == "length" else "stop")
        usage = getattr(reply, "usage", None)
        for name in ("prompt_tokens", "completion_tokens"):
            count = getattr(usage, name, 0)
            setattr(call, name, getattr(call, name) + (count if isinstance(count, int) else 0))
        return redact_known(text).encode("utf-8", "replace").decode()  # no lone surrogates


def _refused(status: int) -> ApiError:
    if status == 429:
        return ApiError(
            429,
            "the server behind this one has too many requests; try again later",
            code="upstream_busy",
            headers={"Retry-After": "5"},
        )
    if status in (400, 413, 422):
        return ApiError(
            400,
            f"the server behind this one refuses the request (status {status})",
            code="upstream",
        )
    return _bad_gateway(f"answered with status {status}")


def _bad_gateway(what: str) -> ApiError:
    return ApiError(502, f"the server behind this one {what}", code="upstream_error")
