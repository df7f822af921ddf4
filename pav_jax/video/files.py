"""Writes videos as files: H.264 mp4 (PyAV), gif and single frames (Pillow). Every file appears
whole or not at all. `reading` reads them.

What made a video travels inside the file: as container tags of an mp4, text chunks of a png, JSON
in a gif's comment.

Shapes: T frames, H, W height and width in pixels; uint8 RGB throughout.
"""

import io
import json
import os
from collections.abc import Mapping
from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.files import write_atomic
from pav_jax.video.audio import Audio

CRF = 18  # constant quality of x264, visually lossless; 23 is its default
# Frames are sRGB. The matrix is that of FFmpeg's conversion from RGB, so the tags change no pixel.
# Numbers of ITU-T H.273.
COLOR_PRIMARIES = 1  # BT.709, as sRGB has them
COLOR_TRC = 13  # sRGB
COLORSPACE = 6  # the matrix of BT.601 (SMPTE 170M)
COLOR_RANGE = 1  # limited, in FFmpeg's numbers
# The same bytes on every machine and in every process: x264's assembly otherwise rounds by the
# alignment of its buffers, and its threads are as many as the cores.
X264_PARAMS = "cpu-independent=1:threads=4:lookahead-threads=1"


def mp4_bytes(
    video: np.ndarray,
    fps: float,
    metadata: Mapping[str, str] | None = None,
    crf: int = CRF,
    audio: Audio | None = None,
) -> bytes:
    """An H.264 mp4 that browsers play; the same video gives the same bytes in every process.

    yuv420p halves the colour planes, so an odd height or width is filled up by repeating its last
    row or column.

    Args:
      video: uint8 RGB [T, H, W, 3].
      metadata: container tags under any names; players show the standard ones, such as title and
        comment.
      audio: the sound, as AAC; None: a file without sound.

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
        stream.options = {"crf": str(crf), "preset": "medium", "x264-params": X264_PARAMS}
        _tag_colors(stream.codec_context)
        # all streams must exist before the first packet
        sound = None if audio is None else _add_sound(container, audio)
        for frame in video:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                )
            )
        container.mux(stream.encode())
        if audio is not None and sound is not None:
            samples = np.ascontiguousarray(audio.samples, np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=_layout(audio))
            frame.sample_rate = audio.sample_rate
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return buffer.getvalue()


def _layout(audio: Audio) -> str:
    """FFmpeg's name for the channels."""
    return "stereo" if len(audio.samples) > 1 else "mono"


def _add_sound(container: OutputContainer, audio: Audio) -> av.AudioStream:
    """Add a stream for the sound, which is written after the pictures."""
    return container.add_stream("aac", rate=audio.sample_rate, layout=_layout(audio))


def _tag_colors(context: av.VideoCodecContext) -> None:
    """Say how the colours are coded; players guess by the size of the picture otherwise."""
    context.color_primaries = COLOR_PRIMARIES
    context.color_trc = COLOR_TRC
    context.colorspace = COLORSPACE
    context.color_range = COLOR_RANGE


def write_mp4(
    path: str | os.PathLike,
    video: UInt8[np.ndarray, "T H W 3"],
    fps: float,
    metadata: Mapping[str, str] | None = None,
    audio: Audio | None = None,
) -> None:
    """Write a video [T, H, W, 3] as H.264 in MP4, with metadata and, where it has any, sound."""
    write_atomic(path, mp4_bytes(video, fps, metadata, audio=audio))


def write_gif(
    path: str | os.PathLike,
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
    write_atomic(path, buffer.getvalue())


def write_frames(
    folder: str | os.PathLike,
    video: UInt8[np.ndarray, "T H W 3"],
    metadata: Mapping[str, str] | None = None,
) -> list[AnyPath]:
    """One PNG per frame, 0000.png and so on; returns the paths in order."""
    paths = []
    for i, frame in enumerate(_checked(video)):
        paths.append(as_path(folder) / f"{i:04d}.png")
        write_png(paths[-1], frame[None], metadata)
    return paths


def write_png(
    path: str | os.PathLike,
    video: UInt8[np.ndarray, "T H W 3"],
    metadata: Mapping[str, str] | None = None,
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
    write_atomic(path, buffer.getvalue())


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
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
