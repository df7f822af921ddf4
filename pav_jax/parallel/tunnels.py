"""Tunnels through which JAX's clients reach the coordinator, in a process of their own.

Some calls of JAX hold the GIL while they wait for the coordinator, for example the one that agrees
on the step at which all processes stop. A thread of the same process could not pass the answer on,
and the call would never return. So this file also runs as a script, which needs only the standard
library:

    python -P tunnels.py dial FD HOST PORT     FD listens for JAX's client; HOST:PORT is process 0
    python -P tunnels.py serve FD PORT         FD is the port of process 0; PORT the coordinator's

The script ends when its standard input closes, which the kernel does when the process that started
it ends, however it ends.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

START_TIMEOUT_S = 300  # for all processes to start
DIAL_INTERVAL_S = 0.5
HELLO_TIMEOUT_S = 5
# The kernel probes an idle connection after this many seconds, then as often, and gives up after
# some probes without answer: 20 s after a host was lost.
KEEPALIVE_S = 5
KEEPALIVE_PROBES = 3
# JAX aborts its process, with a C++ stack, when its connection to the coordinator closes. Before
# that there is time to say which process is lost. Later a call of JAX could wait forever.
CLOSE_AFTER_S = 30
BUFFER_BYTES = 1 << 16
TUNNEL = "pav tunnel"  # the first words on a tunnel to process 0


class Tunnels:
    """The script, running as long as this process does.

    Attributes:
      address: HOST:PORT at which JAX in this process starts or finds the coordinator.
    """

    def __init__(self, listener: socket.socket | None, address: tuple[str, int]):
        """Start this process's end.

        Args:
          listener: the port of process 0, which the script takes over; None in other processes.
          address: (host, port) of process 0.
        """
        if listener is None:
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            command = ["dial", listener.fileno(), *address]
        else:
            port = _free_port()
            command = ["serve", listener.fileno(), port]
        self.address = f"127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C must not end it before this process
        )
        listener.close()


def encode(*words: Any) -> bytes:
    """A message: one line of JSON."""
    return (json.dumps(words) + "\n").encode()


def read_hello(connection: socket.socket, timeout: float | None = None) -> list[Any]:
    """The first message of a connection; [] if there is none. No byte after it is read.

    Args:
      timeout: seconds; None: `HELLO_TIMEOUT_S`.
    """
    connection.settimeout(HELLO_TIMEOUT_S if timeout is None else timeout)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 1000:
            byte = connection.recv(1)
            if not byte:
                return []
            line += byte
        words = json.loads(line)
    except (OSError, ValueError):
        return []
    return words if isinstance(words, list) else []


def prepare(connection: socket.socket) -> None:
    """Wait without limit for data, but notice it when the other host is lost."""
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S),  # Linux; other systems have times of their own
        ("TCP_KEEPINTVL", KEEPALIVE_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", 1000 * KEEPALIVE_S * (KEEPALIVE_PROBES + 1)),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def start_thread(target: Callable[..., None], *args: Any) -> None:
    """Run a function in a thread that does not keep the process alive."""
    threading.Thread(target=target, args=args, daemon=True).start()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# ------------------------------------------------------------------------------------- the script


def _accept(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = listener.accept()
        start_thread(handle, connection)


def _dial(client: socket.socket, address: tuple[str, int]) -> None:
    """Connect a client on this host with process 0."""
    with contextlib.suppress(OSError):  # process 0 is gone; the link to it says so
        remote = socket.create_connection(address, START_TIMEOUT_S)
        prepare(remote)
        remote.sendall(encode(TUNNEL))
        start_thread(_copy, client, remote)
        _copy(remote, client)
    time.sleep(CLOSE_AFTER_S)
    client.close()


def _serve(remote: socket.socket, port: int) -> None:
    """Connect a tunnel with the coordinator, which may not have started yet."""
    end = time.monotonic() + START_TIMEOUT_S
    if read_hello(remote) != [TUNNEL]:
        remote.close()  # a link comes too late: its process was restarted, this one will be too
        return
    prepare(remote)
    while time.monotonic() < end:
        try:
            coordinator = socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(DIAL_INTERVAL_S)
            continue
        start_thread(_copy, remote, coordinator)
        _copy(coordinator, remote)
        return


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Pass on all bytes. The target stays open."""
    with contextlib.suppress(OSError):
        while data := source.recv(BUFFER_BYTES):
            target.sendall(data)


def main(role: str, descriptor: str, *target: str) -> None:
    """Pass on connections until standard input closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the process it serves may still save its state
        signal.signal(number, signal.SIG_IGN)
    listener = socket.socket(fileno=int(descriptor))
    if role == "dial":
        address = (target[0], int(target[1]))
        start_thread(_accept, listener, lambda client: _dial(client, address))
    else:
        start_thread(_accept, listener, lambda remote: _serve(remote, int(target[0])))
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
