"""What an endpoint may answer with, as frames: a video, an image, or JSON that holds or points to
one.

What the bytes are is read from their beginning, never from what the endpoint says of them: FFmpeg
would follow a playlist wherever it leads.

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
from pav_jax.video.files import EBML, read_mp4

IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
FIELDS = ("video", "image", "url")  # of a JSON answer


class Garbage(Exception):
    """Bytes that are no video, image or JSON answer. Its text is ours: an endpoint's own may repeat
    the key."""


def is_picture(data: bytes) -> bool:
    return _is_video(data) or _is_image(data)


def json_answer(data: bytes) -> tuple[bytes | None, str | None]:
    """(the bytes in `video` or `image`, base64, perhaps as a data: URL) or (None, the address in
    `url`).

    Raises:
      Garbage: it is not JSON with one of these.
    """
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):  # bytes that are no UTF-8 are a ValueError too
        raise Garbage("an answer that is no video, image or JSON") from None
    field = (
        next((name for name in FIELDS if answer.get(name)), None)
        if isinstance(answer, dict)
        else None
    )
    if field is None or not isinstance(value := answer[field], str):
        raise Garbage(f"JSON without {', '.join(FIELDS[:-1])} or {FIELDS[-1]}")
    if field == "url":
        return None, value
    try:
        return base64.b64decode(value.partition("base64,")[2] or value, validate=True), None
    except (binascii.Error, ValueError):
        raise Garbage("JSON whose video or image is not base64") from None


def frames_of(data: bytes) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of an mp4, WebM, gif, png, jpeg or WebP; an image has one.

    Raises:
      Garbage: something else, or a file that is not whole.
    """
    if _is_video(data):
        return _video(data)
    if not _is_image(data):
        raise Garbage("bytes that are neither a video nor an image")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.stack(
                [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise Garbage("an image that cannot be read") from None


def _video(data: bytes) -> UInt8[np.ndarray, "T H W 3"]:
    handle, path = tempfile.mkstemp(prefix="pav-", suffix=".mp4")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        return read_mp4(path)
    except BadInput as error:
        raise Garbage(
            f"a video that cannot be read ({str(error).removeprefix(f'{path}: ')})"
        ) from None
    finally:
        os.unlink(path)


def _is_video(data: bytes) -> bool:
    return data[4:8] == b"ftyp" or data.startswith(EBML)


def _is_image(data: bytes) -> bool:
    return data.startswith(IMAGES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
