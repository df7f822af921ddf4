"""Decodes what an endpoint replies: a video, an image, or JSON that contains or points to one.

The format is recognized by the first bytes, never by the content type: FFmpeg would follow a
playlist wherever it points.

Shapes: T frames, H, W height and width in pixels.
"""

import base64
import binascii
import io
import json
import os
import tempfile

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from pav_jax.errors import BadInput
from pav_jax.video.reading import EBML, MAX_ARRAY_BYTES, MAX_FRAME_PIXELS, read_mp4

IMAGE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
JSON_FIELDS = ("video", "image", "url")


class MalformedResponseError(Exception):
    """The bytes are not a video, an image or a JSON reply.

    The message never quotes the endpoint, whose text may contain the API key.
    """


def is_media(data: bytes) -> bool:
    """Whether the bytes begin like a video or an image."""
    return _is_video(data) or _is_image(data)


def parse_json(data: bytes) -> tuple[bytes | None, str | None]:
    """Reads a JSON reply.

    Returns:
      (the decoded bytes of `video` or `image`, None), or (None, the address in `url`). The base64
      text may be a data: URL.

    Raises:
      MalformedResponseError: not JSON with one of these fields.
    """
    try:
        reply = json.loads(data)
    # bytes that are not UTF-8 are a ValueError too
    except (ValueError, RecursionError):
        raise MalformedResponseError("the reply is not a video, image or JSON") from None
    fields = reply if isinstance(reply, dict) else {}
    field = next((name for name in JSON_FIELDS if fields.get(name)), None)
    value = fields.get(field) if field else None
    if not isinstance(value, str):
        raise MalformedResponseError(
            f"JSON without {', '.join(JSON_FIELDS[:-1])} or {JSON_FIELDS[-1]}"
        )
    if field == "url":
        return None, value
    try:
        return base64.b64decode(value.partition("base64,")[2] or value, validate=True), None
    except (binascii.Error, ValueError):
        raise MalformedResponseError("JSON whose video or image is not base64") from None


def decode_frames(data: bytes) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of an mp4, WebM, gif, png, jpeg or WebP; a still image has one.

    Raises:
      MalformedResponseError: another format, or a truncated file.
    """
    if _is_video(data):
        return _decode_video(data)
    if not _is_image(data):
        raise MalformedResponseError("the bytes are neither a video nor an image")
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = []
            for count, frame in enumerate(ImageSequence.Iterator(image), 1):
                _check_size(count, *frame.size)
                frames.append(np.asarray(frame.convert("RGB")))
            return np.stack(frames)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise MalformedResponseError("an image that cannot be decoded") from None


def _check_size(num_frames: int, width: int, height: int) -> None:
    if 3 * num_frames * width * height > MAX_ARRAY_BYTES or width * height > MAX_FRAME_PIXELS:
        raise MalformedResponseError(
            f"{num_frames} or more frames of {width} x {height} pixels, which is above the limit"
        )


def _decode_video(data: bytes) -> UInt8[np.ndarray, "T H W 3"]:
    handle, path = tempfile.mkstemp(prefix="pav-", suffix=".mp4")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        return read_mp4(path)
    except BadInput as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise MalformedResponseError(f"a video that cannot be decoded ({reason})") from None
    finally:
        os.unlink(path)


def _is_video(data: bytes) -> bool:
    return data[4:8] == b"ftyp" or data.startswith(EBML)


def _is_image(data: bytes) -> bool:
    return data.startswith(IMAGE_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
