"""Modular pipelines of diffusers, and guidance that is a component's: as ordinary pipelines."""

import json
import shutil
import types

import diffusers
import numpy as np
import pytest
import torch

from pav_jax.errors import BadInput
from pav_jax.video import generation_config, load_generator
from pav_jax.video.diffusers_generator import DiffusersGenerator
from pav_jax.video.modular_pipeline import INDEX
from tests.video.tiny_wan import UNIPC, random_model

pytestmark = pytest.mark.slow  # torch pipelines

SETTINGS = dict(num_frames=5, height=16, width=32, num_inference_steps=3)
OPTIONS = {"max_sequence_length": 8}  # the tiny model reads eight tokens
PROMPTS = ["a red ball", "two cats"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One Wan, as an ordinary and as a modular pipeline."""
    base = tmp_path_factory.mktemp("modular")
    random_model(3, UNIPC).save_pretrained(base / "ordinary")
    (base / "ordinary" / generation_config.FILE).unlink()  # settings that only one of them has
    pipeline = diffusers.ModularPipeline.from_pretrained(str(base / "ordinary"))
    pipeline.load_components(dtype=torch.float32)
    pipeline.save_pretrained(str(base / "modular"), overwrite_modular_index=True)
    assert not (base / "modular" / "model_index.json").exists()
    return base / "ordinary", base / "modular"


def load(folder, **settings):
    return load_generator(
        f"diffusers:{folder}", dtype="float32", options=OPTIONS, **SETTINGS, **settings
    )


@pytest.mark.parametrize("scale", [None, 3.0])
def test_generate_equals_ordinary_pipeline(folders, scale):
    ordinary, modular = (load(folder, guidance_scale=scale) for folder in folders)
    ours = modular.generate(PROMPTS, "dark", seed=[4, 5])
    assert ours.shape == (2, 5, 16, 32, 3) and ours.std() > 5
    # the guider's default is 5, as the ordinary pipeline's
    np.testing.assert_array_equal(ours, ordinary.generate(PROMPTS, "dark", seed=[4, 5]))


def test_guidance_of_one_call_does_not_stay(folders):
    model = load(folders[1])
    before = model.generate(PROMPTS[0], "dark")
    other = model.generate(PROMPTS[0], "dark", guidance_scale=2.0)
    assert not np.array_equal(before, other)
    np.testing.assert_array_equal(model.generate(PROMPTS[0], "dark"), before)


def test_fingerprint_of_a_copied_folder(folders, tmp_path):
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    assert load(copy).fingerprint == load(folders[1]).fingerprint
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("bh2", "bh1"))
    assert load(copy).fingerprint != load(folders[1]).fingerprint


def no_vae(copy, index):
    shutil.rmtree(copy / "vae")


def unknown_class(copy, index):
    index["_class_name"] = "NextYearModularPipeline"


def own_code(copy, index):
    index["auto_map"] = {"ModularPipelineBlocks": "blocks.MyBlocks"}


def other_library(copy, index):
    index["vae"][2]["type_hint"] = ["subprocess", "Popen"]


def cut_weights(copy, index):
    (file,) = (copy / "vae").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])


def pickles(copy, index):
    for file in (copy / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


@pytest.mark.parametrize(
    "change, field, words",
    [
        (no_vae, "vae", "cannot load the component 'vae'"),
        (unknown_class, "_class_name", "does not have"),
        (own_code, "auto_map", "never run"),
        (other_library, "vae", "has the class .*subprocess"),
        (cut_weights, "vae", "cannot load the component 'vae' from .*vae \\("),
        (pickles, "vae", "only safetensors"),
    ],
)
def test_bad_modular_folder_is_one_line(folders, tmp_path, change, field, words, capfd):
    copy = shutil.copytree(folders[1], tmp_path / "changed")
    index = json.loads((copy / INDEX).read_text().replace(str(folders[1]), str(copy)))
    change(copy, index)
    (copy / INDEX).write_text(json.dumps(index))
    with pytest.raises(BadInput, match=words) as error:
        load(copy)
    assert error.value.field == field and "\n" not in str(error.value)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_unknown_setting_names_the_pipeline(folders):
    with pytest.raises(BadInput, match=r"use_dynamic_cfg: .*WanModularPipeline"):
        load(folders[1]).generate("two cats", use_dynamic_cfg=True)


class Talking:
    """A pipeline whose videos have sound, as those of LTX-2."""

    dtype = torch.float32
    vocoder = types.SimpleNamespace(config=types.SimpleNamespace(output_sampling_rate=24_000))

    def __call__(self, prompt=None, generator=None, output_type="np"):
        frames = np.zeros((len(prompt), 8, 16, 16, 3), np.float32)
        tones = [torch.full((2, 24_000), len(text) / 100) for text in prompt]
        return types.SimpleNamespace(frames=frames, audio=torch.stack(tones).bfloat16())


def test_sound_is_kept():
    batch = DiffusersGenerator(Talking(), {"batch_size": 2, "fps": 8}).generate_batch(
        ["a", "four", "fifth"]
    )
    assert [audio.samples.shape for audio in batch.audio] == [(2, 24_000)] * 3
    assert [round(float(audio.samples[0, 0]), 2) for audio in batch.audio] == [0.01, 0.04, 0.05]
    assert batch[1].audio.sample_rate == 24_000
