"""The published sizes of Wan: diffusers' tensors of such a configuration are those of our tables,
all of them and with the same shapes."""

import diffusers
import pytest
import torch
from flax import traverse_util

from pav_jax.checkpoints.folder import read_config
from pav_jax.models.wan import transformer_hf, vae_hf
from pav_jax.preflight.program import PUBLISHED
from pav_jax.storage.json_files import read_json

FOLDERS = {
    "Wan2.1-T2V-14B-Diffusers": ("transformer", "vae"),
    "Wan2.2-TI2V-5B-Diffusers": ("transformer", "vae"),
    "Wan2.2-T2V-A14B-Diffusers": ("transformer", "transformer_2", "vae"),
}
CASES = [(folder, component) for folder, components in FOLDERS.items() for component in components]


@pytest.mark.slow
@pytest.mark.parametrize("folder, component", CASES)
def test_published_tensors_equal_diffusers(folder, component):
    layout, original = (
        (vae_hf, diffusers.AutoencoderKLWan)
        if component == "vae"
        else (transformer_hf, diffusers.WanTransformer3DModel)
    )
    path = PUBLISHED / folder / component
    fields = {k: v for k, v in read_json(path / "config.json").items() if k != "clip_output"}
    with torch.device("meta"):
        state = original.from_config(fields).state_dict()
    config = read_config(layout, path)
    ours = traverse_util.flatten_dict(layout.param_shapes(config), sep="/")
    shapes = {}
    for row in layout.weights(config):
        shape = row.hf_shape(ours.pop(row.path).shape)
        shapes |= dict.fromkeys(row.hf_names(), shape)
    assert not ours
    assert shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_published_settings_equal_the_originals():
    """What the authors' configurations say beside sizes: Wan2.2, wan/configs."""
    index = read_json(PUBLISHED / "Wan2.2-TI2V-5B-Diffusers" / "model_index.json")
    assert index["expand_timesteps"] and index["transformer_2"] == [None, None]
    vae = read_config(vae_hf, PUBLISHED / "Wan2.2-TI2V-5B-Diffusers" / "vae")
    assert (vae.spatial_ratio, vae.temporal_ratio, vae.z_dim, vae.patch) == (16, 4, 48, 2)
