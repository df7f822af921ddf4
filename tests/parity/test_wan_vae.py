"""Our Wan VAE against diffusers' on random tiny configurations, the feature cache included."""

import functools

import diffusers
import jax
import numpy as np
import pytest
import torch

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.wan import vae, vae_hf
from tests.parity.comparison import FAST_COMPILE, channels_last, close, perturbed
from tests.tiers import first_fast

CONFIGS = (
    dict(
        base_dim=4, z_dim=3, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True]
    ),
    dict(
        base_dim=4,
        z_dim=2,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
    ),
    dict(
        base_dim=6,
        z_dim=4,
        dim_mult=[2, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        decoder_base_dim=8,
    ),
    dict(
        base_dim=4,
        z_dim=3,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        decoder_base_dim=6,
        is_residual=True,
        patch_size=2,
    ),
    dict(
        base_dim=5,
        z_dim=5,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        decoder_base_dim=8,
        is_residual=True,
        patch_size=2,
    ),
    dict(
        base_dim=6,
        z_dim=4,
        dim_mult=[2, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        is_residual=True,
        patch_size=4,
    ),
    # the tiny configuration of diffusers' own tests
    dict(
        base_dim=3,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        patch_size=2,
    ),
)
FAST = (0, 3)  # one configuration of each kind


@functools.cache
def torch_vae(index):
    torch.manual_seed(index)
    rng = np.random.default_rng(index)
    fields = CONFIGS[index]
    moments = dict(
        latents_mean=rng.normal(size=fields["z_dim"]).tolist(),
        latents_std=rng.uniform(0.5, 2, fields["z_dim"]).tolist(),
    )
    patch = fields.get("patch_size", 1)
    sizes = dict(
        scale_factor_temporal=2 ** sum(fields["temperal_downsample"]),
        scale_factor_spatial=patch * 2 ** (len(fields["dim_mult"]) - 1),
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
    )
    return perturbed(diffusers.AutoencoderKLWan(**fields, **moments, **sizes))


@functools.cache
def run(config, method, conv_impl="auto"):
    model = vae.WanVAE(config, conv_impl=conv_impl)
    return jax.jit(
        lambda params, x: model.apply({"params": params}, x, method=method),
        compiler_options=FAST_COMPILE,
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(i, marks=[] if i in FAST else [pytest.mark.slow]) for i in range(len(CONFIGS))
    ],
)
def pair(request, tmp_path_factory):
    theirs = torch_vae(request.param)
    folder = tmp_path_factory.mktemp("vae")
    theirs.save_pretrained(folder)
    config, params = load(vae_hf, folder)
    return theirs, config, params


@pytest.mark.slow
def test_encode_equals_diffusers(pair):
    theirs, config, params = pair
    size = 2 * config.spatial_ratio
    video = (
        np.random.default_rng(1)
        .uniform(-1, 1, (2, 13, size, size + config.spatial_ratio, 3))
        .astype(np.float32)
    )
    with torch.no_grad():
        expected = theirs.encode(torch.from_numpy(video.transpose(0, 4, 1, 2, 3))).latent_dist
    mean, logvar = run(config, "encode")(params, video)
    close(mean, channels_last(expected.mean))
    close(logvar, channels_last(expected.logvar))


# one frame has no cache; one small configuration is enough for it
@pytest.mark.parametrize(
    "pair, frames",
    first_fast([(0, 4), (3, 4), (1, 4), (2, 4), (2, 1), (4, 4), (5, 4), (5, 1), (6, 3)], 2, 3),
    indirect=["pair"],
)
def test_decode_equals_diffusers(pair, frames):
    theirs, config, params = pair
    z = (
        np.random.default_rng(frames)
        .normal(size=(2, frames, 3, 2, config.z_dim))
        .astype(np.float32)
    )
    with torch.no_grad():
        expected = theirs.decode(torch.from_numpy(z.transpose(0, 4, 1, 2, 3))).sample
    ours = run(config, "decode")(params, z)
    assert ours.shape[1] == (frames - 1) * config.temporal_ratio + 1
    close(
        np.clip(ours, -1, 1), channels_last(expected)
    )  # diffusers clips here, we do where frames become bytes
    assert (
        np.abs(ours).max() < 20 and np.abs(channels_last(expected)).min() < 0.9
    )  # most of it is not at the clip


def test_scale_equals_pipeline(pair):
    theirs, config, _ = pair
    z = np.random.default_rng(0).normal(size=(1, 2, 2, 2, config.z_dim)).astype(np.float32)
    mean, std = (
        np.asarray(theirs.config[name], np.float32) for name in ("latents_mean", "latents_std")
    )
    np.testing.assert_allclose(config.unscale(z), z * std + mean, rtol=1e-5)
    np.testing.assert_allclose(config.scale(config.unscale(z)), z, atol=1e-5)


def test_save_loads_in_diffusers(pair, tmp_path):
    theirs, config, params = pair
    save(vae_hf, tmp_path, config, params)
    again = diffusers.AutoencoderKLWan.from_pretrained(tmp_path).eval()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    for field in (
        "latents_mean",
        "latents_std",
        "scale_factor_spatial",
        "scale_factor_temporal",
        "dim_mult",
    ):
        assert list(np.ravel(again.config[field])) == list(np.ravel(theirs.config[field]))
    z = torch.randn(1, config.z_dim, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.decode(z).sample, theirs.decode(z).sample)


@pytest.mark.slow
def test_decode_conv_forms_equal():
    config = vae_hf.config_from_hf(dict(torch_vae(0).config))
    params = load_params(config)
    z = jax.random.normal(jax.random.key(1), (1, 3, 2, 2, config.z_dim))
    close(
        run(config, "decode", "conv3d")(params, z), run(config, "decode", "conv2d_taps")(params, z)
    )


def load_params(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: 0.2 * rng.standard_normal(x.shape, dtype=np.float32), vae_hf.param_shapes(config)
    )


@pytest.mark.slow
def test_decode_memory_bounded():
    config = vae_hf.config_from_hf(dict(torch_vae(0).config))
    params = load_params(config)

    def temporary(frames):
        z = jax.ShapeDtypeStruct((1, frames, 16, 16, config.z_dim), np.float32)
        compiled = run(config, "decode").lower(params, z).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    more = temporary(24) - temporary(8)
    frame = 64 * 64 * 3 * 4  # bytes of a decoded frame
    assert more <= 3 * 32 * frame  # what is stacked of 32 more frames, not their wide activations


def test_config_from_hf_unsupported():
    for fields, named in (
        ({"_class_name": "AutoencoderKLCogVideoX"}, "is this the vae folder"),
        ({"attn_scales": [1.0]}, "attn_scales"),
        ({"patch_size": 2}, "in_channels is 3; patches of 2 x 2 RGB pixels have 12"),
        ({"scale_factor_spatial": 16}, "scale_factor_spatial is 16; only 8"),
        ({"scale_factor_temporal": 8}, "scale_factor_temporal is 8; only 4"),
        ({"is_residual": True, "dim_mult": [2, 1, 3, 4]}, "dim_mult: a shortcut of the encoder"),
        ({"is_residual": True, "dim_mult": [1, 1, 1, 32]}, "dim_mult: a shortcut of the encoder"),
        ({"z_dim": 8}, "latents_mean has 16 entries; 8"),
        ({"temperal_downsample": [True, True, True]}, "at most two"),
        ({"dim_mult": [1, 2]}, "temperal_downsample has 3 entries; 1"),
    ):
        with pytest.raises(BadInput, match=named):
            vae_hf.config_from_hf(fields)
