"""What an HTTP generator requests: one job per distinct video."""

import asyncio
import base64
import concurrent.futures
import dataclasses
import io
from collections.abc import Coroutine
from typing import Any

from pav_jax.video.images import PromptImage

IMAGE_FIELD = "image"


@dataclasses.dataclass(frozen=True)
class VideoJob:
    """The part of a request that belongs to one video."""

    prompt: str
    negative_prompt: str
    seed: int
    image: PromptImage | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of the request; the image is a PNG in base64, and left out without one."""
        fields = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
        }
        if self.image is None:
            return fields
        buffer = io.BytesIO()
        self.image.load().save(buffer, "PNG")
        return fields | {IMAGE_FIELD: base64.b64encode(buffer.getvalue()).decode()}


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, in its own thread if this one runs an event loop (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
