"""Options of `pav serve`."""

import socket
import sys

import pytest

from tests.commands.run_pav import fails
from tests.endpoint_server import Endpoint


@pytest.mark.parametrize(
    "option,message",
    [
        ("--fidelity=2", "--fidelity=2.0: the limit is 1"),
        ("--mode=sometimes", "--mode"),
        ("--port=70000", "--port=70000: the limit is 65,535"),
        ("--batch-size=0", "--batch-size=0: must be at least 1"),
        ("--max-queue=-1", "--max-queue=-1: must be at least 0"),
        ("--max-n=0", "--max-n=0: must be at least 1"),
        ("--timeout=nan", "--timeout=nan: must be at least 1"),
        ("--timeout=inf", "--timeout=inf: the limit is 86,400"),
        ("--host=no such host", "--host=no such host"),
        ("--model=/nowhere/at/all", "/nowhere/at/all"),
        ("--adapter=no adapter", "--adapter=no adapter: there is no folder no adapter"),
        ("--adapter==x", "--adapter==x: write NAME=PATH or PATH"),
        ("--generator=/nowhere/at/all", "/nowhere/at/all"),
        ("--upstream=localhost", "--upstream='localhost'"),
        ("--upstream=http://127.0.0.1:9", "it lists no models"),
    ],
)
def test_serve_refuses_wrong_options(capsys, option, message):
    assert message in fails(capsys, "serve", "--port=0", option)


def test_serve_refuses_options_that_the_upstream_decides(capsys):
    server = Endpoint(None, path="/v1", files={"/v1/models": b'{"data": [{"id": "m"}]}'})
    for option in ("--template=auto", "--name=x", "--adapter=a=b/c", "--int8=on"):
        line = fails(capsys, "serve", "--port=0", f"--upstream={server.url}", option)
        assert "leave --template" in line
    server.close()


def test_serve_refuses_a_port_in_use_before_it_loads_a_model(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port={port}" in fails(capsys, "serve", f"--port={port}", "--model=nowhere")


def test_serve_without_its_extra_says_what_to_install(capsys, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("pav_jax.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'pav-jax[serve]'" in fails(capsys, "serve", "--port=0")
