"""Video files as users have them, good ones of unusual kinds and bad ones, made with PyAV."""

import os
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

# name -> (codec, pixel format, height, width): whatever these are, they can be read
UNUSUAL = {
    "odd.mkv": ("ffv1", "yuv420p", 47, 63),
    "grey.mov": ("png", "gray", 48, 64),
    "ten_bits.mp4": ("libx264", "yuv420p10le", 48, 64),
    "alpha.mov": ("qtrle", "argb", 48, 64),
    "alpha_odd.mov": ("png", "rgba", 47, 63),
    "alpha_ten_bits.mov": ("prores_ks", "yuva444p10le", 48, 64),
}


def moving_square(frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    video = np.full((frames, height, width, 3), (30, 60, 90), np.uint8)
    for t in range(frames):
        video[t, 10:30, 4 * t : 4 * t + 16] = (220, 40, 30)
    return video


def write(
    path: Path,
    video: np.ndarray,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options=None,
    configure=lambda stream: None,
    fps=8,
) -> Path:
    return write_frames(path, video, *video.shape[1:3], codec, pixels, options, configure, fps)


def write_frames(
    path: Path,
    frames: Iterable[np.ndarray],
    height: int,
    width: int,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options=None,
    configure=lambda stream: None,
    fps=8,
) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = height, width
        stream.pix_fmt = pixels
        configure(stream)
        container.start_encoding()
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_yuv(path: Path, rgb: np.ndarray, kr: float, kb: float, matrix: int, full: bool) -> Path:
    """One frame [H, W, 3], converted with a matrix and tagged with its number."""
    red, green, blue = np.moveaxis(rgb / 255, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = np.stack([luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)])
    scale, offset = ((255, 255, 255), (0, 128, 128)) if full else ((219, 224, 224), (16, 128, 128))
    planes = planes * np.reshape(scale, (3, 1, 1)) + np.reshape(offset, (3, 1, 1))
    frame = av.VideoFrame.from_ndarray(planes.round().clip(0, 255).astype(np.uint8), "yuv444p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width = rgb.shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.options = {"qp": "0"}
        context = stream.codec_context
        context.colorspace = frame.colorspace = matrix
        context.color_range = frame.color_range = 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_unusual(folder: Path) -> list[Path]:
    return [
        write(folder / name, moving_square(9, height, width), codec, pixels)
        for name, (codec, pixels, height, width) in UNUSUAL.items()
    ]


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path: Path, whole: Path, share: float) -> Path:
    path.write_bytes(whole.read_bytes()[: int(share * os.path.getsize(whole))])
    return path


def write_broken(folder: Path) -> dict[str, tuple[Path, str]]:
    """Kind -> (file, a part of the reason)."""
    whole = {
        name: write(folder / f"whole_{name}", moving_square(30), options=options)
        for name, options in {
            "end.mp4": {},
            "start.mp4": {"movflags": "+faststart"},
            "a.mkv": {},
        }.items()
    }
    text = folder / "text.mp4"
    text.write_text("no video " * 100)
    (folder / "prompts.txt").write_text("a red ball " * 99)
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    start = whole["start.mp4"]
    nothing = moving_square(1)[:0]
    fragments = {"movflags": "+empty_moov+frag_keyframe"}
    return {
        "missing": (folder / "missing.mp4", "no such file"),
        "text": (text, "not a video"),
        "prompts": (folder / "prompts.txt", "text"),
        "empty": (folder / "empty.mp4", "not a video"),
        "folder": (folder / "folder.mp4", "folder"),
        "sound": (write_sound(folder / "sound.mp4"), "only sound"),
        "no frames": (write(folder / "none.mkv", nothing), "before a frame"),
        "no frames in an mp4": (
            write(folder / "none.mp4", nothing, options=fragments),
            "no frames",
        ),
        "index lost": (cut(folder / "cut_end.mp4", whole["end.mp4"], 0.8), "ends before"),
        "end lost": (cut(folder / "cut_start.mp4", start, 0.8), "ends before"),
        "end lost at a frame": (
            cut(folder / "cut_frame.mp4", start, _frame_end(start, 20)),
            "ends before",
        ),
        "matroska cut": (cut(folder / "cut.mkv", whole["a.mkv"], 0.7), "ends before"),
        "size changes": (write_growing(folder / "grows.mjpeg"), "its frames change from"),
    }


def _frame_end(path: Path, frame: int) -> float:
    """The share of the file up to and with a frame; cut there, every frame that is left is
    whole."""
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[frame]
        return (entry.pos + entry.size) / os.path.getsize(path)


def write_growing(path: Path) -> Path:
    """A stream of pictures has no size of its own: two JPEG streams one behind the other."""
    parts = [
        write(
            path.with_name(f"{side}.mjpeg"), moving_square(2, side, 64), "mjpeg", "yuvj420p"
        ).read_bytes()
        for side in (48, 32)
    ]
    path.write_bytes(b"".join(parts))
    return path
