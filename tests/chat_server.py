"""A stand-in for a chat endpoint."""

import json

from tests.endpoint_server import Endpoint


class ChatServer(Endpoint):
    """Answers by `behave(nth request about this text, text) -> (status, JSON)`; JSON None: never.
    `text_of(body)`: what the request is about."""

    def __init__(self, behave, text_of):
        def answer(nth, body):
            status, said = behave(nth, text_of(body))
            return status, "application/json", None if said is None else said.encode()

        super().__init__(answer, text_of, "/v1")


def completion(text, **choice) -> str:
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                    **choice,
                }
            ],
        }
    )
