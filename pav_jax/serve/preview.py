"""Videos of single prompts, for the page to show prompt and rewrite side by side."""

import threading

from pav_jax.errors import BadInput
from pav_jax.serve.call import Call
from pav_jax.serve.errors import ApiError, timed_out
from pav_jax.video.files import mp4_bytes
from pav_jax.video.generator import Generator

WARM_UP_PROMPT = "a dog runs"
WARM_UP_TIMEOUT_S = 3600.0  # a large generator compiles for minutes
POLL_S = 0.2  # how soon a thread notices that nobody waits for its video any more


class Previewer:
    """Makes one video at a time with a generator."""

    def __init__(self, generator: Generator):
        self._generator = generator
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Compile the programs for one video.

        Raises:
          BadInput: the generator makes no usable video.
        """
        try:
            self.make_mp4(Call(WARM_UP_TIMEOUT_S), WARM_UP_PROMPT, 0)
        except ApiError as error:
            raise BadInput(f"{error.detail} of {WARM_UP_PROMPT!r}", source="--generator") from error

    def make_mp4(self, call: Call, prompt: str, seed: int) -> bytes:
        """Return the video of a prompt as an MP4 file.

        Raises:
          ApiError: the time was over before the generator was free, or it made no usable video.
        """
        while not self._lock.acquire(timeout=POLL_S):
            _check_awaited(call)
        try:
            _check_awaited(call)
            batch = self._generator.start([prompt], [seed])()
        finally:
            self._lock.release()
        video = batch[0]
        if video.error:
            raise ApiError(500, "the generator made no usable video", code="generator_failed")
        return mp4_bytes(video.frames, self._generator.fps, audio=video.audio)


def _check_awaited(call: Call) -> None:
    """Check that somebody waits for the answer.

    Raises:
      ApiError: its time is over, or the client has gone.
    """
    if call.is_over():
        raise timed_out()
