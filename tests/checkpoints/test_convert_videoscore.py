"""Conversion of VideoScore: a tiny random folder of the same layout."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from pav_jax.checkpoints import folder as folders
from pav_jax.checkpoints.converters import convert
from pav_jax.errors import BadInput
from pav_jax.models.idefics2 import hf as idefics2_hf
from pav_jax.storage.json_files import write_json

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def videoscore(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videoscore")
    fields = {
        "model_type": "idefics2",
        "num_labels": 5,
        "text_config": dict(
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=11,
            max_position_embeddings=32,
        ),
        "vision_config": dict(
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
        ),
        "perceiver_config": dict(
            resampler_n_latents=2,
            resampler_depth=1,
            resampler_n_heads=2,
            resampler_head_dim=4,
            num_key_value_heads=1,
        ),
    }
    config = idefics2_hf.config_from_hf(fields)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: rng.normal(size=a.shape).astype(np.float32), idefics2_hf.param_shapes(config)
    )
    folders.save(idefics2_hf, folder, config, params)
    (folder / "tokenizer.json").write_text("{}")
    return folder, params


def test_convert_videoscore_folder(videoscore, tmp_path):
    folder, params = videoscore
    assert convert(folder, tmp_path / "out") == []
    jax.tree.map(
        np.testing.assert_array_equal, folders.load(idefics2_hf, tmp_path / "out")[1], params
    )
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_convert_videoscore_bin_shards(videoscore, tmp_path):
    folder, params = videoscore
    source = tmp_path / "bins"
    names = {}
    source.mkdir()
    (source / "config.json").write_text((folder / "config.json").read_text())
    tensors = list(safetensors_torch.load_file(folder / "model.safetensors").items())
    for i, part in enumerate((tensors[:7], tensors[7:]), 1):
        file = f"pytorch_model-0000{i}-of-00002.bin"
        torch.save({name: tensor.bfloat16() for name, tensor in part}, source / file)
        names |= dict.fromkeys((name for name, _ in part), file)
    write_json(source / "pytorch_model.bin.index.json", {"weight_map": names})
    convert(source, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    read = folders.load(idefics2_hf, tmp_path / "out")[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)), read, params)


def test_convert_videoscore_without_head(videoscore, tmp_path):
    folder, _ = videoscore
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors.pop("score.weight")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadInput) as error:
        convert(tmp_path, tmp_path / "out")
    assert error.value.field == "score.weight"
