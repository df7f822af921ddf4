"""From what a backend does to the answers of OpenAI's routes."""

from collections.abc import Callable, Iterable, Sequence

from pav_jax.serve.backend import Backend, Reply, TextRequest, TextStream


def answer(backend: Backend, request: TextRequest) -> list[Reply]:
    """Return all answers to a request, n to each prompt.

    Raises:
      ApiError: there are none.
    """
    if not request.is_rewrite:
        return [Reply(text) for texts in backend.complete(request) for text in texts]
    refinements = backend.refine(request)
    if not request.is_guarded:
        return [Reply(refinement.refined) for refinement in refinements]
    # samples end at a stop text, but what the guard adds, or an unchanged prompt, may hold one
    return [Reply(_up_to(r.refined, request.stop), r) for r in refinements]


def open_stream(backend: Backend, request: TextRequest, notify: Callable[[], object]) -> TextStream:
    """Start to answer; a guarded rewrite is only known when all samples are complete.

    Args:
      notify: called, from any thread, when there is more.
    """
    if request.is_guarded:
        return WholeStream(lambda: answer(backend, request))
    return backend.stream(request, notify)


class WholeStream:
    """A stream of answers that come as a whole; see `backend.TextStream`."""

    def __init__(self, work: Callable[[], list[Reply]]):
        self._work = work

    def texts(self) -> Sequence[str]:
        """See `backend.TextStream`."""
        return []

    def finish(self) -> list[Reply]:
        """See `backend.TextStream`."""
        return self._work()


def _up_to(text: str, stops: Iterable[str]) -> str:
    """A text up to the first stop text."""
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))]
