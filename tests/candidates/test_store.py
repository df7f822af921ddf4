import dataclasses

import numpy as np
import pytest

from pav_jax.candidates.store import ScoredVideoStore, VideoRequest, batched
from pav_jax.errors import BadInput
from tests.fakes import FakeGenerator, FakeSuite


@dataclasses.dataclass(frozen=True)
class Caption:
    """A view: the video scored against a caption; views of one group are recorded together."""

    text: str
    group: str = ""


@dataclasses.dataclass(frozen=True)
class CaptionScore:
    key: str
    prompt: str
    score: float


class CaptionStore(ScoredVideoStore[Caption, CaptionScore]):
    """Scores videos against captions, as the trust measurements do."""

    record_type = CaptionScore

    def __init__(self, *args, **kwargs):
        self.scored = []  # captions of each call
        super().__init__(*args, **kwargs)

    def key(self, request, view):
        return self.video_key(view.text, request.text, request.seed)

    def view_group(self, view):
        return view.group

    def score_views(self, videos, rows):
        assert len(videos) == len(rows) == self.batch_size
        self.scored.append([view.text for _, view in rows])
        return videos[:, 0, 0, 0, 0].tolist()

    def make_record(self, request, view, video, scores):
        assert scores == video.frames[0, 0, 0, 0]
        return CaptionScore(self.key(request, view), view.text, float(scores))


def make_store(folder, generator=None, batch_size=2):
    return CaptionStore(generator or FakeGenerator(), FakeSuite(), folder, batch_size=batch_size)


def make_requests(texts, *captions):
    return [VideoRequest(text, 3, tuple(captions)) for text in texts]


def test_score_each_video_once_and_each_view(tmp_path):
    generator = FakeGenerator()
    store = make_store(tmp_path, generator)
    requests = make_requests(["one", "two", "three"], Caption("a"), Caption("b"), Caption("c", "x"))
    assert list(store.score(requests)) == [4, 2, 2, 1]
    assert generator.made == [("one", 3), ("two", 3), ("three", 3)]
    assert generator.batch_sizes == [2, 2]
    assert store.scored == [["a", "b"], ["a", "b"], ["c", "c"], ["a", "b"], ["c", "c"]]
    assert len(store.records) == 9
    assert len(list(tmp_path.iterdir())) == 4  # a segment for each group of a batch
    assert store.videos_made == 3 and store.seconds > 0


def test_score_recorded_views_are_skipped(tmp_path):
    list(make_store(tmp_path).score(make_requests(["one"], Caption("a"))))
    generator = FakeGenerator()
    store = make_store(tmp_path, generator)
    requests = make_requests(["one", "two"], Caption("a")) + make_requests(["one"], Caption("b"))
    assert list(store.score(requests)) == [2, 1]
    assert generator.made == [("two", 3), ("one", 3)]
    assert store.scored == [["a", "a"], ["b", "b"]]
    again = FakeGenerator()
    assert list(make_store(tmp_path, again).score(requests)) == [2, 1]
    assert not again.made


def test_score_starts_next_batch_before_scoring(tmp_path):
    events = []

    class Ahead(FakeGenerator):
        def start(self, prompts, seed):
            events.append(f"start {prompts[0]}")
            wait = super().start(prompts, seed)

            def finish():
                events.append(f"wait {prompts[0]}")
                return wait()

            return finish

    store = make_store(tmp_path, Ahead())
    settled = store.score(make_requests(["one", "two", "three", "four", "five"], Caption("a")))
    assert next(settled) == 2
    assert events == ["start one", "start three", "wait one"]
    settled.close()  # as if the process was killed here
    events.clear()
    store = make_store(tmp_path, Ahead())
    requests = make_requests(["one", "two", "three", "four", "five"], Caption("a"))
    assert list(store.score(requests)) == [2, 2, 1]
    assert events == ["start three", "start five", "wait three", "wait five"]


def test_score_row_does_not_depend_on_recorded_rows(tmp_path):
    rows = []

    class Watching(FakeGenerator):
        def generate(self, prompts, *, seed):
            rows.append(list(prompts))
            return super().generate(prompts, seed=seed)

    list(make_store(tmp_path, batch_size=3).score(make_requests(["two"], Caption("a"))))
    requests = make_requests(["one", "two", "three"], Caption("a"))
    list(make_store(tmp_path, Watching(), batch_size=3).score(requests))
    assert rows == [["one", "one", "three"]]


def test_batch_size_zero(tmp_path):
    with pytest.raises(BadInput) as caught:
        make_store(tmp_path, batch_size=0)
    assert caught.value.field == "generator.batch_size"


def test_batched_last_is_shorter():
    assert list(batched(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []
    assert np.concatenate(list(batched(range(7), 3))).tolist() == list(range(7))
