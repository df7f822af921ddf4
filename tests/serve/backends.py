"""A backend without a model, whose answers a test says; and a server on a port."""

import contextlib
import threading
import time

import uvicorn
from fastapi.testclient import TestClient

from pav_jax.booster.guard import OFF, Guard
from pav_jax.language.sampling import Sampling
from pav_jax.records import Refinement
from pav_jax.serve.app import Server
from pav_jax.serve.errors import timed_out
from pav_jax.serve.options import ServeLimits
from pav_jax.serve.replies import WholeStream, answer
from pav_jax.serve.server import DrainingServer, bind

UNGUARDED = Guard(OFF)
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
SECRET = "zebra-in-my-cellar"  # of prompts


class FakeBackend:
    """Answers with `answer(request)`, by default the prompt in capitals."""

    def __init__(
        self,
        answer=lambda request: request.prompts[0].upper(),
        num_rows=4,
        guard=UNGUARDED,
    ):
        self.models = ["fake", "other"]
        self.guard = guard
        self.num_rows = num_rows
        self.is_alive = True
        self.requests = []
        self._answer = answer

    def sampling_of(self, model):
        return Sampling(max_new_tokens=250 if model == "fake" else 99)

    def refine(self, request):
        self.requests.append(request)
        text = self._answer(request)
        request.call.prompt_tokens += 3
        request.call.completion_tokens += 5
        return [Refinement(request.prompts[0], text, request.seed, request.model)] * request.n

    def complete(self, request):
        return [[r.refined for r in self.refine(request)] for _ in request.prompts]

    def stream(self, request, notify):
        return WholeStream(lambda: answer(self, request))

    def is_healthy(self):
        return self.is_alive

    def num_waiting(self):
        return 0

    def close(self):
        pass


class Gate:
    """For `FakeBackend`: holds answers back until it is opened, or nobody waits for them."""

    def __init__(self):
        self.is_open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.left = threading.Semaphore(0)

    def __call__(self, request):
        self.entered.release()
        while not (self.is_open.is_set() or request.call.is_over()):
            time.sleep(0.01)
        self.left.release()
        if not self.is_open.is_set():
            raise timed_out()
        return "done"


@contextlib.contextmanager
def running(backend, limits=None, key="", previewer=None, announce=lambda port: None):
    """Yield (address, its state, uvicorn's server, thread) of a server on a free port."""
    listener = bind("127.0.0.1", 0)
    server = Server(backend, limits or ServeLimits(), key, previewer)
    config = uvicorn.Config(server.app, log_config=None, timeout_graceful_shutdown=2)
    port = listener.getsockname()[1]
    process = DrainingServer(config, server.state, lambda: announce(port))
    thread = threading.Thread(target=process.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not process.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", server.state, process, thread
    finally:
        process.should_exit = True
        thread.join(10)


def fake_client(backend=None, key="", **limits):
    server = Server(backend or FakeBackend(), ServeLimits(**limits), key)
    return TestClient(server.app, raise_server_exceptions=False), server


def chat_of(prompt, **fields):
    return {"messages": [{"role": "user", "content": prompt}], **fields}
