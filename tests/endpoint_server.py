"""A stand-in for any endpoint: a thread on 127.0.0.1 that answers what a test says."""

import collections
import http.server
import json
import threading
import time


class Endpoint:
    """Answers a POST by `behave(nth request about this, body) -> (status, type, bytes)`; bytes
    None: never.

    A GET gets what `files` holds under its path. `about(body)`: what a request is about, by which
    `count` counts.
    """

    def __init__(self, behave, about=lambda body: body["prompt"], path="/generate", files=None):
        self.count = collections.Counter()
        self.headers = []
        self.bodies = []
        self.gets = []
        self.busy = self.most_at_once = 0
        self.release = threading.Event()
        self.changed = threading.Condition()
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.changed:
                    endpoint.count[about(body)] += 1
                    nth = endpoint.count[about(body)]
                    endpoint.bodies.append(body)
                    endpoint.headers.append({k.lower(): v for k, v in self.headers.items()})
                    endpoint.busy += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.busy)
                    endpoint.changed.notify_all()
                status, kind, data = behave(nth, body)
                if data is None:
                    endpoint.release.wait(20)
                with endpoint.changed:
                    endpoint.busy -= 1
                if data is not None:
                    self.answer(status, kind, data)

            def do_GET(self):
                endpoint.gets.append(
                    {k.lower(): v for k, v in self.headers.items()} | {"path": self.path}
                )
                self.answer(200, "application/octet-stream", (files or {})[self.path])

            def answer(self, status, kind, data):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                if status in (301, 302):
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128  # by default the sixth waiting connection is refused

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # clients close connections whose answer they refuse; a test reads their standard error
        self.server.handle_error = lambda request, client_address: None
        self.url = f"http://127.0.0.1:{self.server.server_port}{path}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def meet(self, requests):
        """For `behave`: holds an answer back until so many requests have been in work at once,
        however slow the machine, and a moment longer, in which one more would show."""
        with self.changed:
            self.changed.wait_for(lambda: self.most_at_once >= requests, timeout=20)
        time.sleep(0.05)

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
