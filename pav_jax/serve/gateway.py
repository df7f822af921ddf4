"""What every request passes before its route: key, limits, time, counters, the log."""

import asyncio
import hmac
import math
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pav_jax.serve import web_page
from pav_jax.serve.errors import ApiError, ClientGone, internal_error, shutting_down
from pav_jax.serve.logs import LOG, new_request_id
from pav_jax.serve.metrics import Metrics
from pav_jax.serve.options import ServeLimits

WORK_ROUTES = ("/refine", "/preview", "/v1/chat/completions", "/v1/completions")
# of anything that does not change with use; a browser that opens a page has no key yet
OPEN_ROUTES = ("/health", "/docs", "/openapi.json", *web_page.FILES)
KEYED_ROUTES = ("/v1/models", "/metrics")
CLIENT_GONE = 499  # the status that the log and the counters show, as nginx does
LINGER_S = 30.0  # beyond its time limit, for a client that reads slowly


class ServerState:
    """What the requests of a server share.

    Attributes:
      limits: of requests.
      metrics: the counters.
      num_in_work: requests that run or wait.
      is_draining: new requests are refused, after SIGTERM.
    """

    def __init__(self, limits: ServeLimits, metrics: Metrics, max_concurrent: int):
        self.limits = limits
        self.metrics = metrics
        self.num_in_work = 0
        self.is_draining = False
        self._max_concurrent = max_concurrent
        self._mean_seconds = 1.0

    def enter(self) -> None:
        """Count a request in.

        Raises:
          ApiError: there are too many, or the server is shutting down.
        """
        if self.is_draining:
            raise shutting_down()
        if self.num_in_work >= self._max_concurrent:
            wait_s = min(60, math.ceil(self._mean_seconds))
            raise ApiError(
                429,
                f"the queue is full: {self.num_in_work} waiting or in work;"
                f" try again in {wait_s} s",
                code="queue_full",
                headers={"Retry-After": str(wait_s)},
            )
        self.num_in_work += 1
        self.metrics.in_work.inc()

    def leave(self, seconds: float) -> None:
        """Count a request out."""
        self.num_in_work -= 1
        self.metrics.in_work.dec()
        self._mean_seconds = 0.9 * self._mean_seconds + 0.1 * seconds


class Gateway:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, state: ServerState, api_key: str):
        """Wrap `app`.

        Args:
          api_key: that requests need; empty: none.
        """
        self._app = app
        self._state = state
        self._api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._state.limits, new_request_id())
        start = time.perf_counter()
        try:
            await self._answer(scope, exchange)
        except ApiError as error:
            await exchange.fail(error, scope)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except TimeoutError:
            exchange.status = exchange.status or CLIENT_GONE
        except Exception as error:
            await exchange.fail(internal_error(error), scope)
        finally:
            self._count(scope, exchange, time.perf_counter() - start)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        self._check_key(scope)
        if scope["path"] not in WORK_ROUTES or scope["method"] != "POST":
            await self._app(scope, exchange.receive, exchange.send)
            return
        exchange.check_length(Headers(scope=scope).get("content-length", ""))
        self._state.enter()
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._state.limits.timeout_s + LINGER_S):
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._state.leave(time.perf_counter() - start)

    def _check_key(self, scope: Scope) -> None:
        """Refuse a request without the key."""
        if not self._api_key or scope["path"] in OPEN_ROUTES:
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(key.strip().encode(), self._api_key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise ApiError(
                401,
                "the API key is missing or wrong; send the header 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _count(self, scope: Scope, exchange: "_Exchange", seconds: float) -> None:
        path, status = scope["path"], exchange.status or CLIENT_GONE
        # other paths may hold anything, also a prompt
        route = path if path in (*WORK_ROUTES, *OPEN_ROUTES, *KEYED_ROUTES) else "other"
        self._state.metrics.requests.labels(route, str(status)).inc()
        if route in WORK_ROUTES:
            self._state.metrics.seconds.labels(route).observe(seconds)
            line = scope["method"], route, status, seconds, exchange.request_id
            LOG.info("%s %s %d %.2f s %s", *line)


class _Exchange:
    """The two channels of one request."""

    def __init__(self, receive: Receive, send: Send, limits: ServeLimits, request_id: str):
        self.status = 0  # of the response; 0: not begun
        self.request_id = request_id
        self._receive = receive
        self._send = send
        self._deadline = time.monotonic() + limits.body_timeout_s
        self._max_bytes = limits.max_body_bytes
        self._num_bytes = 0
        self._has_body = False

    def check_length(self, length: str) -> None:
        """Refuse a body whose header says that it is too large."""
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is too large; the limit of this server is {self._max_bytes:,} bytes"
        )

    async def receive(self) -> Message:
        """Receive; the body has to come in time, and may not be too large.

        Raises:
          ApiError: it does not.
        """
        if self._has_body:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "the request's body did not arrive in time") from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._max_bytes:
            raise self._too_large()
        self._has_body = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self.request_id
        await self._send(message)

    async def fail(self, error: ApiError, scope: Scope) -> None:
        """Send an error, unless a response has begun."""
        if not self.status:
            await error.response()(scope, self._receive, self.send)
