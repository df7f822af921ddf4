"""What the parts of the server know about one HTTP request in work."""

import threading
import time
from collections.abc import Callable

from pav_jax.serve.logs import request_id


class Call:
    """A request's deadline, what cancels it, and what it has used; thread-safe.

    Attributes:
      model: the name of the model that the client asked for.
      request_id: in the log; "" outside a request.
      prompt_tokens, completion_tokens: counted by the backend.
      finish_reasons: of the answers, in order, as OpenAI's API names them.
    """

    def __init__(self, timeout_s: float, model: str = ""):
        self.model = model
        self.request_id = request_id()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.finish_reasons: list[str] = []
        self._deadline = time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._callbacks: list[Callable[[], object]] = []

    def seconds_left(self) -> float:
        """Return the time up to the deadline, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    def is_over(self) -> bool:
        """Return whether nobody waits for the answer any more."""
        return self._is_cancelled or not self.seconds_left()

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the request is cancelled; now if it is already."""
        with self._lock:
            if not self._is_cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def cancel(self) -> None:
        """Give up the request: what works for it ends soon."""
        with self._lock:
            self._is_cancelled = True
            callbacks = self._callbacks
            self._callbacks = []
        for callback in callbacks:
            callback()
