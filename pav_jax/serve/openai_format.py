"""Responses of OpenAI's routes: whole, or as a stream of server-sent events."""

import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pav_jax.records import Refinement, to_json
from pav_jax.serve.backend import Reply, TextRequest
from pav_jax.serve.errors import ApiError

DONE = "data: [DONE]\n\n"
WORD = re.compile(r"\s*\S+|\s+\Z")  # with the blanks before it
PING = ": waiting\n\n"  # a comment, which keeps proxies from closing a quiet connection


class ResponseForm:
    """How the texts of a request are written; `is_chat` is of which route."""

    def __init__(self, request: TextRequest, is_chat: bool):
        self._request = request
        self.is_chat = is_chat
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """Return the response with all answers."""
        choices = [
            {
                "index": i,
                **(
                    {"message": {"role": "assistant", "content": reply.text, "refusal": None}}
                    if self.is_chat
                    else {"text": reply.text}
                ),
                "logprobs": None,
                "finish_reason": self.finish_reason(i),
                **_refinement_field(reply.refinement),
            }
            for i, reply in enumerate(replies)
        ]
        return self._response(choices, "") | {"usage": self.usage()}

    def finish_reason(self, index: int) -> str:
        """Return why an answer ends.

        A guarded one is chosen from several samples: "length" means that all were cut.
        """
        reasons = self._request.call.finish_reasons
        if self._request.is_guarded:
            return "length" if set(reasons) == {"length"} else "stop"
        return reasons[index] if index < len(reasons) else "stop"

    def chunk(
        self,
        index: int,
        text: str | None,
        reason: str | None = None,
        refinement: Refinement | None = None,
    ) -> str:
        """Return the event for more text of one answer; None: its beginning or its end."""
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
        choice |= _refinement_field(refinement)
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


def _refinement_field(refinement: Refinement | None) -> dict[str, Any]:
    return {} if refinement is None else {"pav": json.loads(to_json(refinement))}


def event(data: Mapping[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def stream_events(
    form: ResponseForm,
    updates: AsyncIterator[Sequence[Reply] | None],
    request: TextRequest,
    has_usage: bool,
) -> AsyncIterator[str]:
    """Yield the events of a response; a guarded answer comes word by word when it is complete.

    Args:
      updates: the beginnings of all answers so far, again and again, at last the whole answers;
        None after a time without anything new.
    """
    num_answers = len(request.prompts) * request.n
    sent = [""] * num_answers
    refinements: list[Refinement | None] = [None] * num_answers
    if form.is_chat:
        for i in range(num_answers):
            yield form.chunk(i, None)
    try:
        async for replies in updates:
            if replies is None:
                yield PING
                continue
            for i, reply in enumerate(replies):
                refinements[i] = reply.refinement
                for piece in _more(sent[i], reply):
                    yield form.chunk(i, piece)
                    sent[i] += piece
    except ApiError as error:
        yield event(error.body())
        return
    for i, refinement in enumerate(refinements):
        yield form.chunk(i, None, form.finish_reason(i), refinement)
    if has_usage:
        yield form.usage_chunk()
    yield DONE


def _more(sent: str, reply: Reply) -> list[str]:
    """The pieces of an answer that follow on what was sent."""
    if reply.text == sent or not reply.text.startswith(sent):
        return []
    more = reply.text[len(sent) :]
    return [more] if reply.refinement is None else WORD.findall(more)
