"""Runs the server until SIGTERM or SIGINT, after which it finishes what runs."""

import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from pav_jax.errors import BadInput
from pav_jax.serve.app import Server
from pav_jax.serve.gateway import ServerState
from pav_jax.serve.logs import texts_withheld

KEEP_ALIVE_S = 30
GRACE_S = 5  # beyond the time limit of requests, for connections to close


class DrainingServer(uvicorn.Server):
    """Refuses new requests after the first signal, ends when none is left, or at the second."""

    def __init__(self, config: uvicorn.Config, state: ServerState, announce: Callable[[], None]):
        super().__init__(config)
        self._state = state
        self._announce = announce
        self._end = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and only then say so: clients connect as soon as they read it."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or SIGINT."""
        if self._state.is_draining:
            self.should_exit = self.force_exit = True
            return
        self._state.is_draining = True
        self._end = time.monotonic() + self._state.limits.timeout_s + GRACE_S
        print(
            f"pav serve: {signal.Signals(sig).name}; finishing {self._state.num_in_work} requests"
            " (again: stop now)",
            file=sys.stderr,
            flush=True,
        )

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether the server should end."""
        is_idle = not self._state.num_in_work or time.monotonic() > self._end
        if self._state.is_draining and is_idle:
            self.should_exit = True
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that holds an address but does not listen yet.

    Raises:
      BadInput: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(
            f"--host={host} --port={port}: {reason}; choose another", source="--port"
        ) from None
    return listener


def serve(server: Server, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Answer requests until a signal; what runs is finished.

    The log has one line for each request, without anything that users wrote.

    Args:
      server: the routes.
      listener: of `bind`.
      announce: called once connections are accepted.
    """
    config = uvicorn.Config(
        server.app,
        log_config=None,
        access_log=False,  # it would write addresses with what is in them
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )
    with texts_withheld(sys.stderr):
        DrainingServer(config, server.state, announce).run(sockets=[listener])
