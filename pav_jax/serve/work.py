"""Runs the blocking methods of a backend for the event loop, as long as somebody waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from pav_jax.errors import BadInput
from pav_jax.serve.backend import Backend, Reply, TextRequest
from pav_jax.serve.call import Call
from pav_jax.serve.errors import ApiError, ClientGone, internal_error, timed_out
from pav_jax.serve.replies import open_stream

PING_S = 15.0
T = TypeVar("T")


class Workers:
    """Threads for the requests of one server."""

    def __init__(self, num_threads: int):
        self._limiter = anyio.CapacityLimiter(num_threads)

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns in a thread, which is left alone on cancellation.

        Raises:
          ApiError: by `function`, or in the place of any other error.
        """

        def in_thread() -> T:
            try:
                return function()
            except BadInput as error:
                field = "prompt" if error.field == "prompts" else error.field
                raise ApiError(400, str(error), param=field) from None
            except ApiError:
                raise
            except Exception as error:
                raise internal_error(error) from None

        return await anyio.to_thread.run_sync(
            in_thread, abandon_on_cancel=True, limiter=self._limiter
        )

    async def answer(self, request: Request, call: Call, function: Callable[[], T]) -> T:
        """Return what `function` returns, unless the client leaves or its time is over.

        Raises:
          ClientGone: the client closed the connection.
          ApiError: the time is over, or `function` failed.
        """
        work = asyncio.ensure_future(self.run(function))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait(
                {work, gone}, timeout=call.seconds_left(), return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                return work.result()
            raise ClientGone if gone.done() else timed_out()
        finally:
            call.cancel()
            for task in (work, gone):
                task.cancel()

    async def updates(
        self, backend: Backend, request: TextRequest
    ) -> AsyncIterator[Sequence[Reply] | None]:
        """Yield the beginnings of all answers, at last the whole ones; None if nothing is new.

        Raises:
          ApiError: the time is over, or the backend failed.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def notify() -> None:
            loop.call_soon_threadsafe(changed.set)

        stream = await self.run(lambda: open_stream(backend, request, notify))
        work = asyncio.ensure_future(self.run(stream.finish))
        work.add_done_callback(lambda _: changed.set())
        try:
            while not work.done():
                is_changed = await _is_set(changed, request.call)
                yield [Reply(text) for text in stream.texts()] if is_changed else None
            yield work.result()
        finally:
            request.call.cancel()
            work.cancel()


async def _is_set(changed: asyncio.Event, call: Call) -> bool:
    """Wait for an event, and clear it; False after a while without it.

    Raises:
      ApiError: the time of the request is over.
    """
    try:
        await asyncio.wait_for(changed.wait(), min(PING_S, call.seconds_left()))
    except TimeoutError:
        if not call.seconds_left():
            raise timed_out() from None
        return False
    changed.clear()
    return True


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection; the body has been read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
