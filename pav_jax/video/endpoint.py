"""Any HTTP endpoint as a generator.

The contract. One POST per video, with a JSON object:

    prompt, negative_prompt, seed                                  always
    steps, guidance_scale, num_frames, height, width               where they are set; else the
    endpoint chooses ...                                                            whatever
    `generator.options` adds

The answer is status 200 with a video (mp4, WebM, gif), an image (png, jpeg, WebP), or JSON:
{"video": BASE64}, {"image": BASE64} or {"url": ADDRESS}. All videos of a run have one size. Same
request, same video: an endpoint that ignores the seed makes runs that cannot be repeated.

A key in the environment is sent as a bearer token, to the endpoint's own host only. Redirects are
not followed. Statuses 408, 409, 425, 429 and from 500 up, answers that cannot be read and silence
are asked again, with back-off and jitter; 401, 403, 404 and 405 end the run; any other status means
that this one video is refused.
"""

import asyncio
import concurrent.futures
import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import numpy as np
import tenacity
from jaxtyping import Bool, UInt8

from pav_jax.errors import BadInput
from pav_jax.video import backends, response
from pav_jax.video.generation import Generation

log = logging.getLogger(__name__)

KEY = "PAV_GENERATOR_API_KEY"
TRANSIENT = (408, 409, 425, 429)  # and everything from 500 up
REFUSED = (401, 403, 404, 405)  # no other prompt will fare better
FIXED = ("prompt", "negative_prompt", "seed")
MOST_BYTES = 2**30  # of one answer
FALLBACK = (
    2,
    64,
    64,
)  # frames, height and width of what stands for a video, where no size is known


class _NoVideo(Exception):
    """There is no video for this request. Holds no text of the endpoint's: that may repeat the
    key."""


class _NotYet(_NoVideo):
    """The endpoint may do better when asked again."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


class Endpoint:
    """See `backends.Generator`; a video that was not made is black, and not among the finite ones.

    Args:
      url: where to POST.
      settings: fields of `Generation`; what is not set the endpoint chooses.
      options: further fields of the request, such as the model's name.
      name: stands for the endpoint in the fingerprint, so that it may move; its address where
        empty.
      key_variable: the environment variable that holds the key; no key is sent where it is not set.
      concurrency: requests in flight at once.
      timeout: seconds for one whole answer.
      attempts, longest_wait: tries for one video, and the longest pause between them in seconds.
      give_up: an endpoint that fails so many videos in a row is down.

    Raises:
      BadInput: an address or option that cannot be used; from `generate`: the endpoint refuses the
        key or the address, is down, or makes videos of another size than was asked for.
    """

    def __init__(
        self,
        url: str,
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        key_variable: str = KEY,
        concurrency: int = 4,
        timeout: float = 600.0,
        attempts: int = 5,
        longest_wait: float = 60.0,
        give_up: int = 8,
    ):
        try:
            self._url = httpx2.URL(url)
        except (httpx2.InvalidURL, TypeError):
            raise BadInput(f"generator.path={url!r}: not an address") from None
        if self._url.userinfo:
            raise BadInput(
                f"generator.path: the address at {self._url.host} holds a name or password; put a"
                f" key into the environment variable {key_variable} instead"
            )
        if not self._url.host:
            raise BadInput(f"generator.path={url!r}: an address without a host")
        for field, value in (
            ("concurrency", concurrency),
            ("timeout", timeout),
            ("attempts", attempts),
            ("give_up", give_up),
        ):
            if not value > 0:
                raise BadInput(f"generator.endpoint.{field}={value}: must be above 0")
        self.options = dict(options or {})
        if taken := sorted(set(self.options) & {*FIXED, *Generation.__dataclass_fields__}):
            raise BadInput(
                f"generator.options.{taken[0]}: this field of the request is not an option; a"
                " setting goes to generator itself"
            )
        try:
            json.dumps(self.options)
        except TypeError as error:
            raise BadInput(f"generator.options: cannot be written as JSON ({error})") from None
        self.settings = backends.checked_settings("generator", settings or {})
        self.defaults = Generation().replace("generator", **self.settings)
        self.name, self.key_variable, self.concurrency = name, key_variable, concurrency
        self.timeout, self.attempts, self.longest_wait, self.give_up = (
            timeout,
            attempts,
            longest_wait,
            give_up,
        )
        self.source = (  # without the query
            f"{self._url.scheme}://{self._url.netloc.decode()}{self._url.path}"
        )
        self.problems: dict[int, str] = {}
        self._failed_in_a_row = 0
        self._shape: tuple[int, ...] | None = None  # of the videos so far

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        dtype: str | None = None,
        options: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> "Endpoint":
        """`endpoint`: the arguments after `options` of this class. `dtype` is the endpoint's own
        affair."""
        return cls(str(path), settings, options, **dict(endpoint or {}))

    @functools.cached_property
    def fingerprint(self) -> str:
        used = {
            name: value for name, value in self.settings.items() if name not in ("batch", "fps")
        }
        parts = [self.name or str(self._url), used, self.options]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[
            :16
        ]

    def generate(
        self,
        prompts: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] = 0,
        return_finite: bool = False,
        progress: backends.Progress | None = None,
    ) -> (
        UInt8[np.ndarray, "B T H W 3"]
        | tuple[UInt8[np.ndarray, "B T H W 3"], Bool[np.ndarray, "B"]]
    ):
        """As `VideoModel.generate`. Rows that ask for the same are asked for once.

        Without `return_finite` a video that was not made is a BadInput: nothing else would tell.
        """
        asked = backends.asked(
            self.settings,
            prompts,
            negative_prompt,
            seed,
            num_frames=num_frames,
            height=height,
            width=width,
            steps=steps,
            guidance_scale=guidance_scale,
        )
        if not asked.prompts:
            empty = backends.nothing(asked.settings)
            return (empty, np.zeros(0, bool)) if return_finite else empty
        requests = list(zip(asked.prompts, asked.negatives, asked.seeds, strict=True))
        rows_of: dict[tuple, list[int]] = {}
        for row, request in enumerate(requests):
            rows_of.setdefault(request, []).append(row)
        made = _run(self._all(asked, rows_of, progress))

        self.problems = {}
        for request, video_TxHxWx3 in list(made.items()):
            if not isinstance(video_TxHxWx3, _NoVideo):
                asked.check_size(self.source, video_TxHxWx3.shape)
                self._shape = self._shape or video_TxHxWx3.shape
                if video_TxHxWx3.shape != self._shape:
                    made[request] = _NoVideo(
                        f"a video of {_size(video_TxHxWx3.shape)} where the others have "
                        f"{_size(self._shape)}"
                    )
        for request, result in made.items():
            if isinstance(result, _NoVideo):
                log.info(
                    "%s: no video of %r, seed %d: %s",
                    self.source,
                    request[0][:60],
                    request[2],
                    result,
                )
                self.problems |= dict.fromkeys(rows_of[request], f"no video: {result}")
        if self._failed_in_a_row >= self.give_up:
            failed, self._failed_in_a_row = (
                self._failed_in_a_row,
                0,
            )  # whoever calls again after this starts afresh
            raise BadInput(
                f"{self.source}: no video for {failed} requests in a row, each asked up to"
                f" {self.attempts} times (last: {self._last_failure}); what was finished is kept,"
                " run the same command again when the endpoint works"
            )
        if self.problems and not return_finite:
            raise BadInput(f"{self.source}: {next(iter(self.problems.values()))}")
        given = (asked.settings.get(name) for name in backends.SIZES)
        shape = self._shape or (
            *(size or other for size, other in zip(given, FALLBACK, strict=True)),
            3,
        )
        black = np.zeros(shape, np.uint8)
        videos = np.stack(
            [
                black if row in self.problems else made[request]
                for row, request in enumerate(requests)
            ]
        )
        finite = np.asarray([row not in self.problems for row in range(len(requests))], bool)
        return (videos, finite) if return_finite else videos

    # --------------------------------------------------------------------------------- the requests

    async def _all(
        self,
        asked: backends.Asked,
        rows_of: Mapping[tuple, list[int]],
        progress: backends.Progress | None,
    ) -> dict[tuple, Any]:
        """Request -> its frames, or a _NoVideo."""
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        headers = {"Accept": "video/mp4, image/png, application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        settings = {
            name: value for name, value in asked.settings.items() if name not in ("batch", "fps")
        }
        gate, done = asyncio.Semaphore(self.concurrency), 0
        # one client for each call: its connections belong to this event loop
        async with httpx2.AsyncClient(timeout=None, follow_redirects=False) as client:

            async def one(request: tuple) -> Any:
                nonlocal done
                body = self.options | settings | dict(zip(FIXED, request, strict=True))
                async with gate:
                    result = await self._video(client, headers, body)
                done += len(rows_of[request])
                if progress:
                    progress(done, len(asked.prompts))
                return result

            results = await asyncio.gather(*map(one, rows_of))
        return dict(zip(rows_of, results, strict=True))

    async def _video(
        self, client: httpx2.AsyncClient, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> Any:
        if self._failed_in_a_row >= self.give_up:
            return _NoVideo("the endpoint is down")
        pause = tenacity.wait_random_exponential(1, max=self.longest_wait)
        retry = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_NotYet),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=lambda state: min(
                max(pause(state), state.outcome.exception().wait), self.longest_wait
            ),
            reraise=True,
        )
        try:
            video_TxHxWx3 = await retry(self._once, client, headers, body)
        except _NoVideo as failure:
            self._failed_in_a_row += 1
            self._last_failure = str(failure)
            return failure
        if (
            self._failed_in_a_row < self.give_up
        ):  # else requests were left out by now, and `generate` has to say so
            self._failed_in_a_row = 0
        return video_TxHxWx3

    async def _once(
        self, client: httpx2.AsyncClient, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> UInt8[np.ndarray, "T H W 3"]:
        try:
            async with asyncio.timeout(
                self.timeout
            ):  # a client's own limits start anew with every byte
                data = await self._read(client, "POST", self._url, headers=headers, json=body)
                if not response.is_picture(data):
                    data, address = response.json_answer(data)
                    if address is not None:
                        url = self._url.join(address)
                        ours = (url.scheme, url.netloc) == (self._url.scheme, self._url.netloc)
                        data = await self._read(client, "GET", url, headers=headers if ours else {})
                return await asyncio.to_thread(response.frames_of, data)
        except TimeoutError:
            raise _NotYet(f"nothing within {self.timeout:g} s") from None
        except response.Garbage as error:
            raise _NotYet(str(error)) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise _NotYet(f"no connection ({type(error).__name__})") from None

    async def _read(
        self, client: httpx2.AsyncClient, method: str, url: httpx2.URL, **request: Any
    ) -> bytes:
        async with client.stream(method, url, **request) as answer:
            status = answer.status_code
            if method == "POST" and status in REFUSED:
                raise BadInput(
                    f"{self.source}: status {status}; check the address, and the key in the"
                    " environment variable"
                    f" {self.key_variable or '(generator.endpoint.key_variable is empty)'}"
                )
            if status in TRANSIENT or status >= 500:
                raise _NotYet(f"status {status}", _seconds(answer.headers.get("retry-after", "")))
            if status != 200:
                raise _NoVideo(f"status {status}")
            data = bytearray()
            async for piece in answer.aiter_bytes():
                data += piece
                if len(data) > MOST_BYTES:
                    raise response.Garbage(f"an answer of more than {MOST_BYTES >> 20} MiB")
            return bytes(data)


def _run(work: Any) -> Any:
    """A coroutine's result; in a thread of its own where this one, as a notebook's, already runs an
    event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _seconds(text: str) -> float:
    """A Retry-After header; one that gives a date is left to our own back-off."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} frames of {shape[2]} x {shape[1]}"
