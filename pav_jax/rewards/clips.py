"""What rewards need of a video file: decoded frame by frame, and only that is kept.

A small video is kept whole, as the stages score it. Of a large one, each reward gets the frames
that it reads, reduced as it asks, so memory does not grow with the size of the file.

Shapes: T frames, H, W height and width in pixels.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from pav_jax.rewards.reward import Reward
from pav_jax.video.reading import (
    MAX_ARRAY_BYTES,
    VideoHeader,
    iterate_frames,
    read_header,
    shown_times,
)

SMALL_VIDEO_BYTES = 2**26  # of a video that is kept whole: 49 frames of 720 x 480 fit
MIN_FRAMES = 64  # shorter videos count as this many frames, because rewards pad their batches


@dataclasses.dataclass(frozen=True)
class Clips:
    """The decoded parts of a video.

    Attributes:
      shape: of the whole video, (T, H, W, 3).
      times: when each frame is shown, in seconds.
      arrays: [n, h, w, 3], uint8 frames or what a reward reduced them to.
      views: reward -> the position of its frames in `arrays`; None: they are too large.
      is_whole: whether `arrays` is the whole video.
    """

    shape: tuple[int, ...]
    times: Float[np.ndarray, "T"]
    arrays: tuple[np.ndarray, ...]
    views: Mapping[int, int | None]
    is_whole: bool

    @property
    def batch_key(self) -> tuple:
        """Videos with the same key can be stacked."""
        return (self.shape, () if self.is_whole else tuple(self.views.items()))

    @property
    def num_bytes(self) -> int:
        """The size of all arrays."""
        return sum(array.nbytes for array in self.arrays)


def read_clips(path: str | os.PathLike, rewards: Mapping[int, Reward]) -> Clips:
    """Decode what rewards need of a file.

    Args:
      rewards: by any number, which `Clips.views` has too.

    Raises:
      BadInput: as `video.reading.read_header` and `iterate_frames`.
    """
    header = read_header(path)
    frame_bytes = 3 * header.height * header.width
    is_small = frame_bytes * max(header.num_frames, MIN_FRAMES) <= SMALL_VIDEO_BYTES
    clips, num_frames = _decode(path, rewards, header, header.num_frames, is_small)
    if num_frames != header.num_frames:
        # rare: a packet without a frame, or with two; the frames to keep depend on their number
        clips, _ = _decode(path, rewards, header, num_frames, is_small)
    return clips


def _decode(
    path: str | os.PathLike,
    rewards: Mapping[int, Reward],
    header: VideoHeader,
    num_frames: int,
    is_whole: bool,
) -> tuple[Clips, int]:
    """(what is kept of a video if it has `num_frames`, how many frames it has)."""
    views: list[_View] = []
    times = []
    shape: tuple[int, ...] = ()
    for i, frame in enumerate(iterate_frames(path)):
        if not views:
            shape = frame.image.shape
            views = _make_views(list(rewards.values()), frame.image, num_frames, is_whole)
        times.append(frame.time)
        for view in dict.fromkeys(views):
            view.add(i, frame.image)
    filled = [view for view in dict.fromkeys(views) if view.array is not None]
    clips = Clips(
        (len(times), *shape),
        shown_times(times, header.rate),
        tuple(view.array for view in filled if view.array is not None),
        {
            index: filled.index(view) if view in filled else None
            for index, view in zip(rewards, views, strict=True)
        },
        is_whole,
    )
    return clips, len(times)


class _View:
    """The frames that one or several rewards take.

    Attributes:
      array: [n, h, w, 3]; None where it would be larger than MAX_ARRAY_BYTES.
    """

    def __init__(self, indices: np.ndarray, reward: Reward | None, first: np.ndarray):
        self.indices = indices
        self.reward = reward
        reduced = self._reduced(first)
        self.array: np.ndarray | None = None
        if len(indices) * reduced.nbytes <= MAX_ARRAY_BYTES:
            self.array = np.empty((len(indices), *reduced.shape), reduced.dtype)

    def add(self, index: int, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep a frame of the video [H, W, 3] if it is one of `indices`."""
        if self.array is not None and (rows := np.flatnonzero(self.indices == index)).size:
            self.array[rows] = self._reduced(image)

    def _reduced(self, image: np.ndarray) -> np.ndarray:
        return image if self.reward is None else self.reward.reduce_frame(image)


def _make_views(
    rewards: Sequence[Reward], first: np.ndarray, num_frames: int, keep_whole: bool
) -> list[_View]:
    """One view for each reward; rewards that take the same frames share it."""
    if keep_whole:
        return [_View(np.arange(num_frames), None, first)] * len(rewards)
    shared: dict[bytes, _View] = {}
    views = []
    for reward in rewards:
        indices = reward.frames_read(num_frames)
        indices = np.arange(num_frames) if indices is None else indices
        if reward.reduce_frame(first) is not first:
            views.append(_View(indices, reward, first))
            continue
        key = indices.tobytes()
        if key not in shared:
            shared[key] = _View(indices, None, first)
        views.append(shared[key])
    return views
