"""The diffusers back end: what it makes is what diffusers makes, each video of its own seed; what
it refuses."""

import json
import shutil
import sys

import diffusers
import numpy as np
import pytest
import torch

from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.video import files, load_generator, loading
from pav_jax.video.diffusers_generator import DiffusersGenerator
from pav_jax.video.diffusers_output import UNSAFE
from pav_jax.video.generator import NOT_FINITE
from tests.video.tiny_diffusers import save_image_pipeline, save_video_pipeline

PROMPTS = ["a red ball", "two cats", "a ball bounces on grass"]
SEEDS = [4, 5, 6]
VIDEO = {"max_sequence_length": 8}  # the tiny models read eight tokens
IMAGE = {"max_sequence_length": 8, "use_resolution_binning": False, "clean_caption": False}
SIZE = dict(height=16, width=16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("diffusers")
    return save_video_pipeline(base / "video"), save_image_pipeline(base / "image")


@pytest.fixture(scope="module")
def video_model(folders):
    return load_generator(f"diffusers:{folders[0]}", dtype="float32", options=VIDEO)


@pytest.fixture(scope="module")
def image_model(folders):
    return load_generator(
        f"diffusers:{folders[1]}",
        dtype="float32",
        options=IMAGE,
        num_inference_steps=2,
        batch_size=2,
        **SIZE,
    )


@pytest.fixture(scope="module")
def videos(video_model):
    return video_model.generate(PROMPTS, "dark", seed=SEEDS)


class NeedsMask:
    def __call__(self, prompt, image, mask_image, generator=None, output_type=None):
        raise AssertionError


def theirs(model, kind, field, seed, **arguments):
    """One video or image, asked of diffusers itself."""
    pipeline = getattr(diffusers, kind).from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(generator=torch.Generator().manual_seed(seed), output_type="np", **arguments)
    return (getattr(output, field)[0] * 255).round().astype(np.uint8)


@pytest.mark.slow
def test_generate_equals_diffusers(folders, video_model, videos):
    assert videos.shape == (3, 5, 8, 16, 3) and videos.std() > 5 and video_model.settings.fps == 6
    for prompt, seed, ours in zip(PROMPTS, SEEDS, videos, strict=True):
        made = theirs(
            folders[0],
            "CogVideoXPipeline",
            "frames",
            seed,
            prompt=prompt,
            negative_prompt="dark",
            num_frames=5,
            height=8,
            width=16,
            num_inference_steps=2,
            guidance_scale=3.0,
            **VIDEO,
        )
        assert np.abs(made.astype(int) - ours).max() <= 1  # they made it alone, we beside another


def test_generate_images(folders, image_model):
    ours = image_model.generate(PROMPTS[:2], seed=SEEDS[:2], guidance_scale=4)
    assert ours.shape == (2, 1, 16, 16, 3) and ours.std() > 5
    made = theirs(
        folders[1],
        "PixArtSigmaPipeline",
        "images",
        5,
        prompt=PROMPTS[1],
        num_inference_steps=2,
        guidance_scale=4.0,
        **SIZE,
        **IMAGE,
    )
    assert np.abs(made.astype(int) - ours[1, 0]).max() <= 1


@pytest.mark.slow
def test_generate_rows_are_independent(video_model, videos):
    np.testing.assert_array_equal(
        video_model.generate(PROMPTS[::-1], "dark", seed=SEEDS[::-1]), videos[::-1]
    )
    np.testing.assert_array_equal(video_model.generate(PROMPTS[1], "dark", seed=5), videos[1:2])
    assert not np.array_equal(video_model.generate(PROMPTS[1], "dark", seed=6), videos[1:2])
    assert not np.array_equal(video_model.generate(PROMPTS[1], seed=5), videos[1:2])


def test_generate_batch_progress(video_model):
    calls = []
    video_model.generate_batch(PROMPTS, progress=lambda *call: calls.append(call))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls) and calls[-1] == (3, 3)
    assert len(calls) == 2 * (2 + 1) and 0 < calls[0][0] < 2  # two batches of two steps
    assert video_model.generate([]).shape == (0, 5, 8, 16, 3)


def test_generate_batch_errors(image_model, monkeypatch):
    pipeline = image_model.pipeline

    class Sick:
        def __call__(
            self,
            prompt=None,
            generator=None,
            output_type=None,
            height=None,
            width=None,
            num_inference_steps=20,
            **others,
        ):
            output = pipeline(
                prompt=prompt,
                generator=generator,
                output_type=output_type,
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                **others,
            )
            output.images[[i for i, p in enumerate(prompt) if "cats" in p]] = np.nan
            output.nsfw_content_detected = ["grass" in p for p in prompt]
            return output

    sick = DiffusersGenerator(Sick(), image_model.explicit_settings, IMAGE)
    batch = sick.generate_batch(PROMPTS, seed=SEEDS)
    assert batch.errors == [None, NOT_FINITE, UNSAFE]
    np.testing.assert_array_equal(batch.videos[0], image_model.generate(PROMPTS, seed=SEEDS)[0])


def test_fingerprint(folders, video_model, tmp_path):
    def mark(folder=folders[0], dtype="float32", options=VIDEO, **settings):
        return load_generator(
            f"diffusers:{folder}", dtype=dtype, options=options, **settings
        ).fingerprint

    assert mark() == mark(batch_size=1, fps=3) == video_model.fingerprint
    other = shutil.copytree(folders[0], tmp_path / "other")
    assert mark(other) == mark()
    (other / "scheduler" / "scheduler_config.json").write_text(
        (other / "scheduler" / "scheduler_config.json").read_text().replace("trailing", "leading")
    )
    assert (
        len(
            {
                mark(),
                mark(other),
                mark(num_inference_steps=3),
                mark(dtype="bfloat16"),
                mark(options={}),
            }
        )
        == 5
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(height=15),
            "refuses height=15, width=16: `height` and `width` have to be divisible by 8",
        ),
        (dict(num_frames=5), r"num_frames=5: .*PixArtSigmaPipeline\) makes images"),
        (dict(use_dynamic_cfg=True), "use_dynamic_cfg: .* has no such setting"),
        (dict(num_inference_steps="3"), "num_inference_steps='3'"),
        (dict(seed=[1, 2]), "2 seeds for 1 prompts"),
        (dict(negative_prompt=["", ""]), "negative_prompt: 2 texts for 1 prompts"),
    ],
)
def test_generate_invalid_arguments(image_model, arguments, message):
    with pytest.raises(BadInput, match=message) as error:
        image_model.generate("a ball", **arguments)
    assert "\n" not in str(error.value)


def test_generate_other_length(video_model):
    with pytest.raises(
        BadInput,
        match="num_frames=6 was requested but the model returned 5; set generator.num_frames to",
    ):
        video_model.generate("a ball", num_frames=6)


def test_load_generator_invalid_folder(folders, tmp_path, monkeypatch, capsys):
    def refused(broken, message, **arguments):
        with pytest.raises(BadInput, match=message) as error:
            load_generator(f"diffusers:{broken}", **arguments)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "no such folder")
    refused("owner/name", "could not be downloaded from the Hugging Face Hub")
    refused(tmp_path, "model_index.json: no such file")
    refused(folders[1], "dtype='int8'", dtype="int8")
    refused(folders[1], "unknown field 'stepz'", stepz=3)
    refused(
        folders[0],
        r"options.max_sequence_lenght: .* did you mean max_sequence_length\?",
        options={"max_sequence_lenght": 8},
    )
    broken = shutil.copytree(folders[1], tmp_path / "broken")
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
    refused(broken, "diffusers cannot load this pipeline")
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refused(broken, "vae/diffusion_pytorch_model.bin: only safetensors are loaded; convert")
    shutil.rmtree(broken / "vae")
    refused(broken, "the folder 'vae' is missing; this PixArtSigmaPipeline has .*tokenizer")
    index = json.loads((broken / "model_index.json").read_text())
    for name, message in (
        ("PixartSigmaPipeline", "does not have; it has PixArtSigmaPipeline"),
        (None, "is None"),
    ):
        (broken / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
        refused(broken, message)
    with pytest.raises(
        BadInput, match=r"needs mask_image; a generator makes videos or images from"
    ):
        DiffusersGenerator(NeedsMask())
    # the families' own loader says how to get there
    assert main(["generate", "a", f"--model={folders[1]}", f"--out={tmp_path / 'out'}"]) == 2
    assert (
        f"any other pipeline of diffusers runs on torch as diffusers:{folders[1]}"
        in capsys.readouterr().err
    )
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(folders[1], r"needs torch and diffusers .*pip install 'pav-jax\[torch\]'")


def test_command_image(image_model, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "load_generator", lambda path, **options: image_model)
    assert (
        main(
            [
                "generate",
                "a réd ball 🎈",
                f"--model=diffusers:{folders[1]}",
                f"--out={tmp_path}",
                "--seed=5",
            ]
        )
        == 0
    )
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"{path}\n" and path.suffix == ".png"
    said = files.read_metadata(path)
    assert said["prompt"] == "a réd ball 🎈" and said["seed"] == "5" and said["model"] == "image"
    assert said["fingerprint"] == image_model.fingerprint and str(tmp_path.parent) not in str(said)
