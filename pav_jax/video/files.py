"""Videos as files: H.264 mp4 (PyAV), gif and single frames (Pillow). Every file appears whole or
not at all.

What made a video travels inside the file: as container tags of an mp4, text chunks of a png, JSON
in a gif's comment.

Shapes: T frames, H, W height and width in pixels; uint8 RGB throughout.
"""

import io
import json
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from pav_jax.errors import BadInput
from pav_jax.storage.files import write_atomic

CRF = 18  # constant quality of x264, visually lossless; 23 is its default
# identifiers of Matroska's first two elements
EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"


def mp4_bytes(
    video: np.ndarray,
    fps: float,
    metadata: Mapping[str, str] | None = None,
    crf: int = CRF,
) -> bytes:
    """An H.264 mp4 that browsers play.

    yuv420p halves the colour planes, so an odd height or width is filled up by repeating its last
    row or column.

    Args:
      video: uint8 RGB [T, H, W, 3].
      metadata: container tags under any names; players show the standard ones, such as title and
        comment.

    Raises:
      BadInput: not a uint8 RGB video with at least one frame.
    """
    video = _checked(video)
    _, height, width, _ = video.shape
    video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(
        buffer, "w", format="mp4", options={"movflags": "+use_metadata_tags"}
    ) as container:
        container.metadata.update({name: str(value) for name, value in (metadata or {}).items()})
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "medium"}
        for frame in video:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                )
            )
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(
    path: str | Path,
    video: UInt8[np.ndarray, "T H W 3"],
    fps: float,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a video [T, H, W, 3] as H.264 in MP4, with metadata."""
    write_atomic(Path(path), mp4_bytes(video, fps, metadata))


def read_mp4(path: str | Path) -> UInt8[np.ndarray, "T H W 3"]:
    """All frames of the first video stream, in any format that PyAV decodes.

    Odd sizes stay; grey, deeper colour and other colour spaces become 8-bit RGB, and an alpha
    channel is left out.

    Raises:
      BadInput: no such file, nothing that decodes to frames, or a file that ends before its frames
        do.
    """
    if not os.path.exists(path):
        raise BadInput(f"{path}: no such file")
    if os.path.isdir(path):
        raise BadInput(f"{path}: this is a folder; give a video file")
    if not os.path.isfile(path):
        raise BadInput(f"{path}: not a plain file; a pipe cannot be read twice")
    try:
        # the prefix, because "12:30.mp4" would be taken for an address
        with av.open(f"file:{path}") as container:
            stream = _video_stream(path, container)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except EOFError as error:
        raise BadInput(f"{path}: the file ends before a frame can be read") from error
    except (OSError, ValueError, FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: not a video that can be read ({reason})") from error
    except MemoryError as error:
        raise BadInput(f"{path}: its frames do not fit into memory") from error
    if not frames:
        raise BadInput(f"{path}: the video has no frames")
    if sizes := sorted({frame.shape[:2] for frame in frames} - {frames[0].shape[:2]}):
        h, w = sizes[0]
        first_h, first_w = frames[0].shape[:2]
        raise BadInput(
            f"{path}: its frames change from {first_w} x {first_h} to {w} x {h} pixels; cut it"
            " into two"
        )
    return np.stack(frames)


def _video_stream(path: str | Path, container: Any) -> av.VideoStream:
    """The first video stream of an open file.

    Raises:
      BadInput: a text, a file without a video, or a truncated one.
    """
    # FFmpeg shows any .txt as a terminal
    if container.format.name == "tty":
        raise BadInput(f"{path}: this is a text, not a video", source=path)
    if not container.streams.video:
        other = ", only sound" if container.streams.audio else ""
        raise BadInput(f"{path}: there is no video in it{other}", source=path)
    stream = container.streams.video[0]
    if _is_truncated(path, stream):
        raise BadInput(
            f"{path}: the file ends before its frames do; fetch or make it again", source=path
        )
    return stream


def _is_truncated(path: str | Path, stream: av.VideoStream) -> bool:
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


def write_gif(
    path: str | Path,
    video: UInt8[np.ndarray, "T H W 3"],
    fps: float,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """A gif that loops for ever; its clock ticks in hundredths of a second. `metadata` is its
    comment, as JSON."""
    first, *others = [Image.fromarray(frame) for frame in _checked(video)]
    buffer = io.BytesIO()
    first.save(
        buffer,
        "gif",
        save_all=True,
        append_images=others,
        duration=round(1000 / fps),
        loop=0,
        comment=_json(metadata) if metadata else b"",
    )
    write_atomic(Path(path), buffer.getvalue())


def write_frames(
    folder: str | Path,
    video: UInt8[np.ndarray, "T H W 3"],
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """One PNG per frame, 0000.png and so on; returns the paths in order."""
    paths = []
    for i, frame in enumerate(_checked(video)):
        paths.append(Path(folder) / f"{i:04d}.png")
        write_png(paths[-1], frame[None], metadata)
    return paths


def write_png(
    path: str | Path, video: UInt8[np.ndarray, "T H W 3"], metadata: Mapping[str, str] | None = None
) -> None:
    """An image: a video of one frame. `metadata` becomes its text chunks.

    Raises:
      BadInput: it has more frames.
    """
    if len(video := _checked(video)) != 1:
        raise BadInput(
            f"{path}: a png holds one frame, this video has {len(video)}; write an mp4, a gif or"
            " frames"
        )
    chunks = PngImagePlugin.PngInfo()
    buffer = io.BytesIO()
    for name, value in (metadata or {}).items():
        chunks.add_itxt(name, str(value))
    Image.fromarray(video[0]).save(buffer, "png", pnginfo=chunks)
    write_atomic(Path(path), buffer.getvalue())


def read_metadata(path: str | Path) -> dict[str, str]:
    """What an mp4, gif or png says of itself; an mp4's container adds tags of its own.

    Raises:
      BadInput: no such file, or none of these.
    """
    if not os.path.isfile(path):
        raise BadInput(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            if image.format == "GIF":
                comment = image.info.get("comment", b"")
                try:
                    return dict(json.loads(comment))
                except (ValueError, TypeError):  # somebody else's comment
                    return {"comment": comment.decode("utf-8", "replace")} if comment else {}
            return {name: str(value) for name, value in getattr(image, "text", {}).items()}
    except OSError:
        pass  # not an image
    try:
        with av.open(f"file:{path}") as container:
            return dict(container.metadata)
    except (OSError, ValueError, FFmpegError) as error:
        raise BadInput(f"{path}: not a video or image that can be read") from error


def _json(metadata: Mapping[str, str]) -> bytes:
    return json.dumps(
        {name: str(value) for name, value in metadata.items()}, ensure_ascii=False
    ).encode()


def _checked(video: np.ndarray) -> np.ndarray:
    video = np.asarray(video)
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise BadInput(
            f"video: {video.dtype} of shape {list(video.shape)}; uint8 [frames, height, width, 3]"
            " expected"
        )
    return video
