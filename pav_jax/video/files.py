"""Videos as files: H.264 mp4 (PyAV), gif and single frames (Pillow). Every file appears whole or not at all.

Shapes: T frames, H, W height and width in pixels; uint8 RGB throughout.
"""

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.records import write_whole

CRF = 18  # constant quality of x264, visually lossless; 23 is its default


def mp4_bytes(
    video: UInt8[np.ndarray, "T H W 3"], fps: float, metadata: Mapping[str, str] | None = None, crf: int = CRF
) -> bytes:
    """An H.264 mp4 that browsers play.

    yuv420p halves the colour planes, so an odd height or width is filled up by repeating its last row or column.

    Args:
      metadata: container tags under any names; players show the standard ones, such as title and comment.

    Raises:
      BadInput: not a uint8 RGB video with at least one frame.
    """
    video = _checked(video)
    _, height, width, _ = video.shape
    video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": "+use_metadata_tags"}) as container:
        container.metadata.update({name: str(value) for name, value in (metadata or {}).items()})
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "medium"}
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(
    path: str | Path, video: UInt8[np.ndarray, "T H W 3"], fps: float, metadata: Mapping[str, str] | None = None
) -> None:
    write_whole(Path(path), mp4_bytes(video, fps, metadata))


def read_mp4(path: str | Path) -> UInt8[np.ndarray, "T H W 3"]:
    """All frames of the first video stream, in any format that PyAV decodes.

    Raises:
      BadInput: no such file, or nothing that decodes to frames.
    """
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, IndexError, av.FFmpegError) as error:
        raise BadInput(f"{path}: not a video that can be read ({error})") from error
    if not frames:
        raise BadInput(f"{path}: the video has no frames")
    return np.stack(frames)


def write_gif(path: str | Path, video: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """A gif that loops for ever; its clock ticks in hundredths of a second."""
    first, *others = [Image.fromarray(frame) for frame in _checked(video)]
    buffer = io.BytesIO()
    first.save(buffer, "gif", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    write_whole(Path(path), buffer.getvalue())


def write_frames(folder: str | Path, video: UInt8[np.ndarray, "T H W 3"]) -> list[Path]:
    """One PNG per frame, 0000.png and so on; returns the paths in order."""
    paths = []
    for i, frame in enumerate(_checked(video)):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "png")
        paths.append(Path(folder) / f"{i:04d}.png")
        write_whole(paths[-1], buffer.getvalue())
    return paths


def _checked(video: np.ndarray) -> np.ndarray:
    video = np.asarray(video)
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise BadInput(f"video: {video.dtype} of shape {list(video.shape)}; uint8 [frames, height, width, 3] expected")
    return video
