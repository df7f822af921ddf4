"""The connections between processes: they notice the loss of one and end the others with one line.

JAX itself ends the surviving processes, without naming the one that is lost. When its coordinator,
in process 0, is gone, the client in every other process calls `abort` at once, with a C++ stack. No
option of `jax.distributed` prevents that: `jax_enable_recoverability` covers the other processes
only, and a `missed_heartbeat_callback` in Python ends in `std::bad_cast`, since its argument has no
Python type. A process other than 0 is missed only after `heartbeat_timeout_seconds`, by an abort
too, as is one that does not start.

So each process has a connection of its own to process 0. The kernel closes it when a process ends,
however it ends, and probes it, so that a lost host is noticed; neither depends on a Python thread
getting its turn, as heartbeats would. And JAX's clients reach the coordinator through tunnels, see
`tunnels`: a port on their own host, and the port of process 0, where links and tunnels arrive. The
end of a tunnel at the client stays open for a while when process 0 is gone, so that there is time
to say so.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import NoReturn

from pav_jax.errors import BadInput, TemporaryFailure
from pav_jax.parallel.tunnels import (
    DIAL_INTERVAL_S,
    HELLO_TIMEOUT_S,
    START_TIMEOUT_S,
    Tunnels,
    encode,
    prepare,
    read_hello,
    start_thread,
)

# How long the other processes may take to end by themselves when one of them has stopped with an
# error, which they often have too; and to end when process 0 has told them which one is lost.
GRACE_S = 5
# An error in this process may come from the loss of another, noticed a moment later.
SETTLE_S = 1
EXIT_LOST_PEER = 1  # launch/watch.sh and the JobSets of GKE run the command again

LINK = "pav link"  # the first words on a connection to process 0
READY = "ready"  # process 0 answers this on all links when it has them all
# What a message says of the process that it names.
FINISHED = "finished"  # it has done its work; from process 0: all have
STOPPED = "stopped"  # with an error
LOST = "lost"


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT.

    Raises:
      BadInput: it has another form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(
            f"{address!r}: the address of process 0 must be HOST:PORT", source="environment"
        )
    return host.strip("[]"), int(port)


class Peers:
    """The links to the other processes: process 0 has one to each, the others one to it.

    Attributes:
      coordinator_address: for `jax.distributed.initialize` in this process.
    """

    def __init__(self, index: int, count: int, address: str, name: str):
        """Wait until all processes are connected; all of them do this.

        Args:
          index: of this process; `count` is the number of processes.
          address: HOST:PORT of process 0.
          name: of the command, for messages.

        Raises:
          BadInput: the address or the number of processes cannot be.
          TemporaryFailure: a process did not start in time.
        """
        self._index = index
        self._count = count
        self._name = name
        self._links: dict[int, socket.socket] = {}
        self._hosts: dict[int, str] = {}
        self._left: set[int] = set()  # processes that said so: finished, stopped or lost
        self._changed = threading.Condition()
        self._verdict: tuple[int, str] | None = None  # (exit status, line)
        host, port = split_address(address)
        listener = None
        if index == 0:
            listener = self._listen(port)
        else:
            self._links[0] = self._dial(host, port)
        for other, link in self._links.items():
            prepare(link)
            start_thread(self._read, other, link)
        self._tunnels = Tunnels(listener, (host, port))
        self.coordinator_address = self._tunnels.address

    # ------------------------------------------------------------------------------- connecting

    def _listen(self, port: int) -> socket.socket:
        is_dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if is_dual else socket.AF_INET
        try:
            listener = socket.create_server(("", port), family=family, dualstack_ipv6=is_dual)
        except OSError as error:
            raise BadInput(
                f"port {port}: process 0 cannot listen there ({error.strerror}); choose another",
                source="environment",
            ) from error
        end = time.monotonic() + START_TIMEOUT_S
        while missing := sorted(set(range(1, self._count)) - self._links.keys()):
            listener.settimeout(max(end - time.monotonic(), 0.01))
            try:
                link, _ = listener.accept()
            except TimeoutError:
                self._refuse(f"{_processes(missing)} did not start within {START_TIMEOUT_S} s")
            self._greet(link)
        listener.settimeout(None)
        for link in self._links.values():
            link.sendall(encode(READY, socket.gethostname()))
        return listener

    def _greet(self, link: socket.socket) -> None:
        hello = read_hello(link)
        if len(hello) != 4 or hello[0] != LINK:
            link.close()
            return
        _, index, count, host = hello
        self._links[index] = link  # may replace that of a process that was started again
        self._hosts[index] = host
        if count != self._count or index not in range(1, count):
            self._refuse(
                f"process {index} on host {host} was started as one of {count}, process 0 as one of"
                f" {self._count}"
            )

    def _refuse(self, reason: str) -> NoReturn:
        """End this process and those that are connected already."""
        reason += f"; start the same command in all {self._count} processes"
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.sendall(encode(reason))
        raise TemporaryFailure(reason, source="environment")

    def _dial(self, host: str, port: int) -> socket.socket:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            time.sleep(DIAL_INTERVAL_S)
            try:
                link = socket.create_connection((host, port), HELLO_TIMEOUT_S)
                link.sendall(encode(LINK, self._index, self._count, socket.gethostname()))
            except OSError:
                continue  # process 0 has not started yet, or an earlier one is just ending
            answer = read_hello(link, START_TIMEOUT_S)  # more may have come already
            if answer and answer[0] != READY:
                raise TemporaryFailure(answer[0], source="environment")
            if answer:
                self._hosts[0] = answer[1]
                return link
        raise TemporaryFailure(
            f"process 0 did not start at {host}:{port} within {START_TIMEOUT_S} s, or"
            f" {_processes([self._index])} cannot reach it; start the same command in all"
            f" {self._count} processes",
            source="environment",
        )

    # --------------------------------------------------------------------------------- messages

    def _send(self, kind: str, index: int, text: str = "", status: int = 0) -> None:
        """Tell process 0, or process 0 all others."""
        for other, link in self._links.items():
            if other != index:
                with contextlib.suppress(OSError):
                    link.sendall(encode(kind, index, text, status))

    def _read(self, other: int, link: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), link.makefile("r") as lines:
            for line in lines:
                self._receive(*json.loads(line))
        with self._changed:
            was_lost = other not in self._left
        if was_lost:
            text = (
                f"process {other} on host {self._hosts[other]} is gone: it was killed or its host"
                " was lost; finished work is kept, run the same command in all processes to"
                " continue"
            )
            self._receive(LOST, other, text, EXIT_LOST_PEER)

    def _receive(self, kind: str, index: int, text: str, status: int) -> None:
        with self._changed:
            self._left.add(index)
            self._changed.notify_all()
            if kind == FINISHED or self._verdict is not None:
                return
            self._verdict = (status, f"{self._name}: {text}")
            if self._index == 0:  # before another thread can end this process
                self._send(kind, index, text, status)
        if kind == STOPPED:
            time.sleep(GRACE_S)
        elif self._index == 0:  # the others must have read the message when the links close
            with self._changed:
                self._changed.wait_for(lambda: self._left >= self._links.keys(), GRACE_S)
        self._end()

    def _end(self) -> None:
        """End this process if the reason lies in another; nothing here can be waited for."""
        with self._changed:  # only one thread prints
            if self._verdict is not None:
                status, line = self._verdict
                try:
                    # one write: the main thread may print too, as what it waits for has failed
                    sys.stderr.write(f"{line}\n")
                    sys.stderr.flush()
                finally:  # also where nobody reads standard error any more
                    os._exit(status)

    # ---------------------------------------------------------------------------------- leaving

    def finish(self) -> None:
        """Wait until all processes have finished their work; if one does not, this one ends."""
        with self._changed:
            if self._index:
                self._send(FINISHED, self._index)
            # where another process is lost or has stopped, `_receive` ends this one
            self._changed.wait_for(
                lambda: self._verdict is None and self._left >= self._links.keys()
            )
            if self._index == 0:
                self._send(FINISHED, 0)

    def stop(self, status: int, text: str = "", reason: str = "") -> NoReturn:
        """Tell the other processes that this one stops with an error, and end it.

        Where the error comes from the loss of another process, that is said instead.

        Args:
          status: the exit status.
          text: for standard error; empty if the reason has been printed.
          reason: what the others say; empty for the last line of `text`.
        """
        if text:
            time.sleep(SETTLE_S)
            self._end()
            print(text, file=sys.stderr)
        reason = reason or (text or f"exit status {status}").splitlines()[-1]
        reason = f"process {self._index} on host {socket.gethostname()} stopped: {reason}"
        self._send(STOPPED, self._index, reason, status)
        sys.stdout.flush()
        sys.stderr.flush()
        # the end of the interpreter would wait for the others in the coordinator's shutdown
        os._exit(status)


def _processes(indices: list[int]) -> str:
    return ("process " if len(indices) == 1 else "processes ") + ", ".join(map(str, indices))
