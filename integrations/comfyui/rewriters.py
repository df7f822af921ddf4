"""Where the node's rewrites come from: `pav serve`, or pav_jax in ComfyUI's own process.

The server is reached with the standard library alone, so that ComfyUI's environment needs no other
package.
"""

import dataclasses
import functools
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

API_KEY_VARIABLE = "PAV_API_KEY"
TIMEOUT_S = 150  # the server's own limit is 120
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class RefineError(Exception):
    """There is no rewrite; the message says why."""


def refine_on_server(address: str, body: dict[str, Any]) -> dict[str, Any]:
    """Rewrite a prompt with `pav serve`.

    The key, if the server asks for one, is read from the environment variable PAV_API_KEY: what is
    typed into a node is saved in the workflow and in the metadata of its videos.

    Args:
      address: such as http://localhost:8000.
      body: of the route /refine.

    Returns:
      The fields of a Refinement.

    Raises:
      RefineError: the server cannot be reached, or refuses.
    """
    host = _host(address)
    request = urllib.request.Request(
        f"{address.rstrip('/')}/refine",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    if key := os.environ.get(API_KEY_VARIABLE, "").strip():
        if not (key.isascii() and key.isprintable()):
            raise RefineError(f"{API_KEY_VARIABLE} has characters that no key has")
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    handlers = [urllib.request.ProxyHandler({})] if host in LOCAL_HOSTS else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise RefineError(f"{address} answers {error.code}: {_message(error)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RefineError(f"{address}: {reason}; start it with `pav serve`") from error
    if not (isinstance(answer, dict) and isinstance(answer.get("refined"), str)):
        raise RefineError(f"{address} does not answer as `pav serve` does")
    return answer


def _host(address: str) -> str:
    """The host of a server's address.

    Raises:
      RefineError: it is no address.
    """
    try:
        url = urllib.parse.urlsplit(address)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            return url.hostname
    except ValueError:  # of brackets and ports
        pass
    raise RefineError(f"server {address!r}: write an address such as http://localhost:8000")


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return json.loads(error.read())["error"]["message"]
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)


def refine_in_process(model: str, body: dict[str, Any]) -> dict[str, Any]:
    """Rewrite a prompt with pav_jax in this process; the model stays loaded.

    Args:
      model: a folder, a Hub repository, a .gguf file or "smollm2"; "" is the default booster.
      body: prompt, seed and the fields of a guard.

    Raises:
      RefineError: pav_jax is not installed, or refuses.
    """
    try:
        import pav_jax as pav
    except ImportError as error:
        raise RefineError(
            "pav_jax is not installed here: pip install pav-jax, or give a server"
        ) from error
    guard = {name: body[name] for name in body.keys() - {"prompt", "seed"}}
    try:
        booster = _load(model)
        ((refinement,),) = booster.refine(body["prompt"], seed=body["seed"], **guard)
    except pav.BadInput as error:
        raise RefineError(str(error)) from error
    return dataclasses.asdict(refinement)


@functools.lru_cache(maxsize=1)
def _load(model: str) -> Any:
    import pav_jax as pav

    return pav.Booster.from_pretrained(model or None)
