"""From the bodies of requests to what a backend understands; refuses what the server cannot do."""

import dataclasses
import difflib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax.booster.guard import OFF, Guard
from pav_jax.booster.prompt_syntax import unknown_term
from pav_jax.errors import BadInput
from pav_jax.language.sampling import Sampling
from pav_jax.serve.backend import Backend, TextRequest
from pav_jax.serve.call import Call
from pav_jax.serve.errors import ApiError
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.schemas import (
    ChatBody,
    CompletionBody,
    GuardFields,
    OpenAIFields,
    PreviewBody,
    RefineBody,
    SamplingFields,
)

# fields of OpenAI's API that would change the answer in a way that is not implemented, and their
# values that change nothing, beside null, false, 0 and what is empty
UNSUPPORTED = {
    "audio": (),
    "best_of": (1,),
    "echo": (),
    "frequency_penalty": (),
    "function_call": ("none",),
    "functions": (),
    "logit_bias": (),
    "logprobs": (),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (),
    "suffix": (),
    "tool_choice": ("none", "auto"),
    "tools": (),
    "top_logprobs": (),
    "web_search_options": (),
}


@dataclasses.dataclass(frozen=True)
class RequestReader:
    """Reads bodies for one server.

    Attributes:
      backend: whose models and settings are the defaults.
      limits: of a request.
    """

    backend: Backend
    limits: ServeLimits

    def refine(self, body: RefineBody) -> TextRequest:
        """Read a request for one rewrite."""
        guard = self._guard(body.guard_fields(), (body.prompt,))
        request = self._request(body, (body.prompt,), 1, body.max_tokens, ())
        return _with_guard(request, guard)

    def preview(self, body: PreviewBody) -> Call:
        """Check a request for a video."""
        self._check_length((body.prompt,))
        return Call(self.limits.timeout_s)

    def chat(self, body: ChatBody) -> TextRequest:
        """Read a request for rewrites of the last message of the user."""
        if body.response_format is not None and body.response_format.type != "text":
            raise ApiError(
                400,
                f"response_format.type={body.response_format.type[:40]!r}: this model writes"
                ' prompts, not JSON; leave response_format out, or give {"type": "text"}',
                param="response_format",
                code="unsupported_value",
            )
        prompts = (last_user_text(body),)
        guard = self._openai_guard(body, prompts)
        max_tokens = body.max_completion_tokens or body.max_tokens
        return _with_guard(self._openai_request(body, prompts, max_tokens), guard)

    def completion(self, body: CompletionBody) -> TextRequest:
        """Read a request for continuations of texts; for their rewrites if it names a guard."""
        prompts = (body.prompt,) if isinstance(body.prompt, str) else tuple(body.prompt)
        if not all(prompts):
            raise ApiError(400, "prompt: is empty; write at least one word", param="prompt")
        guard = Guard(OFF) if body.guard is None else self._openai_guard(body, prompts)
        request = self._openai_request(body, prompts, body.max_tokens)
        return dataclasses.replace(_with_guard(request, guard), is_rewrite=guard.mode != OFF)

    def model(self, name: str | None) -> str:
        """Return the model that a client names, or the default.

        Raises:
          ApiError: there is no such model.
        """
        models = self.backend.models
        if not name:
            return models[0]
        if name in models:
            return name
        near = difflib.get_close_matches(name, models, n=1) or models[:1]
        raise ApiError(
            404,
            f"there is no model of this name here; did you mean {near[0]!r}? /v1/models lists all",
            param="model",
            code="model_not_found",
        )

    def _openai_guard(self, body: OpenAIFields, prompts: Sequence[str]) -> Guard:
        fields = {} if body.guard is None else body.guard.guard_fields()
        return self._guard(fields, prompts, "guard.")

    def _guard(self, fields: Mapping[str, Any], prompts: Sequence[str], place: str = "") -> Guard:
        """The guard with the fields of a request, which are at `place` in its body."""
        try:
            guard = self.backend.guard.with_fields(fields)
        except BadInput as error:
            raise ApiError(400, str(error), param=f"{place}{error.field}") from None
        if terms := fields.get("keep"):
            self._check_length(prompts)
            if term := unknown_term(terms, prompts):
                field = f"{place}keep.{terms.index(term)}"
                message = "the prompt does not contain this term; write it as the prompt does"
                raise ApiError(400, f"{field}: {message}", field, "invalid_value")
        return guard

    def _openai_request(
        self, body: OpenAIFields, prompts: tuple[str, ...], max_tokens: int | None
    ) -> TextRequest:
        for name, value in (body.model_extra or {}).items():
            if name in GuardFields.model_fields and value is not None:
                place = f'{{"guard": {{"{name}": ...}}}}'
                raise ApiError(
                    400, f"{name}: is a field of guard; send {place}", name, "unsupported_parameter"
                )
            if name in UNSUPPORTED and value and value not in UNSUPPORTED[name]:
                raise ApiError(
                    400, f"{name}: is not supported; leave it out", name, "unsupported_parameter"
                )
        stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
        return self._request(body, prompts, body.n or 1, max_tokens, stop)

    def _request(
        self,
        body: SamplingFields,
        prompts: tuple[str, ...],
        n: int,
        max_tokens: int | None,
        stop: tuple[str, ...],
    ) -> TextRequest:
        model = self.model(body.model)
        limits = self.limits
        _at_most(limits.max_n, "n", n * len(prompts))
        _at_most(limits.max_tokens, "max_tokens", max_tokens or 1)
        self._check_length(prompts)
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        call = Call(limits.timeout_s)
        settings = self._settings(body, max_tokens, model)
        return TextRequest(call, model, prompts, n, seed, settings, stop)

    def _check_length(self, prompts: Sequence[str]) -> None:
        characters = sum(map(len, prompts))
        if characters > self.limits.max_prompt_characters:
            raise ApiError(
                400,
                f"the prompt has {characters:,} characters; shorten it to"
                f" {self.limits.max_prompt_characters:,}",
                param="prompt",
                code="string_above_max_length",
            )

    def _settings(self, body: SamplingFields, max_tokens: int | None, model: str) -> Sampling:
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        values = {name: getattr(body, name) for name in names}
        values["max_new_tokens"] = max_tokens
        overrides = {name: value for name, value in values.items() if value is not None}
        return dataclasses.replace(self.backend.sampling_of(model), **overrides)


def _with_guard(request: TextRequest, guard: Guard) -> TextRequest:
    if request.settings.temperature == 0:  # all samples are the same
        guard = dataclasses.replace(guard, samples=1)
    return dataclasses.replace(request, guard=guard)


def last_user_text(body: ChatBody) -> str:
    """Return the text of the last message of the user.

    Raises:
      ApiError: there is none, or it has parts that are not text.
    """
    for i, message in reversed(list(enumerate(body.messages))):
        if message.role != "user":
            continue
        if isinstance(message.content, str):
            return message.content
        parts = message.content or []
        for part in parts:
            if part.type != "text" or part.text is None:
                raise ApiError(
                    400,
                    "only parts of type 'text' are understood",
                    param=f"messages.{i}.content",
                    code="unsupported_content",
                )
        return "\n".join(part.text or "" for part in parts)
    raise ApiError(400, "no message of role 'user', whose text is the prompt", param="messages")


def _at_most(limit: int, name: str, value: int) -> None:
    if value > limit:
        raise ApiError(
            400, f"{name}={value}: the limit of this server is {limit}", name, "above_max_value"
        )
