"""Residual blocks of the video autoencoders: one loop on accelerators, with the same result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.cogvideox.vae import CogVideoXVAE, CogVideoXVAEConfig
from pav_jax.models.opensora.vae import OpenSoraVAE, OpenSoraVAEConfig
from pav_jax.models.opensora.vae_spatial import AutoencoderKLConfig
from pav_jax.models.opensora.vae_temporal import TemporalVAEConfig
from pav_jax.models.wan.vae import WanVAE, WanVAEConfig
from tests.parity.comparison import FAST_COMPILE

COGVIDEOX = CogVideoXVAEConfig(
    block_out_channels=(4, 8),
    norm_num_groups=2,
    layers_per_block=3,
    latent_channels=2,
    temporal_compression_ratio=2,
)
WAN = WanVAEConfig(
    base_dim=4,
    z_dim=2,
    dim_mult=(1, 2),
    num_res_blocks=3,
    temperal_downsample=(True,),
    latents_mean=(0.0,) * 2,
    latents_std=(1.0,) * 2,
)
OPENSORA = OpenSoraVAEConfig(
    AutoencoderKLConfig(
        block_out_channels=(4, 8), layers_per_block=3, latent_channels=2, norm_num_groups=2
    ),
    TemporalVAEConfig(
        in_out_channels=2,
        latent_embed_dim=2,
        embed_dim=2,
        filters=4,
        num_res_blocks=3,
        channel_multipliers=(1, 2),
        temporal_downsample=(True,),
        num_groups=2,
    ),
    micro_frame_size=None,
    shift=(0.0,) * 2,
    scale=(1.0,) * 2,
)
FAMILIES = pytest.mark.parametrize(
    ("vae", "config"),
    [(CogVideoXVAE, COGVIDEOX), (WanVAE, WAN), (OpenSoraVAE, OPENSORA)],
    ids=["cogvideox", "wan", "opensora"],
)
METHODS = pytest.mark.parametrize("method", ["encode", "decode"])


def param_shapes(vae, config, conv_impl):
    video = jax.ShapeDtypeStruct((1, 1, 4, 4, 3), jnp.float32)
    return jax.eval_shape(vae(config, conv_impl=conv_impl).init, jax.random.key(0), video)["params"]


def clip(method):
    """Three chunks or more for either autoencoder."""
    shape = (1, 25, 4, 6, 3) if method == "encode" else (1, 5, 3, 2, 2)
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def apply(vae, config, conv_impl, method):
    model = vae(config, conv_impl=conv_impl)
    # the length of the decoded video
    rest = (9,) if vae is OpenSoraVAE and method == "decode" else ()
    return lambda params, x: jax.tree.leaves(
        model.apply({"params": params}, x, *rest, method=method)
    )[0]


def with_blocks(config, count):
    """The configuration with `count` residual blocks at each resolution."""
    if isinstance(config, OpenSoraVAEConfig):
        spatial = dataclasses.replace(config.spatial, layers_per_block=count)
        temporal = dataclasses.replace(config.temporal, num_res_blocks=count)
        return dataclasses.replace(config, spatial=spatial, temporal=temporal)
    field = "layers_per_block" if isinstance(config, CogVideoXVAEConfig) else "num_res_blocks"
    return dataclasses.replace(config, **{field: count})


def count_convolutions(vae, config, method):
    """Convolutions of the program for accelerators; those in a loop count once."""
    program = jax.jit(apply(vae, config, "conv3d", method))
    shapes = param_shapes(vae, config, "conv3d")
    return program.lower(shapes, clip(method)).as_text().count("stablehlo.convolution")


@pytest.mark.slow
@METHODS
@FAMILIES
def test_residual_blocks_on_accelerators_equal_the_form_for_cpu(vae, config, method):
    shapes = param_shapes(vae, config, "conv2d_taps")
    assert jax.tree.structure(shapes) == jax.tree.structure(param_shapes(vae, config, "conv3d"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.3 * rng.standard_normal(s.shape, np.float32), shapes)
    results = [
        jax.jit(apply(vae, config, conv_impl, method), compiler_options=FAST_COMPILE)(
            params, clip(method)
        )
        for conv_impl in ("conv3d", "conv2d_taps")
    ]
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@METHODS
@FAMILIES
def test_convolutions_do_not_grow_with_equal_residual_blocks(vae, config, method):
    few, many = (with_blocks(config, count) for count in (3, 5))
    assert count_convolutions(vae, few, method) == count_convolutions(vae, many, method)
