"""Processes that only connect, without JAX; tests/test_many_processes.py loses real ones."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from pav_jax.errors import BadInput
from pav_jax.parallel import peers, tunnels

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import os, sys, time
from pav_jax.errors import BadInput
from pav_jax.parallel import peers
index, count, port, action = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
peers.START_TIMEOUT_S = 20 if action != "alone" else 1
peers.GRACE_S = float(sys.argv[5])
peers.SETTLE_S = 0.2
try:
    group = peers.Peers(index, count, f"localhost:{port}", "pav test")
except BadInput as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
if action == "die":
    os.kill(os.getpid(), 9)
if action == "exit":
    os._exit(0)
if action == "stop":
    group.stop(2, "pav test: w/x.json: bad\\npav test: w/x.json: worse")
if action == "late":
    time.sleep(1)
if action == "hang":
    time.sleep(60)
group.finish()
print("finished")
"""


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def run(*actions, counts=None, grace=0.2):
    """Run one process for each action, in the order of their indices.

    Returns:
      (exit status, standard output, standard error) of each.
    """
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(i), str((counts or {}).get(i, len(actions))), port]
            + [action, str(grace)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, action in enumerate(actions)
        if action != "missing"
    ]
    outputs = [process.communicate(timeout=100) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, outputs, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("how", ["die", "exit"])
@pytest.mark.parametrize("others", ["hang", "finish"])
def test_peers_lost_process_ends_the_others(victim, how, others):
    actions = [others] * 3
    actions[victim] = how
    outcomes = run(*actions, grace=1000)  # nobody waits that long
    assert outcomes.pop(victim)[0] == {"die": -signal.SIGKILL, "exit": 0}[how]
    for status, text, errors in outcomes:
        assert (status, text) == (peers.EXIT_LOST_PEER, "")
        assert errors.startswith(f"pav test: process {victim} on host {socket.gethostname()}")
        assert "is gone" in errors and errors.count("\n") == 1


def test_peers_two_messages_at_once():
    """Process 0 may have news as soon as all are connected."""
    with socket.create_server(("localhost", 0)) as server:
        command = [sys.executable, "-c", PROGRAM, "1", "3", str(server.getsockname()[1]), "hang"]
        process = subprocess.Popen(
            [*command, "0.2"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        link, _ = server.accept()
        assert tunnels.read_hello(link)[1:3] == [1, 3]
        news = tunnels.encode(peers.LOST, 2, "process 2 is gone", peers.EXIT_LOST_PEER)
        link.sendall(tunnels.encode(peers.READY, "host") + news)
        assert process.communicate(timeout=50)[1] == "pav test: process 2 is gone\n"
        assert process.returncode == peers.EXIT_LOST_PEER


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("others", ["hang", "finish"])
def test_peers_stopped_process_ends_the_others(index, others):
    actions = [others] * 3
    actions[index] = "stop"
    outcomes = run(*actions)
    assert outcomes.pop(index) == (2, "", "pav test: w/x.json: bad\npav test: w/x.json: worse\n")
    reason = f"process {index} on host {socket.gethostname()} stopped: pav test: w/x.json: worse"
    assert outcomes == [(2, "", f"pav test: {reason}\n")] * 2


def test_peers_finish_waits_for_the_last():
    assert run("late", "finish", "late") == [(0, "finished\n", "")] * 3


@pytest.mark.parametrize(
    "actions, message",
    [
        (("alone", "missing"), "process 1 did not start within 1 s"),
        (("missing", "alone"), "process 0 did not start at localhost:"),
    ],
)
def test_peers_missing_process(actions, message):
    ((status, _, errors),) = run(*actions)
    assert status == 1 and message in errors and errors.count("\n") == 1


def test_peers_different_numbers_of_processes():
    for status, _, errors in run("hang", "hang", counts={1: 3}):
        assert status == 1
        assert "was started as one of 3, process 0 as one of 2" in errors
        assert errors.count("\n") == 1


def test_peers_port_in_use():
    server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with server, pytest.raises(BadInput, match="choose another"):
        peers.Peers(0, 2, f"localhost:{server.getsockname()[1]}", "pav test")


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:70000", "host:-1"])
def test_split_address_invalid(address):
    with pytest.raises(BadInput):
        peers.split_address(address)


def test_split_address():
    assert peers.split_address("a.b:80") == ("a.b", 80)
    assert peers.split_address("[::1]:80") == ("::1", 80)
