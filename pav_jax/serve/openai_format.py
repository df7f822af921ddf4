"""Responses of OpenAI's routes: whole, or as a stream of server-sent events."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pav_jax.serve.backend import TextRequest
from pav_jax.serve.errors import ApiError

DONE = "data: [DONE]\n\n"
PING = ": waiting\n\n"  # a comment, which keeps proxies from closing a quiet connection


class ResponseForm:
    """How the texts of a request are written; `is_chat` is of which route."""

    def __init__(self, request: TextRequest, is_chat: bool):
        self._request = request
        self.is_chat = is_chat
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the response with all answers."""
        reasons = self._request.call.finish_reasons
        choices = [
            {
                "index": i,
                **(
                    {"message": {"role": "assistant", "content": text, "refusal": None}}
                    if self.is_chat
                    else {"text": text}
                ),
                "logprobs": None,
                "finish_reason": reasons[i] if i < len(reasons) else "stop",
            }
            for i, text in enumerate(texts)
        ]
        return self._response(choices, "") | {"usage": self.usage()}

    def chunk(self, index: int, text: str | None, reason: str | None = None) -> str:
        """Return the event for more text of one answer; None: its beginning or its end."""
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
        if not self.is_chat:
            choice["text"] = text or ""
        elif text is not None:
            choice["delta"] = {"content": text}
        else:
            choice["delta"] = {} if reason else {"role": "assistant", "content": ""}
        return event(self._response([choice], ".chunk"))

    def usage_chunk(self) -> str:
        """Return the event with the counts of tokens."""
        return event(self._response([], ".chunk") | {"usage": self.usage()})

    def usage(self) -> dict[str, int]:
        """Return the counts of tokens."""
        call = self._request.call
        return {
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
            "total_tokens": call.prompt_tokens + call.completion_tokens,
        }

    def _response(self, choices: Sequence[Mapping[str, Any]], suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.is_chat else "text_completion"
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._request.model,
            "seed": self._request.seed,
            "choices": list(choices),
        }


def event(data: Mapping[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def stream_events(
    form: ResponseForm,
    updates: AsyncIterator[Sequence[str] | None],
    request: TextRequest,
    has_usage: bool,
) -> AsyncIterator[str]:
    """Yield the events of a response.

    Args:
      updates: the beginnings of all answers so far, again and again, at last the whole answers;
        None after a time without anything new.
    """
    sent: list[str] = []
    try:
        async for texts in updates:
            if texts is None:
                yield PING
                continue
            for i, text in enumerate(texts):
                if i == len(sent):
                    sent.append("")
                    if form.is_chat:
                        yield form.chunk(i, None)
                if text != sent[i] and text.startswith(sent[i]):
                    yield form.chunk(i, text[len(sent[i]) :])
                    sent[i] = text
    except ApiError as error:
        yield event(error.body())
        return
    reasons = request.call.finish_reasons
    for i in range(len(sent)):
        yield form.chunk(i, None, reasons[i] if i < len(reasons) else "stop")
    if has_usage:
        yield form.usage_chunk()
    yield DONE
