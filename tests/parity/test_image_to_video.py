"""Image-to-video pipelines of diffusers: what they make of an image, and what is refused."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.records import Refinement
from pav_jax.video import files, load_generator, loading
from pav_jax.video.diffusers_generator import DiffusersGenerator
from tests.video.tiny_diffusers import save_image_to_video_pipeline

OPTIONS = {"max_sequence_length": 8}


def picture(seed: int, size=(16, 8)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_image_to_video_pipeline(tmp_path_factory.mktemp("diffusers") / "i2v")


@pytest.fixture(scope="module")
def model(folder):
    return load_generator(f"diffusers:{folder}", dtype="float32", options=OPTIONS)


@pytest.mark.slow
def test_generate_from_images_equals_diffusers(folder, model, tmp_path):
    picture(2).save(tmp_path / "b.png")
    prompts = ["a red ball", "two cats"]
    images = [picture(1), tmp_path / "b.png"]
    videos = model.generate(prompts, seed=[4, 5], image=images)
    pipeline = diffusers.CogVideoXImageToVideoPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for prompt, image, seed, ours in zip(prompts, (1, 2), (4, 5), videos, strict=True):
        theirs = pipeline(
            image=picture(image),
            prompt=prompt,
            num_frames=5,
            height=8,
            width=16,
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            **OPTIONS,
        ).frames[0]
        assert np.abs((theirs * 255).round() - ours).max() <= 1
    # a row depends on its own image, and not on the others
    alone = model.generate(prompts[1], seed=5, image=picture(2))
    np.testing.assert_array_equal(alone, videos[1:])
    assert not np.array_equal(model.generate(prompts[1], seed=5, image=picture(1)), alone)
    rewrite = Refinement(prompts[1], prompts[1], 0, "m", image=str(tmp_path / "b.png"))
    np.testing.assert_array_equal(model.generate([rewrite], seed=5), alone)
    np.testing.assert_array_equal(model.start(prompts[1:], [5], [picture(2)])().videos, alone)


def test_generate_without_image(model):
    for image in (None, [picture(1), None]):
        with pytest.raises(
            BadInput, match=r"i2v \(CogVideoXImageToVideo.*needs an image for ev"
        ) as e:
            model.generate(["a", "b"], image=image)
        assert e.value.field == "image" and "\n" not in str(e.value)
    with pytest.raises(BadInput, match="image: 2 images for 1 prompts"):
        model.generate(["a"], image=[picture(1)] * 2)


class Optional:
    """Draws the first pixel of the image, or black without one; records the calls."""

    dtype = "float32"

    def __init__(self):
        self.calls = []

    def __call__(self, prompt=None, image=None, generator=None, output_type=None):
        self.calls.append((tuple(prompt), image and image.getpixel((0, 0))))
        frames = np.zeros((len(prompt), 2, 8, 8, 3))
        if image is not None:
            frames[:] = np.asarray(image.getpixel((0, 0))) / 255
        return type("Output", (), {"frames": frames})


def test_generate_some_with_images():
    pipeline = Optional()
    generator = DiffusersGenerator(pipeline, {"batch_size": 2})
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    videos = generator.generate(["a", "b", "c"], image=[None, red, None])
    assert pipeline.calls == [(("a", "c"), None), (("b",), (255, 0, 0))]
    assert videos[:, 0, 0, 0].tolist() == [[0, 0, 0], [255, 0, 0], [0, 0, 0]]
    assert generator.takes_image and not generator.needs_image


class TextOnly(Optional):
    def __call__(self, prompt=None, generator=None, output_type=None):
        return super().__call__(prompt)


def test_generate_pipeline_of_texts():
    with pytest.raises(BadInput, match=r"\(TextOnly\) makes videos from texts alone; leave out"):
        DiffusersGenerator(TextOnly()).generate("a", image=picture(1))


def test_command_image(model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "load_generator", lambda path, **options: model)
    picture(1).save(tmp_path / "a.png")
    line = ["generate", "a red ball", f"--model=diffusers:{folder}", f"--out={tmp_path / 'out'}"]
    assert main([*line, f"--image={tmp_path / 'a.png'}"]) == 0
    (path,) = (tmp_path / "out").iterdir()
    assert len(files.read_metadata(path)["image"]) == 32
    capsys.readouterr()
    assert main(line) == 2 and "needs an image" in capsys.readouterr().err
