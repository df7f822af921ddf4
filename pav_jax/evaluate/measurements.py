"""The scored videos of an evaluation: each distinct (text, seed, image) is made once."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from pav_jax.candidates.candidate_store import CandidateStore, PendingCandidate
from pav_jax.candidates.store import VideoRequest
from pav_jax.records import Candidate
from pav_jax.storage.addresses import as_path, list_names
from pav_jax.video.files import write_mp4
from pav_jax.video.generator import GeneratedVideo
from pav_jax.video.images import PromptImage


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement: the video of a text, scored against a prompt.

    Attributes:
      prompt: the user's prompt.
      refined: the text that the generator receives.
      seed: the generator's seed.
      system: name of the system that wrote the text. It is not part of the key: systems with the
        same text share a video.
      image: that the video is made from; None without one.
    """

    prompt: str
    refined: str
    seed: int
    system: str
    image: PromptImage | None = None

    @property
    def image_digest(self) -> str | None:
        """What identifies the image; None without one."""
        return None if self.image is None else self.image.digest


class MeasurementStore(CandidateStore):
    """A store in which each video is made once and scored for every prompt that needs it.

    Args:
      generator, suite, batch_size: see `ScoredVideoStore`.
      folder: folder of the record segments.
      workdir: work directory; videos are written to its folder `videos`.
      save_videos: whether to write video files.
    """

    def __init__(
        self,
        generator: Any,
        suite: Any,
        folder: str | os.PathLike,
        workdir: str | os.PathLike,
        *,
        batch_size: int,
        save_videos: bool = True,
    ):
        super().__init__(generator, suite, folder, batch_size=batch_size)
        self.workdir = as_path(workdir)
        self.save_videos = save_videos
        self._saved = set(list_names(self.workdir / "videos")) if save_videos else set()

    def __getitem__(self, cell: Cell) -> Candidate:
        key = self.video_key(cell.prompt, cell.refined, cell.seed, cell.image_digest)
        return self.records[key]

    def save_video(self, candidate: Candidate, video: GeneratedVideo) -> str | None:
        """Save a video if `save_videos` is set; returns its path."""
        if not self.save_videos:
            return None
        # the file name omits the prompt, so that all prompts that need the video share the file
        key = self.video_key("", candidate.refined, candidate.seed, candidate.image)
        name = f"{key}.mp4"
        if name not in self._saved:
            path = self.workdir / "videos" / name
            write_mp4(path, video.frames, self.generator.fps, audio=video.audio)
            self._saved.add(name)
        return f"videos/{name}"


def video_requests(cells: Iterable[Cell]) -> list[VideoRequest[PendingCandidate]]:
    """Group cells by video, in order of first occurrence."""
    groups: dict[tuple[str, int, PromptImage | None], dict[str, PendingCandidate]] = {}
    for cell in cells:
        view = PendingCandidate(cell.prompt, cell.refined, 0, 0, (), cell.system)
        video = (cell.refined, cell.seed, cell.image)
        groups.setdefault(video, {}).setdefault(cell.prompt, view)
    return [
        VideoRequest(text, seed, tuple(views.values()), image)
        for (text, seed, image), views in groups.items()
    ]
