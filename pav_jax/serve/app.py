"""The routes of the server."""

import functools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

import pav_jax
from pav_jax.records import Refinement, to_json
from pav_jax.serve.backend import Backend, TextRequest
from pav_jax.serve.errors import ApiError
from pav_jax.serve.gateway import Gateway, ServerState
from pav_jax.serve.metrics import Metrics
from pav_jax.serve.openai_format import ResponseForm, stream_events
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.preview import Previewer
from pav_jax.serve.replies import answer
from pav_jax.serve.request_reader import RequestReader
from pav_jax.serve.schemas import ChatBody, CompletionBody, OpenAIFields, PreviewBody, RefineBody
from pav_jax.serve.web_page import add_page
from pav_jax.serve.work import Workers

ABOUT = """\
A booster rewrites short prompts for text-to-video models. `/refine` is its own route. Under `/v1`
it answers as a model of OpenAI's API does: the last message of the user is the prompt, and the
answer is its rewrite. The guard compares rewrites with the prompt; where none is faithful, the
prompt comes back unchanged."""


class Server:
    """The routes, and what they share; `app` is the ASGI application."""

    def __init__(
        self,
        backend: Backend,
        limits: ServeLimits,
        key: str = "",
        previewer: Previewer | None = None,
    ):
        """Create the application.

        Args:
          key: that requests need; empty: none.
          previewer: makes the videos of /preview; None: there is no such route.
        """
        self.backend = backend
        self.metrics = Metrics(backend.num_waiting)
        max_concurrent = backend.num_rows + limits.max_queue
        self.state = ServerState(limits, self.metrics, max_concurrent)
        self._previewer = previewer
        self._reader = RequestReader(backend, limits)
        self._workers = Workers(max_concurrent)
        self._created = int(time.time())
        self.app = fastapi.FastAPI(
            title="pav serve",
            description=ABOUT,
            version=pav_jax.__version__,
            telemetry={"auto_configure": False},
            redoc_url=None,
        )
        self.app.add_middleware(Gateway, state=self.state, api_key=key)
        for kind, handler in HANDLERS.items():
            self.app.add_exception_handler(kind, handler)
        self._add_routes()

    def _add_routes(self) -> None:
        post = functools.partial(self.app.post, responses=ERRORS)
        get = self.app.get
        post("/refine", response_model=Refinement, summary="Rewrite a prompt")(self.refine)
        post("/v1/chat/completions", summary="Rewrite the user's last message")(self.chat)
        post("/v1/completions", summary="Continue texts, without an instruction")(self.complete)
        get("/v1/models", summary="List the models")(self.models)
        described = {status: ERRORS[status] for status in (401, 404, "4XX")}
        get("/v1/models/{name:path}", summary="Describe a model", responses=described)(
            self.show_model
        )
        get("/health", summary="200 while requests are answered")(self.health)
        get("/metrics", summary="Counters for Prometheus")(self.show_metrics)
        if self._previewer is not None:
            post("/preview", response_class=Response, summary="Make a video")(self.preview)
        add_page(self.app, has_preview=self._previewer is not None)

    async def refine(self, body: RefineBody, request: fastapi.Request) -> Response:
        """Rewrite a prompt; the answer depends only on prompt, seed, model and settings."""
        text_request = self._reader.refine(body)
        (refinement,) = await self._workers.answer(
            request, text_request.call, lambda: self.backend.refine(text_request)
        )
        self._count(text_request)
        return Response(to_json(refinement), media_type="application/json")

    async def preview(self, body: PreviewBody, request: fastapi.Request) -> Response:
        """Make a video of a prompt with the server's generator; the answer is an MP4 file."""
        assert self._previewer is not None
        call = self._reader.preview(body)
        work = functools.partial(self._previewer.make_mp4, call, body.prompt, body.seed)
        return Response(
            await self._workers.answer(request, call, work),
            media_type="video/mp4",
            headers={"Cache-Control": "no-store"},
        )

    async def chat(self, body: ChatBody, request: fastapi.Request) -> Response:
        """Rewrite the last message of the user; other messages are not read."""
        return await self._respond(body, self._reader.chat(body), request)

    async def complete(self, body: CompletionBody, request: fastapi.Request) -> Response:
        """Continue texts as the language model does by itself; rewrite them with `guard`."""
        return await self._respond(body, self._reader.completion(body), request)

    async def _respond(
        self, body: OpenAIFields, text_request: TextRequest, request: fastapi.Request
    ) -> Response:
        form = ResponseForm(text_request, isinstance(body, ChatBody))
        if body.stream:
            has_usage = body.stream_options is not None and body.stream_options.include_usage
            updates = self._workers.updates(self.backend, text_request)
            events = stream_events(form, updates, text_request, has_usage)
            return StreamingResponse(
                self._counted(events, text_request),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )
        work = functools.partial(answer, self.backend, text_request)
        replies = await self._workers.answer(request, text_request.call, work)
        self._count(text_request)
        return JSONResponse(form.whole(replies))

    async def _counted(
        self, events: AsyncIterator[str], text_request: TextRequest
    ) -> AsyncIterator[str]:
        async for event in events:
            yield event
        self._count(text_request)

    def _count(self, text_request: TextRequest) -> None:
        self.metrics.prompt_tokens.inc(text_request.call.prompt_tokens)
        self.metrics.completion_tokens.inc(text_request.call.completion_tokens)

    async def models(self) -> dict[str, Any]:
        """List the models; the first is the default."""
        return {"object": "list", "data": [self._describe(name) for name in self.backend.models]}

    async def show_model(self, name: str) -> dict[str, Any]:
        """Describe a model; 404 if there is none of this name."""
        return self._describe(self._reader.model(name))

    def _describe(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "pav_jax"}

    async def health(self) -> JSONResponse:
        """Say whether requests are answered: 200, or 503 after SIGTERM or a failure."""
        if self.state.is_draining:
            return JSONResponse({"status": "shutting down"}, 503)
        if not self.backend.is_healthy():
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    async def show_metrics(self) -> Response:
        """Return the counters."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _show_api_error(_: fastapi.Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _show_http_error(_: fastapi.Request, error: Exception) -> Response:
    """An error of the framework: no such route, wrong method, a body that is not JSON."""
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is no such route; /docs lists all",
        405: "this route does not take this method; /docs lists all",
    }
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()


async def _show_invalid(_: fastapi.Request, error: Exception) -> Response:
    """The first field of a body that does not fit; nothing of its value."""
    assert isinstance(error, RequestValidationError)
    # of a field with several types, the error of the type that was meant
    first = min(error.errors(), key=lambda e: e["type"] in ("string_type", "list_type"))
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", code="invalid_json").response()
    place = [str(part) for part in first["loc"] if part != "body"]
    if not place:
        return ApiError(
            400, "the body is not a JSON object; send one with Content-Type: application/json"
        ).response()
    field = ".".join(part for part in place if not TYPE_NAME.search(part))
    return ApiError(400, f"{field}: {first['msg']}", param=field, code="invalid_value").response()


TYPE_NAME = re.compile(r"\[|^(?:constrained-)?str$")  # in the place of an error
HANDLERS: dict[Any, Callable[[fastapi.Request, Exception], Awaitable[Response]]] = {
    ApiError: _show_api_error,
    HTTPException: _show_http_error,
    RequestValidationError: _show_invalid,
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request is wrong: error.message says what to change"},
    401: {"description": "the API key is missing or wrong"},
    404: {"description": "there is no such model"},
    "4XX": {"description": "the body came too late (408)"},  # without it, FastAPI lists 422
    413: {"description": "the body is too large"},
    429: {"description": "too many requests are waiting; see Retry-After"},
    503: {"description": "the server is shutting down"},
    504: {"description": "the answer was not complete within the time limit"},
}
