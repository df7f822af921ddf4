"""Renders chat templates, which are programs that come with a model, in one process of their own.

The process is started at the first template and answers all later ones, a fraction of a millisecond
each. Time and memory of a template are limited; see `template_worker.py`.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.language.template_worker import MAX_SECONDS

WORKER = Path(__file__).with_name("template_worker.py")


class TemplateRenderer:
    """A process that renders templates; thread-safe, and restarted when a template ended it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner = 0

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """Return the text of a jinja template.

        Args:
          variables: what the template can use; JSON values.

        Raises:
          BadInput: the template is wrong, fails, or takes too much time or memory.
        """
        request = json.dumps({"template": template, "variables": dict(variables)}) + "\n"
        with self._lock:
            answer = self._ask(request.encode("ascii"))
        if "error" in answer:
            raise BadInput(
                f"the chat template fails: {answer['error']}; correct the template",
                field="template",
            )
        return answer["text"]

    def _ask(self, request: bytes) -> dict[str, str]:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        except BaseException:  # an answer that nobody read would be taken for the next one
            process.kill()
            self.close()
            raise
        if line.endswith(b"\n"):
            return json.loads(line)
        status = process.wait()
        self.close()
        if status == -signal.SIGPROF:
            return {"error": f"it takes longer than {MAX_SECONDS:g} s"}
        return {"error": f"it ended the process that renders it (status {status})"}

    def _running(self) -> subprocess.Popen:
        """The process; a new one after the last one ended, and in a forked process."""
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._owner = os.getpid()
        return self._process

    def close(self) -> None:
        """End the process."""
        process = self._process
        self._process = None
        if process is None or self._owner != os.getpid():
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()


RENDERER = TemplateRenderer()
atexit.register(RENDERER.close)
