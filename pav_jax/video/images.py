"""Images that videos are made from: read within limits, and identified by their pixels."""

import dataclasses
import functools
import hashlib
import inspect
import io
import os
import warnings
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import as_path, is_remote

FORMATS = ("PNG", "JPEG", "WEBP")  # Pillow tries no other decoder
MAX_BYTES = 64 << 20  # of a file
MAX_PIXELS = 2**25  # an image of 8K has 33.2 million
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, MemoryError)  # of Pillow's decoders


@dataclasses.dataclass(frozen=True)
class PromptImage:
    """An image that is given with a prompt.

    Attributes:
      digest: 32 hexadecimal digits of its size and RGB pixels, by which images are compared.
      path: its file; None for an image in memory.
    """

    digest: str
    path: str | None = dataclasses.field(default=None, compare=False)
    _pixels: Image.Image | None = dataclasses.field(default=None, compare=False, repr=False)

    def load(self) -> Image.Image:
        """The image in RGB; a file is read again, so that a list of images takes no memory.

        Raises:
          BadInput: the file has changed or can no longer be read.
        """
        if self._pixels is not None:
            return self._pixels
        assert self.path is not None
        pixels = _decode(self.path, self.path, self.path)
        if _digest(pixels) != self.digest:
            raise BadInput(
                f"{self.path}: this image has changed since it was first read; restore it, or run"
                " the command again",
                source=self.path,
                field="image",
            )
        return pixels


ImageLike = str | os.PathLike | Image.Image | PromptImage
Images = ImageLike | Sequence[ImageLike | None] | None


def as_images(image: Images, count: int) -> list[PromptImage | None]:
    """One image, or None, for each of `count` prompts, from one for all or one each.

    Raises:
      BadInput: there are more or fewer images than prompts, or one cannot be read.
    """
    if image is None or isinstance(image, str | os.PathLike | Image.Image | PromptImage):
        return [as_image(image)] * count
    if not isinstance(image, Sequence):
        return [as_image(image)]  # which refuses it
    if len(image) != count:
        raise BadInput(
            f"image: {len(image)} images for {count} prompts; give one, or one or None per prompt",
            field="image",
        )
    return [as_image(item) for item in image]


def as_image(image: ImageLike | None) -> PromptImage | None:
    """The image at a path or in memory.

    Raises:
      BadInput: it cannot be read, is too large, or is neither a path nor a PIL image.
    """
    if image is None or isinstance(image, PromptImage):
        return image
    if isinstance(image, Image.Image):
        _check_size(image.size, "image", None, "image")
        try:
            pixels = _rgb(image)
        except UNREADABLE as error:
            raise _not_an_image("image", None, "image") from error
        return PromptImage(_digest(pixels), None, pixels)
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    raise BadInput(
        f"image: {type(image).__name__} is neither a PIL image nor the path of one", field="image"
    )


def read_image(
    path: str | os.PathLike, name: str | None = None, source: str | None = None
) -> PromptImage:
    """Decode a PNG, JPEG or WebP file, also one in an object store, to check it.

    Args:
      name: what messages call it, such as `prompts.jsonl:3: image=cat.png`; None: the path.
      source: the file that names it; None: its own path.

    Raises:
      BadInput: no such file, no image, or one of more than MAX_BYTES or MAX_PIXELS.
    """
    path = os.fspath(path)
    state: tuple[int, ...] = ()
    if not is_remote(path):
        try:
            status = os.stat(path)
            state = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):
            pass  # `_decode` says why
    return PromptImage(_file_digest(path, state, name or path, source or path), path)


@functools.lru_cache(maxsize=1 << 16)
def _file_digest(path: str, state: tuple[int, ...], name: str, source: str) -> str:
    """The digest of a file in a `state`: a recipe reads its prompt files several times."""
    del state
    return _digest(_decode(path, name, source))


def _decode(path: str, name: str, source: str | None) -> Image.Image:
    try:
        with as_path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInput(f"{name}: no such file; correct the path", source, "image") from None
    except IsADirectoryError:
        raise BadInput(f"{name}: this is a folder; name an image", source, "image") from None
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{name}: cannot be read ({reason})", source, "image") from error
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name}: over {MAX_BYTES >> 20} MiB; save a smaller image", source, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, name, source, "image")  # before the pixels are decoded
                return _rgb(image)
    except Image.DecompressionBombError:
        raise _too_large(name, source, "image") from None
    except UNREADABLE as error:
        if isinstance(error, BadInput):
            raise
        raise _not_an_image(name, source, "image") from error


def _rgb(image: Image.Image) -> Image.Image:
    """As `diffusers.utils.load_image` makes it: turned as its EXIF data say, then RGB."""
    return ImageOps.exif_transpose(image).convert("RGB")


def _digest(pixels: Image.Image) -> str:
    header = f"{pixels.width}x{pixels.height}:".encode()
    return hashlib.blake2b(header + pixels.tobytes(), digest_size=16).hexdigest()


def _check_size(size: tuple[int, int], name: str, source: str | None, field: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(f"{name}: {width} x {height} pixels", source, field)
    if not width * height:
        raise _not_an_image(name, source, field)


def _too_large(name: str, source: str | None, field: str) -> BadInput:
    return BadInput(
        f"{name}: over {MAX_PIXELS:,} pixels, the limit of an image; scale it down",
        source=source,
        field=field,
    )


def _not_an_image(name: str, source: str | None, field: str) -> BadInput:
    return BadInput(
        f"{name}: not an image that can be decoded; give a whole PNG, JPEG or WebP file",
        source=source,
        field=field,
    )


# ---------------------------------------------------------------------------- what generators take


def takes_image(generator: Any) -> bool:
    """Whether a generator makes videos from an image: as its attribute `takes_image` says, or else
    whether its `generate` has an argument `image`."""
    declared = getattr(generator, "takes_image", None)
    if declared is not None:
        return bool(declared)
    return "image" in inspect.signature(generator.generate).parameters


def check_images(generator: Any, images: Sequence[PromptImage | None]) -> None:
    """Check that a generator can make videos from prompts with these images.

    Raises:
      BadInput: it takes no image and there is one, or it needs one and some prompt has none.
    """
    name = getattr(generator, "display_name", None) or type(generator).__name__
    if any(images) and not takes_image(generator):
        raise BadInput(
            f"image: {name} makes videos from texts alone; leave out the image, or use an"
            " image-to-video model (diffusers:FOLDER, or an endpoint)",
            source="generator",
            field="image",
        )
    if getattr(generator, "needs_image", False) and not all(images):
        raise BadInput(
            f"image: {name} needs an image for every prompt; give image=, --image, or `image`"
            " beside `prompt` in a .jsonl file",
            source="generator",
            field="image",
        )
