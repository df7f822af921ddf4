"""Tunnels pass bytes on whatever the process that uses them does."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from pav_jax.parallel import tunnels

ROOT = pathlib.Path(__file__).parents[2]
# PyDLL holds the GIL during a call, as JAX does in some that wait for the coordinator
PROGRAM = """
import ctypes, os, socket, sys
from pav_jax.parallel.tunnels import Tunnels
made = Tunnels(None, ("127.0.0.1", int(sys.argv[1])))
host, port = made.address.split(":")
client = socket.create_connection((host, int(port)))
client.sendall(b"x")
assert client.recv(1) == b"x"  # the script is running
os.kill(made._process.pid, int(sys.argv[2]))
client.sendall(b"ping")
answer = ctypes.create_string_buffer(4)
assert ctypes.PyDLL(None).recv(client.fileno(), answer, 4, socket.MSG_WAITALL) == 4
print(answer.raw.decode(), made._process.pid, flush=True)
sys.stdin.read()
"""


def echo(listener):
    connection, _ = listener.accept()
    assert tunnels.read_hello(connection) == [tunnels.TUNNEL]
    connection.settimeout(None)
    while data := connection.recv(100):
        connection.sendall(data)


@pytest.mark.parametrize("number", [0, signal.SIGTERM, signal.SIGINT])
def test_tunnels_pass_on_while_the_gil_is_held(number):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=[listener], daemon=True).start()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.getsockname()[1]), str(int(number))],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        answers: list[str] = []
        reader = threading.Thread(target=lambda: answers.append(process.stdout.readline()))
        reader.start()
        reader.join(60)
        process.kill()
        process.communicate()
    assert answers and answers[0].startswith("ping")
    script = int(answers[0].split()[1])
    for _ in range(1000):  # it ends with the process, although that was killed
        try:
            os.kill(script, 0)
        except ProcessLookupError:
            break
        threading.Event().wait(0.02)
    else:
        pytest.fail("the tunnels outlive the process that uses them")
