"""Our CogVideoX VAE against diffusers' on random tiny configurations, temporal chunks included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.causal_conv import CausalConv3d
from pav_jax.models.cogvideox import vae, vae_hf
from pav_jax.models.weights import params_from_hf
from tests.parity.comparison import FAST_COMPILE, channels_last, close, perturbed
from tests.tiers import first_fast

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def random_config(seed):
    rng = np.random.default_rng(seed)
    blocks = int(rng.integers(2, 4))
    groups = int(rng.choice([2, 4]))
    config = dict(
        block_out_channels=tuple(int(4 * rng.integers(1, 4)) for _ in range(blocks)),
        latent_channels=int(rng.integers(2, 6)),
        layers_per_block=int(rng.integers(1, 3)),
        norm_num_groups=groups,
        norm_eps=float(rng.choice([1e-6, 1e-3])),
        act_fn=str(rng.choice(["silu", "gelu", "mish"])),
        temporal_compression_ratio=int(rng.choice([2, 4])),
        scaling_factor=float(rng.uniform(0.5, 1.5)),
        sample_height=32,
        sample_width=48,
        invert_scale_latents=bool(rng.integers(2)),
    )
    # diffusers has the 1x1 convolutions around the latent only if latent = output channels
    if seed == 0:
        config |= dict(latent_channels=3, use_quant_conv=True, use_post_quant_conv=True)
    return config


@functools.cache
def torch_vae(seed):
    torch.manual_seed(seed)
    blocks = len(random_config(seed)["block_out_channels"])
    return perturbed(
        diffusers.AutoencoderKLCogVideoX(
            **random_config(seed),
            down_block_types=("CogVideoXDownBlock3D",) * blocks,
            up_block_types=("CogVideoXUpBlock3D",) * blocks,
        )
    )


@functools.cache
def run(config, method, conv_impl="auto", chunked=True):
    model = vae.CogVideoXVAE(config, conv_impl=conv_impl)
    return jax.jit(
        lambda params, x: model.apply({"params": params}, x, chunked=chunked, method=method),
        compiler_options=FAST_COMPILE,
    )


@pytest.fixture(scope="module", params=first_fast(range(3)))
def pair(request, tmp_path_factory):
    theirs = torch_vae(request.param)
    folder = tmp_path_factory.mktemp("vae")
    theirs.save_pretrained(folder)
    config, params = load(vae_hf, folder)
    return theirs, config, params


@pytest.mark.parametrize("frames", [5, 25])
def test_encode_equals_diffusers(pair, frames):
    theirs, config, params = pair
    size = 2 * config.spatial_ratio
    video = np.random.default_rng(frames).uniform(
        -1, 1, (2, frames, size, size + config.spatial_ratio, 3)
    )
    video = video.astype(np.float32)
    with torch.no_grad():
        expected = theirs.encode(torch.from_numpy(video.transpose(0, 4, 1, 2, 3))).latent_dist
    mean, logvar = run(config, "encode")(params, video)
    close(mean, channels_last(expected.mean))
    close(logvar, channels_last(expected.logvar))
    assert mean.shape[1] == config.latent_frames(frames)


@pytest.mark.parametrize("frames", [1, 7])
def test_decode_equals_diffusers(pair, frames):
    theirs, config, params = pair
    z = (
        np.random.default_rng(frames)
        .normal(size=(2, frames, 3, 2, config.latent_channels))
        .astype(np.float32)
    )
    with torch.no_grad():
        expected = theirs.decode(torch.from_numpy(z.transpose(0, 4, 1, 2, 3))).sample
    close(run(config, "decode")(params, z), channels_last(expected))


def tiny_torch_vae(seed, **sizes):
    """Every size of tile is compiled, so the rest is small."""
    torch.manual_seed(seed)
    config = (
        random_config(1)
        | dict(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2)
        | sizes
    )
    return perturbed(
        diffusers.AutoencoderKLCogVideoX(
            **config,
            down_block_types=("CogVideoXDownBlock3D",) * 2,
            up_block_types=("CogVideoXUpBlock3D",) * 2,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "frames, height, width, sample",
    [
        (2, 9, 4, (24, 40)),  # one column
        (5, 11, 13, (32, 40)),  # both axes, with remainders, also in time
        (1, 3, 11, (48, 22)),  # one row; tiles that do not meet at whole latent rows
    ],
)
def test_decode_tiled_equals_diffusers(frames, height, width, sample):
    theirs = tiny_torch_vae(frames, sample_height=sample[0], sample_width=sample[1])
    theirs.enable_tiling()
    ours = vae_hf.config_from_hf(dict(theirs.config))
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = params_from_hf(vae_hf.weights(ours), state, "theirs")

    z = (
        np.random.default_rng(frames)
        .normal(size=(2, frames, height, width, ours.latent_channels))
        .astype(np.float32)
    )
    with torch.no_grad():
        expected = channels_last(theirs.decode(torch.from_numpy(z.transpose(0, 4, 1, 2, 3))).sample)
        theirs.disable_tiling()
        whole = channels_last(theirs.decode(torch.from_numpy(z.transpose(0, 4, 1, 2, 3))).sample)
    decode = jax.jit(
        functools.partial(vae.CogVideoXVAE(ours).apply, method="decode", tiled=True),
        compiler_options=FAST_COMPILE,
    )
    close(decode({"params": params}, z), expected, 1e-3)
    assert (
        whole.shape != expected.shape or np.abs(whole - expected).max() > 0.01
    )  # tiling changes the result


def test_tiled_axes_cover_published_sizes():
    rows, columns = vae.CogVideoXVAEConfig().tiled_axes()
    assert (rows.tile, rows.step, columns.tile, columns.step) == (30, 25, 45, 36)
    for cut, sizes in ((rows, (60, 96)), (columns, (90, 170))):
        for size in sizes:
            assert (
                sum(min(cut.keep, 8 * (stop - start)) for start, stop in cut.spans(size))
                == 8 * size
            )


def test_save_loads_in_diffusers(pair, tmp_path):
    theirs, config, params = pair
    save(vae_hf, tmp_path, config, params)
    again = diffusers.AutoencoderKLCogVideoX.from_pretrained(tmp_path).eval()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    for field in (
        "scaling_factor",
        "invert_scale_latents",
        "temporal_compression_ratio",
        "norm_eps",
        "act_fn",
    ):
        assert again.config[field] == theirs.config[field]
    z = torch.randn(1, config.latent_channels, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.decode(z).sample, theirs.decode(z).sample)


def small():
    return vae.CogVideoXVAEConfig(
        block_out_channels=(4, 8),
        latent_channels=2,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
    )


@pytest.fixture(scope="module")
def ours():
    config = small()
    model = vae.CogVideoXVAE(config)
    return config, model.init(jax.random.key(0), jnp.zeros((1, 1, 2, 2, 3)))["params"]


def test_causal_conv_forms_equal():
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4, 3))
    conv = functools.partial(CausalConv3d, 4)
    params = conv().init(jax.random.key(0), x)

    def loss(params, x, impl):
        y, cache = conv(conv_impl=impl).apply(params, x)
        return jnp.sin(y).sum() + cache.sum()

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    a, da = gradient(params, x, "conv3d")
    b, db = gradient(params, x, "conv2d_taps")
    close(a, b)
    jax.tree.map(close, da, db)


@pytest.mark.slow
def test_decode_conv_forms_equal(ours):
    config, params = ours
    z = jax.random.normal(jax.random.key(1), (1, 3, 2, 2, 2))
    close(
        run(config, "decode", "conv3d")(params, z), run(config, "decode", "conv2d_taps")(params, z)
    )


@pytest.mark.slow
def test_vae_gradients_nonzero(ours):
    config, params = ours
    video = jax.random.uniform(jax.random.key(1), (1, 5, 4, 4, 3), minval=-1)

    def loss(params):
        rebuilt, _, logvar = vae.CogVideoXVAE(config).apply({"params": params}, video)
        return jnp.square(rebuilt - video).mean() + jnp.square(logvar).mean()

    gradients = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    kernels = [g for path, g in jax.tree.leaves_with_path(gradients) if path[-1].key == "kernel"]
    assert all(np.abs(g).max() > 0 for g in kernels)


@pytest.mark.slow
def test_vae_single_chunk_equals_unchunked(ours):
    config, params = ours
    video = jax.random.uniform(jax.random.key(2), (1, 9, 4, 4, 3))
    close(
        run(config, "encode")(params, video)[0],
        run(config, "encode", chunked=False)(params, video)[0],
        1e-6,
    )
    z = jax.random.normal(jax.random.key(2), (1, 3, 2, 2, 2))
    close(run(config, "decode")(params, z), run(config, "decode", chunked=False)(params, z), 1e-6)


def test_chunk_bounds_remainder_first():
    assert vae.chunk_bounds(9, 8) == [(0, 9)]
    assert vae.chunk_bounds(17, 8) == [(0, 9), (9, 17)]
    assert vae.chunk_bounds(13, 2)[:2] == [(0, 3), (3, 5)]
    assert vae.chunk_bounds(1, 2) == [(0, 1)]


def test_config_from_hf_unsupported(ours):
    with pytest.raises(BadInput, match="UNet"):
        vae_hf.config_from_hf({"_class_name": "UNet2DModel"})
    with pytest.raises(BadInput, match="act_fn"):
        vae_hf.config_from_hf({"act_fn": "tanhish", "block_out_channels": [4, 4, 4, 4]})


def test_config_round_trip():
    for seed in range(4):
        raw = vae_hf.config_to_hf(vae.CogVideoXVAEConfig(**random_config(seed)))
        assert vae_hf.config_from_hf(raw) == vae.CogVideoXVAEConfig(**random_config(seed))
