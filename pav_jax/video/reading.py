"""Reads video files as a player shows them (PyAV): turned as the display matrix says, in the
colours of the file's tags, with square pixels, and with time stamps.

Frames are decoded one by one. The number of frames is counted from the file's packets before
anything is decoded, so a small file cannot make a large array.

Shapes: T frames, H, W height and width in pixels; uint8 RGB throughout.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float, UInt8

from pav_jax.errors import BadInput

# identifiers of Matroska's first two elements
EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"
MAX_FRAME_PIXELS = 2**25  # a frame of 8K has 33.2 million
MAX_FRAMES = 10_000  # over five minutes at 30 frames per second
MAX_PIXELS = 2**34  # of all frames together: 4.6 minutes of 1080p at 30 frames per second
# a frame may be larger than the header says; FFmpeg refuses it before it allocates
LIMIT = {"max_pixels": str(MAX_FRAME_PIXELS)}
MAX_ARRAY_BYTES = 2**31  # of decoded frames that are in memory together
# display matrices [[a, b], [c, d]] of quarter turns, counter-clockwise in degrees
ROTATED = {
    90: np.array([[0, -1], [1, 0]]),
    -90: np.array([[0, 1], [-1, 0]]),
    180: np.array([[-1, 0], [0, -1]]),
    -180: np.array([[-1, 0], [0, -1]]),
}
DEFAULT_FPS = 25.0  # of files without time stamps, such as a stream of JPEGs


@dataclasses.dataclass(frozen=True)
class VideoHeader:
    """What a file says of its video before it is decoded.

    Attributes:
      height, width: of a frame in square pixels, before it is turned.
      times: when each frame is shown, in seconds, ascending.
      rate: frames per second, on average.
    """

    height: int
    width: int
    rate: float
    times: Float[np.ndarray, "T"]

    @property
    def num_frames(self) -> int:
        """The number of packets, which is that of the frames in nearly every file."""
        return len(self.times)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A decoded frame and when it is shown, in seconds; None if the file does not say."""

    image: UInt8[np.ndarray, "H W 3"]
    time: float | None


def read_mp4(
    path: str | os.PathLike, max_frames: int | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames of the first video stream, in any format that PyAV decodes.

    Odd sizes stay; grey, deeper colour and other colour spaces become 8-bit RGB, and an alpha
    channel is left out.

    Args:
      max_frames: read no more frames; None: all.

    Raises:
      BadInput: no such file, nothing that decodes to frames, a file that ends before its frames
        do, or frames of more than MAX_ARRAY_BYTES.
    """
    header = read_header(path)
    wanted = min(header.num_frames, max_frames or header.num_frames)
    _check_array(path, wanted, header.height, header.width)
    frames: list[np.ndarray] = []
    for frame in iterate_frames(path):
        frames.append(frame.image)
        _check_array(path, len(frames), *frame.image.shape[:2])
        if len(frames) == max_frames:
            break
    return np.stack(frames)


def read_header(path: str | os.PathLike) -> VideoHeader:
    """Read a file's packets without decoding them.

    Raises:
      BadInput: not a video, a truncated one, or one beyond MAX_FRAME_PIXELS, MAX_FRAMES or
        MAX_PIXELS.
    """
    with _opened(path) as container:
        stream = _video_stream(path, container)
        times = []
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                times.append(_seconds(packet.pts, packet.time_base))
                if len(times) > MAX_FRAMES:
                    raise BadInput(
                        f"{path}: more than {MAX_FRAMES:,} frames, the limit; cut it into parts",
                        source=path,
                    )
        height = stream.codec_context.height
        width = _square_width(height, stream.codec_context.width, stream)
        rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    _check_total(path, len(times), height, width)
    return VideoHeader(height, width, rate, shown_times(times, rate))


def iterate_frames(path: str | os.PathLike) -> Iterator[Frame]:
    """Decode a file frame by frame.

    Raises:
      BadInput: as `read_header`; the frames before a fault were yielded already.
    """
    first: np.ndarray | None = None
    matrix: np.ndarray | None = None
    with _opened(path) as container:
        stream = _video_stream(path, container)
        for count, frame in enumerate(container.decode(stream), 1):
            if first is None:
                # once, because side data and its frame form a cycle, which stays in memory
                matrix = _display_matrix(frame)
            image = _image(frame, stream, matrix)
            first = image if first is None else first
            _check_same_size(path, first, image)
            _check_total(path, count, *image.shape[:2])
            yield Frame(image, None if frame.pts is None else frame.time)
    if first is None:
        raise BadInput(f"{path}: the video has no frames", source=path)


def shown_times(times: list[float | None], rate: float) -> Float[np.ndarray, "T"]:
    """When frames are shown, in seconds, ascending from 0.

    Args:
      times: of packets or frames, in any order; None where the file does not say.
      rate: frames per second, used where times are missing or not distinct.
    """
    stated = sorted(time for time in times if time is not None)
    ascending = np.array(stated, np.float64)
    if len(stated) != len(times) or (np.diff(ascending) <= 0).any():
        return np.arange(len(times)) / rate
    return ascending - ascending[:1]


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    """An open container; what goes wrong in it is one line."""
    _check_regular_file(path)
    try:
        # the prefix, because "12:30.mp4" would be taken for an address
        with av.open(f"file:{os.fspath(path)}", options=LIMIT) as container:
            yield container
    except EOFError as error:
        raise BadInput(f"{path}: the file ends before a frame can be read", source=path) from error
    except BadInput:
        raise
    except (OSError, ValueError, FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: not a video that can be read ({reason})", source=path) from error
    except MemoryError as error:
        raise BadInput(f"{path}: its frames do not fit into memory", source=path) from error


def _check_regular_file(path: str | os.PathLike) -> None:
    if not os.path.exists(path):
        raise BadInput(f"{path}: no such file", source=path)
    if os.path.isdir(path):
        raise BadInput(f"{path}: this is a folder; give a video file", source=path)
    if not os.path.isfile(path):
        raise BadInput(f"{path}: not a plain file; a pipe cannot be read twice", source=path)


def _video_stream(path: str | os.PathLike, container: Any) -> av.VideoStream:
    """The first video stream of an open file.

    Raises:
      BadInput: a text, a file without a video, a truncated one, or one with too large frames.
    """
    # FFmpeg shows any .txt as a terminal
    if container.format.name == "tty":
        raise BadInput(f"{path}: this is a text, not a video", source=path)
    if not container.streams.video:
        other = ", only sound" if container.streams.audio else ""
        raise BadInput(f"{path}: there is no video in it{other}", source=path)
    stream = container.streams.video[0]
    context = stream.codec_context
    if not context.height or not context.width:
        raise BadInput(
            f"{path}: its frames have no size, or more than {MAX_FRAME_PIXELS:,} pixels, the limit",
            source=path,
        )
    _check_frame_size(path, context.height, context.width)
    if _is_truncated(path, stream):
        raise BadInput(
            f"{path}: the file ends before its frames do; fetch or make it again", source=path
        )
    context.options = LIMIT
    return stream


def _seconds(pts: int | None, time_base: Any) -> float | None:
    return None if pts is None or time_base is None else float(pts * time_base)


def _check_frame_size(path: str | os.PathLike, height: int, width: int) -> None:
    if height * width > MAX_FRAME_PIXELS:
        raise BadInput(
            f"{path}: frames of {width} x {height} pixels; the limit is {MAX_FRAME_PIXELS:,}"
            " pixels, scale it down",
            source=path,
        )


def _check_total(path: str | os.PathLike, num_frames: int, height: int, width: int) -> None:
    _check_frame_size(path, height, width)
    pixels = num_frames * height * width
    if num_frames > MAX_FRAMES or pixels > MAX_PIXELS:
        raise BadInput(
            f"{path}: {num_frames:,} frames of {width} x {height} are {pixels:,} pixels; the"
            f" limits are {MAX_FRAMES:,} frames and {MAX_PIXELS:,} pixels, cut it into parts",
            source=path,
        )


def _check_array(path: str | os.PathLike, num_frames: int, height: int, width: int) -> None:
    size = 3 * num_frames * height * width
    if size > MAX_ARRAY_BYTES:
        raise BadInput(
            f"{path}: {num_frames} frames of {width} x {height} are {size / 2**30:.1f} GiB; the"
            f" limit is {MAX_ARRAY_BYTES / 2**30:.1f} GiB, cut it into parts or scale it down",
            source=path,
        )


def _check_same_size(path: str | os.PathLike, first: np.ndarray, image: np.ndarray) -> None:
    if first.shape != image.shape:
        (first_height, first_width), (height, width) = first.shape[:2], image.shape[:2]
        raise BadInput(
            f"{path}: its frames change from {first_width} x {first_height} to {width} x {height}"
            " pixels; cut it into two",
            source=path,
        )


# -------------------------------------------------------------------------------- as a player shows


def _image(
    frame: av.VideoFrame, stream: av.VideoStream, matrix: np.ndarray | None
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame as 8-bit RGB: colours by its tags, square pixels, turned by the display matrix."""
    width = _square_width(frame.height, frame.width, stream)
    image = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    return image if matrix is None else oriented(image, matrix)


def _square_width(height: int, width: int, stream: av.VideoStream) -> int:
    """The width in square pixels; that of the frame where the shape of a pixel is not stated."""
    ratio = stream.sample_aspect_ratio
    if not ratio or ratio <= 0:
        return width
    square = max(1, round(width * ratio))
    return square if height * square <= MAX_FRAME_PIXELS else width


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The linear part of the display matrix, [[a, b], [c, d]]; None without one."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know the type of other side data, such as EXIF
        return ROTATED.get(frame.rotation)
    if data is None:
        return None
    return np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]


def oriented(
    image_HxWx3: UInt8[np.ndarray, "H W 3"], matrix: np.ndarray
) -> UInt8[np.ndarray, "h w 3"]:
    """Turn and mirror an image by a display matrix, to the nearest quarter turn.

    Args:
      matrix: [[a, b], [c, d]]; a pixel at (x, y) is shown at (a x + c y, b x + d y), see
        libavutil/display.h.
    """
    (a, b), (c, d) = matrix.tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        right, down = a, d
    else:
        image_HxWx3 = image_HxWx3.transpose(1, 0, 2)
        right, down = c, b
    image_HxWx3 = image_HxWx3[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(image_HxWx3)


# --------------------------------------------------------------------------------- truncated files


def _is_truncated(path: str | os.PathLike, stream: av.VideoStream) -> bool:
    """Whether the container's index points beyond the end of the file. Decoding would often give
    the frames before it."""
    size = os.path.getsize(path)
    if any(entry.pos + entry.size > size for entry in stream.index_entries):
        return True
    with open(path, "rb") as file:
        return _matroska_end(file.read(256)) > size


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska or WebM file ends, from the file's first bytes; 0 for other
    files and for streams that do not say. An element is its identifier, its size, its content (RFC
    8794, sections 4 to 6).
    """

    def number(at: int) -> tuple[int, int]:
        """The variable-size integer at `at` and where it ends; leading zero bits tell the number of
        bytes."""
        length = 9 - head[at].bit_length()
        value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
        return (-1 if value == (1 << 7 * length) - 1 else value), at + length

    try:
        if not head.startswith(EBML):
            return 0
        size, at = number(len(EBML))
        if head[at + size : at + size + len(SEGMENT)] != SEGMENT:
            return 0
        size, at = number(at + size + len(SEGMENT))
        return at + size if size >= 0 else 0  # all bits set: of unknown length
    except IndexError:
        return 0
