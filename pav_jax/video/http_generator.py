"""Any HTTP endpoint as a generator.

The contract. One POST per video, with a JSON object:

    prompt, negative_prompt, seed                         always
    image, a PNG in base64                                where the prompt has an image
    the fields of `GenerationConfig` that are set, such   otherwise the endpoint chooses
    as num_inference_steps, guidance_scale, num_frames,
    height and width
    the fields in `generator.options`

The reply has status 200 and is a video (mp4, WebM, gif), an image (png, jpeg, WebP), or JSON:
{"video": BASE64}, {"image": BASE64} or {"url": ADDRESS}. All videos of a run have one size. The
same request must give the same video: runs on an endpoint that ignores the seed cannot be
reproduced.

An API key in the environment is sent as a bearer token, and only to the endpoint's own host.
Redirects are not followed. Timeouts, malformed replies, statuses 408, 409, 425, 429 and 5xx are
retried with exponential back-off and jitter; 401, 403, 404 and 405 end the run; any other status
is an error of that one video.
"""

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import numpy as np
import tenacity
from jaxtyping import UInt8

from pav_jax.endpoints.addresses import api_key
from pav_jax.endpoints.options import EndpointLimits
from pav_jax.errors import BadInput
from pav_jax.video import backend, endpoint_response
from pav_jax.video.backend import BackendRequest, Progress
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generator import VideoBatch
from pav_jax.video.http_jobs import VideoJob, run_coroutine
from pav_jax.video.http_options import check_options, parse_url
from pav_jax.video.images import Images
from pav_jax.video.rewrites import Prompts, Seed

log = logging.getLogger(__name__)

API_KEY_ENV = "PAV_GENERATOR_API_KEY"
TRANSIENT_STATUSES = (408, 409, 425, 429)  # and 5xx
FATAL_STATUSES = (401, 403, 404, 405)  # every other prompt would fail as well
MAX_RESPONSE_BYTES = 2**30
# frames, height and width of the placeholder for a failed video while no size is known
PLACEHOLDER_SIZE = (2, 64, 64)


class _VideoFailed(Exception):
    """There is no video for this request.

    The message never quotes the endpoint, whose text may contain the API key.
    """


class _Retryable(_VideoFailed):
    """A failure that another attempt may fix."""

    def __init__(self, message: str, retry_after_s: float = 0.0):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HttpGenerator(backend.GeneratorBackend):
    """A generator behind an HTTP endpoint. A video that failed is black and has an error.

    Whether an endpoint reads images is its own choice: one that does not should answer 400.

    Args:
      url: where to POST.
      settings: fields of `GenerationConfig`; the endpoint chooses those that are not set.
      options: further fields of the request, such as the model's name.
      name: identifies the endpoint in the fingerprint, so that its address may change; the address
        if empty.
      api_key_env: the environment variable that holds the API key; none is sent if it is not set.
      concurrency: requests in flight at once.
      timeout_s: seconds for one complete reply.
      max_retries: further attempts for one video after the first one failed.
      max_backoff_s: longest pause between two attempts in seconds.
      max_consecutive_failures: the endpoint counts as down after this many failed videos in a row.

    Raises:
      BadInput: an invalid address or option. From `generate`: the endpoint rejects the key or the
        address, is down, or returns videos of another size than requested.
    """

    takes_image = True

    def __init__(
        self,
        url: str,
        settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        api_key_env: str = API_KEY_ENV,
        concurrency: int = EndpointLimits.concurrency,
        timeout_s: float = EndpointLimits.timeout_s,
        max_retries: int = EndpointLimits.max_retries,
        max_backoff_s: float = EndpointLimits.max_backoff_s,
        max_consecutive_failures: int = EndpointLimits.max_consecutive_failures,
    ):
        self._url = parse_url(url, api_key_env)
        self.limits = EndpointLimits(
            concurrency, timeout_s, max_retries, max_backoff_s, max_consecutive_failures
        )
        self.limits.check("generator.endpoint")
        self._api_key = api_key(api_key_env, "generator.endpoint.api_key_env")
        self.options = dict(options or {})
        check_options(self.options)
        self.explicit_settings = backend.explicit_settings("generator", settings or {})
        self.settings = GenerationConfig().replace("generator", **self.explicit_settings)
        self.name = name
        self.api_key_env = api_key_env
        # the query may hold a secret
        self.source = f"{self._url.scheme}://{self._url.netloc.decode()}{self._url.path}"
        self._consecutive_failures = 0
        self._last_failure = ""
        self._shape: tuple[int, ...] | None = None  # [T, H, W, 3] of the videos so far

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        dtype: str | None = None,
        options: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> "HttpGenerator":
        """The generator at the address `path`.

        Args:
          dtype: ignored; the endpoint chooses.
          endpoint: the arguments of this class after `options`.
          settings: fields of `GenerationConfig`.
        """
        return cls(str(path), settings, options, **dict(endpoint or {}))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the address (or `name`), the settings and the options."""
        settings = backend.request_fields(self.explicit_settings)
        return backend.short_digest([self.name or str(self._url), settings, self.options])

    def generate(
        self,
        prompts: Prompts,
        negative_prompt: str | Sequence[str] = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        max_sequence_length: int | None = None,
        seed: Seed = None,
        image: Images = None,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """As `VideoModel.generate`.

        Raises:
          BadInput: see the class; also if a video failed.
        """
        batch = self.generate_batch(
            prompts,
            negative_prompt,
            seed=seed,
            image=image,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
        )
        for error in batch.errors:
            if error is not None:
                raise BadInput(f"{self.source}: {error}", source=self.source)
        return batch.videos

    def generate_batch(
        self,
        prompts: Prompts,
        negative_prompt: str | Sequence[str] = "",
        *,
        seed: Seed = None,
        image: Images = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> VideoBatch:
        """See `GeneratorBackend`. Identical rows are requested once."""
        request = backend.make_request(
            self.explicit_settings, prompts, negative_prompt, seed, settings, image
        )
        if not request.prompts:
            return backend.empty_batch(request.settings)
        columns = (request.prompts, request.negative_prompts, request.seeds, request.images)
        jobs = [VideoJob(*row) for row in zip(*columns, strict=True)]
        job_counts: dict[VideoJob, int] = {}
        for job in jobs:
            job_counts[job] = job_counts.get(job, 0) + 1
        results = run_coroutine(self._run_jobs(request, job_counts, progress))
        videos: dict[VideoJob, np.ndarray] = {}
        failures: dict[VideoJob, _VideoFailed] = {}
        for job, result in results.items():
            if isinstance(result, _VideoFailed):
                failure = result
            else:
                failure = self._check(request, result)
                videos[job] = result
            if failure is not None:
                failures[job] = failure
                prompt = job.prompt[:60]
                log.info("%s: no video for %r, seed %d: %s", self.source, prompt, job.seed, failure)
        self._raise_if_down()
        black = np.zeros(self._shape or self._placeholder_shape(request), np.uint8)
        errors = [f"no video: {failures[job]}" if job in failures else None for job in jobs]
        return VideoBatch(
            np.stack([black if job in failures else videos[job] for job in jobs]), errors
        )

    def _check(self, request: BackendRequest, video_TxHxWx3: np.ndarray) -> _VideoFailed | None:
        """What is wrong with the size of a video; None if it is right."""
        request.check_size(self.source, video_TxHxWx3.shape)
        self._shape = self._shape or video_TxHxWx3.shape
        if video_TxHxWx3.shape == self._shape:
            return None
        return _VideoFailed(
            f"the video has {_format_size(video_TxHxWx3.shape)}, earlier ones have"
            f" {_format_size(self._shape)}"
        )

    def _raise_if_down(self) -> None:
        failed = self._consecutive_failures
        if failed < self.limits.max_consecutive_failures:
            return
        self._consecutive_failures = 0  # the next call starts afresh
        raise BadInput(
            f"{self.source}: {failed} requests in a row failed, each after up to"
            f" {self.limits.max_retries + 1} attempts (last error: {self._last_failure}); finished"
            " videos are kept; run the same command again when the endpoint works",
            source=self.source,
        )

    def _placeholder_shape(self, request: BackendRequest) -> tuple[int, ...]:
        sizes = zip(backend.SIZES, PLACEHOLDER_SIZE, strict=True)
        return (*(request.settings.get(name) or default for name, default in sizes), 3)

    # ---------------------------------------------------------------------------- requests

    async def _run_jobs(
        self, request: BackendRequest, job_counts: Mapping[VideoJob, int], progress: Progress | None
    ) -> dict[VideoJob, Any]:
        """Maps every job to its frames, or to the `_VideoFailed` that says why there are none.

        Args:
          job_counts: the number of rows that need each job.
        """
        headers = {"Accept": "video/mp4, image/png, application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        fields = self.options | backend.request_fields(request.settings)
        limit = asyncio.Semaphore(self.limits.concurrency)
        finished_rows = 0
        # one client per call: its connections belong to this event loop
        async with httpx2.AsyncClient(timeout=None, follow_redirects=False) as client:

            async def run_job(job: VideoJob) -> Any:
                nonlocal finished_rows
                async with limit:
                    body = fields | job.fields()  # here: few images are in memory at once
                    result = await self._request_with_retries(client, headers, body)
                finished_rows += job_counts[job]
                if progress:
                    progress(finished_rows, len(request.prompts))
                return result

            results = await asyncio.gather(*map(run_job, job_counts))
        return dict(zip(job_counts, results, strict=True))

    async def _request_with_retries(
        self, client: httpx2.AsyncClient, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> Any:
        if self._consecutive_failures >= self.limits.max_consecutive_failures:
            return _VideoFailed("the endpoint is down")
        retry = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Retryable),
            stop=tenacity.stop_after_attempt(self.limits.max_retries + 1),
            wait=self._backoff_s,
            reraise=True,
        )
        try:
            video_TxHxWx3 = await retry(self._request, client, headers, body)
        except _VideoFailed as failure:
            self._consecutive_failures += 1
            self._last_failure = str(failure)
            return failure
        # once the limit is reached, requests have been skipped: `generate` must raise
        if self._consecutive_failures < self.limits.max_consecutive_failures:
            self._consecutive_failures = 0
        return video_TxHxWx3

    def _backoff_s(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next attempt: random exponential, at least the Retry-After header."""
        pause = tenacity.wait_random_exponential(1, max=self.limits.max_backoff_s)(state)
        failure = state.outcome.exception() if state.outcome else None
        retry_after_s = failure.retry_after_s if isinstance(failure, _Retryable) else 0.0
        return min(max(pause, retry_after_s), self.limits.max_backoff_s)

    async def _request(
        self, client: httpx2.AsyncClient, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> UInt8[np.ndarray, "T H W 3"]:
        try:
            # the client's own timeouts start again with every byte
            async with asyncio.timeout(self.limits.timeout_s):
                data = await self._download(client, "POST", self._url, headers=headers, json=body)
                if not endpoint_response.is_media(data):
                    data = await self._media_in_json(client, headers, data)
                return await asyncio.to_thread(endpoint_response.decode_frames, data)
        except TimeoutError:
            raise _Retryable(f"no reply within {self.limits.timeout_s:g} s") from None
        except endpoint_response.MalformedResponseError as error:
            raise _Retryable(str(error)) from None
        except BadInput:
            raise
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise _Retryable(f"no connection ({type(error).__name__})") from None

    async def _media_in_json(
        self, client: httpx2.AsyncClient, headers: Mapping[str, str], data: bytes
    ) -> bytes:
        """The video or image that a JSON reply contains or points to."""
        media, address = endpoint_response.parse_json(data)
        if address is None:
            assert media is not None
            return media
        url = self._url.join(address)
        same_host = (url.scheme, url.netloc) == (self._url.scheme, self._url.netloc)
        return await self._download(client, "GET", url, headers=headers if same_host else {})

    async def _download(
        self, client: httpx2.AsyncClient, method: str, url: httpx2.URL, **request: Any
    ) -> bytes:
        async with client.stream(method, url, **request) as response:
            status = response.status_code
            if method == "POST" and status in FATAL_STATUSES:
                key = self.api_key_env or "(generator.endpoint.api_key_env is empty)"
                raise BadInput(
                    f"{self.source}: HTTP status {status}; check the address, and the API key in"
                    f" the environment variable {key}",
                    source=self.source,
                )
            if status in TRANSIENT_STATUSES or status >= 500:
                retry_after_s = _parse_seconds(response.headers.get("retry-after", ""))
                raise _Retryable(f"HTTP status {status}", retry_after_s)
            if status != 200:
                raise _VideoFailed(f"HTTP status {status}")
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > MAX_RESPONSE_BYTES:
                    raise endpoint_response.MalformedResponseError(
                        f"a reply of more than {MAX_RESPONSE_BYTES >> 20} MiB"
                    )
            return bytes(data)


def _parse_seconds(retry_after: str) -> float:
    """Seconds of a Retry-After header; 0 for a date, where our own back-off decides."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0


def _format_size(shape: Sequence[int]) -> str:
    return f"{shape[0]} frames of {shape[2]} x {shape[1]}"
