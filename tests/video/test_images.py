"""Images given with prompts: what is read, what identifies them, and what is refused."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.video import images
from pav_jax.video.generator import Generator, as_generator
from pav_jax.video.images import as_images, read_image, takes_image


def picture(seed: int = 0, size=(5, 4)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_read_image_identified_by_its_pixels(tmp_path):
    image = picture()
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.webp", lossless=True)
    first, second, third, none = as_images(
        [image, tmp_path / "a.png", f"{tmp_path}/b.webp", None], 4
    )
    assert none is None and first == second == third and first.digest == second.digest
    assert second.path == str(tmp_path / "a.png") and second.load().tobytes() == image.tobytes()
    assert as_images(picture(1), 2)[1] != first
    assert as_images(picture(size=(4, 5)), 1)[0] != first
    # turned as its EXIF data say
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png") == first
    rgba = image.copy()
    rgba.putalpha(7)
    assert as_images(rgba, 1) == [first]


def test_load_changed_file(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    image = read_image(path)
    picture(1).save(path)
    assert read_image(path) != image
    with pytest.raises(BadInput, match="a.png: this image has changed"):
        image.load()


def header_of_bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels that is 100 bytes long."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(20))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data, message",
    [
        (None, "no such file"),
        (b"", "not an image"),
        (b"a text", "not an image"),
        (png(picture())[:60], "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (header_of_bomb(), "over 33,554,432 pixels"),
        (png(Image.new("1", (8192, 4097))), "8192 x 4097 pixels: over 33,554,432"),
    ],
)
def test_read_image_invalid(tmp_path, data, message):
    path = tmp_path / "a.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadInput, match=f"a.png.*{message}") as caught:
        read_image(path)
    assert caught.value.field == "image" and "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=f"p.jsonl:2: image='a.png'.*{message}") as caught:
        read_image(path, "p.jsonl:2: image='a.png'", "p.jsonl:2")
    assert caught.value.source == "p.jsonl:2"


def test_read_image_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    (tmp_path / "a.png").write_bytes(png(picture()) + bytes(1 << 20))
    with pytest.raises(BadInput, match="over 1 MiB"):
        read_image(tmp_path / "a.png")
    with pytest.raises(BadInput, match="a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("image", [3, np.zeros((4, 4, 3)), [3]])
def test_as_images_of_another_type(image):
    with pytest.raises(BadInput, match="neither a PIL image nor the path of one"):
        as_images(image, 1)


class TextOnly(Generator):
    fingerprint = "text only"

    def generate(self, prompts, *, seed):
        return np.zeros((len(prompts), 1, 4, 4, 3), np.uint8)


class Pixels(TextOnly):
    def generate(self, prompts, *, seed, image=None):
        pixels = [0 if i is None else i.load().getpixel((0, 0))[0] for i in image or [None]]
        return np.full((len(prompts), 1, 4, 4, 3), pixels[0], np.uint8)


def test_start_of_own_generators():
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    assert Pixels().start(["a"], [0], red)().videos.max() == 200
    assert Pixels().start(["a"], [0])().videos.max() == 0
    with pytest.raises(BadInput, match="image: TextOnly makes videos from texts alone"):
        TextOnly().start(["a"], [0], [red])
    TextOnly().start(["a"], [0], [None])()

    def function(prompts, seeds, image=None):
        return Pixels().generate(prompts, seed=seeds, image=image)

    assert as_generator(function).generate(["a"], seed=[0], image=[red]).max() == 200
    assert takes_image(as_generator(function)) and not takes_image(as_generator(lambda p, s: p))


def test_images_are_imported_without_models():
    """`pav refine` reads images, and starts quickly."""
    code = "import sys, pav_jax.video.images; print([m for m in sys.modules if '.models.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
