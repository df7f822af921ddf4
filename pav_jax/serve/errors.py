"""Errors of the server, in the JSON form of OpenAI's API."""

from collections.abc import Iterable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pav_jax.serve.logs import LOG, describe, request_id

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(HTTPException):
    """A request that gets an error for an answer.

    Attributes:
      status_code: of HTTP.
      detail: one line for the user; holds nothing of any prompt.
      param: the field of the request that is wrong, if one is.
      code: a word for programs.
      headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI's API writes it."""
        others = "invalid_request_error" if self.status_code < 500 else "api_error"
        kind = TYPES.get(self.status_code, others)
        return {
            "error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}
        }

    def response(self) -> JSONResponse:
        """Return the error as an HTTP response."""
        return JSONResponse(self.body(), self.status_code, self.headers)


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def internal_error(error: Exception) -> ApiError:
    """Log an unexpected error, and return what the client gets."""
    log_failure(error, [request_id()])
    return failed(request_id())


def log_failure(error: Exception, request_ids: Iterable[str]) -> None:
    """Log an unexpected error that some requests fail with."""
    LOG.error("failed: %s: %s", ", ".join(request_ids) or "no request", describe(error))


def failed(request_id: str) -> ApiError:
    """The error for a request that fails; the log tells why under its id."""
    place = f"; its log has the reason under {request_id}" if request_id else ""
    return ApiError(500, f"the server failed to answer{place}", code="internal_error")


def timed_out() -> ApiError:
    """The error for a request whose time is over."""
    return ApiError(
        504,
        "the answer was not complete within the time limit of this server; ask for fewer or shorter"
        " answers, or try again later",
        code="timeout",
        headers={"Retry-After": "5"},
    )


def shutting_down() -> ApiError:
    """The error for a request that comes after SIGTERM."""
    return ApiError(
        503,
        "the server is shutting down; try again later",
        code="shutting_down",
        headers={"Retry-After": "5", "Connection": "close"},
    )
