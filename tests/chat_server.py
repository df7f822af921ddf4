"""A chat endpoint on 127.0.0.1, run by a thread, that answers what a test says."""

import collections
import http.server
import json
import threading


class Endpoint:
    """Answers by `behave(nth request for this text, text) -> (status, body)`; body None: never. `text_of(body)`: what
    the request is about."""

    def __init__(self, behave, text_of):
        self.count, self.headers, self.bodies = collections.Counter(), [], []
        self.busy = self.most_at_once = 0
        self.release, lock = threading.Event(), threading.Lock()
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text_asked = text_of(body)
                with lock:
                    endpoint.count[text_asked] += 1
                    nth = endpoint.count[text_asked]
                    endpoint.bodies.append(body)
                    endpoint.headers.append(dict(self.headers))
                    endpoint.busy += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.busy)
                status, text = behave(nth, text_asked)
                if text is None:
                    endpoint.release.wait(20)
                with lock:
                    endpoint.busy -= 1
                if text is None:
                    return
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


def completion(text, **choice) -> str:
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **choice}]})
