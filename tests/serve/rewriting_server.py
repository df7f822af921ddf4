"""A stand-in for vLLM and the like, as a process of its own: rewrites prompts in a fixed way.

usage: python -m tests.serve.rewriting_server PORT_FILE
"""

import json
import sys
import time
from pathlib import Path

from tests.chat_server import completion
from tests.endpoint_server import Endpoint

UNFAITHFUL = "A cat sleeps on a warm stone."
LIGHT = "Soft golden light fills the scene."


def text_of(body):
    return body.get("prompt") or body["messages"][-1]["content"]


def rewrite(body):
    """Another scene for every second seed, and always for prompts with a mountain."""
    text = text_of(body)
    if body["seed"] % 2 or "mountain" in text:
        return UNFAITHFUL
    return f"{text}. {LIGHT}"


def answer(_, body):
    return 200, "application/json", completion(rewrite(body)).encode()


def main():
    models = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]})
    server = Endpoint(answer, text_of, "/v1", {"/v1/models": models.encode()})
    Path(sys.argv[1]).write_text(server.url)
    time.sleep(3600)


if __name__ == "__main__":
    main()
