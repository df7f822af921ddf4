"""Open-Sora 1.2's denoiser and autoencoders against plain torch, on random tiny configurations and
published names."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

from pav_jax.checkpoints.folder import load, save
from pav_jax.checkpoints.safetensors import read_tensors
from pav_jax.errors import BadInput
from pav_jax.models.opensora import stdit_hf, vae_hf
from pav_jax.models.opensora.stdit import STDiT3, STDiT3Config
from pav_jax.models.opensora.vae import OpenSoraVAE, OpenSoraVAEConfig
from tests.parity import opensora_torch
from tests.parity.comparison import FAST_COMPILE, close
from tests.parity.opensora_tensors import published
from tests.tiers import first_fast
from tests.video.tiny_pipeline import random_params


def torch_tensors(folder) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor(np.asarray(tensor))
        for name, tensor in dict(read_tensors(folder)).items()
    }


@pytest.mark.parametrize(
    "part, layout, config",
    [("transformer", stdit_hf, STDiT3Config()), ("vae", vae_hf, OpenSoraVAEConfig())],
)
def test_weights_match_published_tensors(part, layout, config):
    shapes = traverse_util.flatten_dict(layout.param_shapes(config), sep="/")
    read = {}
    for row in layout.weights(config):
        shape = shapes.pop(row.path).shape
        read |= dict.fromkeys(row.hf_names(), row.to_hf(shape[1:] if row.layers else shape))
    assert not shapes  # nor is a parameter of ours without a tensor
    assert read == published(part)
    assert layout.config_from_hf(layout.config_to_hf(config)) == config


# ------------------------------------------------------------------------------------------- STDiT3


def random_stdit(seed: int) -> tuple[STDiT3Config, dict]:
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([2, 3]))
    config = STDiT3Config(
        input_sq_size=int(rng.choice([32, 64])),
        in_channels=int(rng.choice([3, 4])),
        patch_size=((1, 2, 2), (1, 2, 2), (2, 1, 2))[seed % 3],
        hidden_size=heads * int(rng.choice([8, 12])),
        depth=int(rng.integers(1, 4)),
        num_heads=heads,
        mlp_ratio=float(rng.choice([2.0, 4.0])),
        pred_sigma=seed != 2,
        caption_channels=int(rng.choice([6, 10])),
        model_max_length=7,
        qk_norm=seed != 1,
    )
    params = random_params(stdit_hf.param_shapes(config), rng, 0.2)
    params["rotary_frequencies"] = 1 / 30 ** rng.random(config.head_size // 2, np.float32)
    return config, params


@pytest.mark.parametrize("seed", first_fast(range(3)))
def test_stdit_equals_torch(seed, tmp_path):
    config, params = random_stdit(seed)
    save(stdit_hf, tmp_path, config, params)
    tensors = torch_tensors(tmp_path)
    loaded, again = load(stdit_hf, tmp_path)
    assert loaded == config
    jax.tree.map(np.testing.assert_array_equal, again, params)

    rng = np.random.default_rng(seed + 10)
    # odd sizes are padded to patches; captions of different lengths; one row sees the null caption
    latents = rng.standard_normal((2, 3, 5, 4, config.in_channels), dtype=np.float32)
    text = rng.standard_normal((2, 7, config.caption_channels), dtype=np.float32)
    lengths = [3, 6]
    null = [False, True]
    times = np.float32([875.3, 12.5])
    fps = np.float32([24, 120])
    size = (40, 32)
    arguments = (latents, times, text, np.arange(7) < np.asarray(lengths)[:, None], fps)
    ours = jax.jit(functools.partial(STDiT3(config).apply, size=size))(
        {"params": again}, *arguments, null_B=np.asarray(null)
    )
    rows = []
    for i in range(2):
        caption = tensors["y_embedder.y_embedding"] if null[i] else torch.tensor(text[i])
        rows.append(
            opensora_torch.stdit(
                tensors,
                vars(config),
                torch.tensor(latents[i]).permute(3, 0, 1, 2),
                torch.tensor(times[i]),
                caption,
                lengths[i],
                size,
                torch.tensor(fps[i]),
            ).permute(1, 2, 3, 0)
        )
    close(ours, torch.stack(rows))


@pytest.mark.slow
def test_stdit_gradients_remat_unroll():
    config, params = random_stdit(0)
    latents = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, config.in_channels))
    text = jax.random.normal(jax.random.key(1), (2, 7, config.caption_channels))

    def gradient(**options):
        model = STDiT3(config, **options)

        def loss(params):
            out = model.apply(
                {"params": params},
                latents,
                jnp.ones(2) * 500,
                text,
                jnp.ones((2, 7), bool),
                jnp.ones(2) * 24,
                (32, 32),
                jnp.asarray([True, False]),
            )
            return jnp.mean(out**2)

        return jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params)

    plain = gradient()
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(plain))
    other = gradient(remat=True, unroll=config.depth)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), plain, other)


# ---------------------------------------------------------------------------------------------- VAE


def random_vae(seed: int) -> tuple[dict, diffusers.AutoencoderKL]:
    """A config.json in the original's fields, and diffusers' 2-D autoencoder of those sizes."""
    rng = np.random.default_rng(seed)
    spatial = dict(
        block_out_channels=[(8, 8), (4, 8)][seed],
        layers_per_block=1 + seed,
        latent_channels=4,
        norm_num_groups=2,
    )
    temporal = dict(
        type="VAE_Temporal",
        filters=4,
        num_res_blocks=1 + seed,
        num_groups=2,
        channel_multipliers=[[1, 2, 2, 3], [2, 1]][seed],
        temporal_downsample=[[False, True, True], [True]][seed],
    )
    raw = dict(
        model_type="VideoAutoencoderPipeline",
        vae_temporal=temporal,
        micro_frame_size=[5, 3][seed],
        vae_2d=dict(type="VideoAutoencoderKL", micro_batch_size=2, config=spatial),
        shift=rng.standard_normal(4).tolist(),
        scale=rng.uniform(1, 3, 4).tolist(),
    )
    torch.manual_seed(seed)
    blocks = len(spatial["block_out_channels"])
    model = diffusers.AutoencoderKL(
        **spatial,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
    ).eval()
    return raw, model


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@torch.no_grad()
def test_vae_equals_torch_and_diffusers(seed, tmp_path):
    raw, spatial = random_vae(seed)
    config = vae_hf.config_from_hf(raw)
    assert vae_hf.config_from_hf(vae_hf.config_to_hf(config)) == config
    params = random_params(vae_hf.param_shapes(config), np.random.default_rng(seed + 5), 0.2)
    params |= {
        f"latent_{name}": np.float32(raw[name]).reshape(1, 4, 1, 1, 1)
        for name in ("shift", "scale")
    }
    save(vae_hf, tmp_path, config, params)
    tensors = torch_tensors(tmp_path)
    prefix = "spatial_vae.module."
    spatial.load_state_dict(
        {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    )
    sizes = dict(
        num_groups=2,
        **{
            n: raw["vae_temporal"][n]
            for n in ("num_res_blocks", "channel_multipliers", "temporal_downsample")
        },
    )

    frames = [12, 3][seed]  # two whole clips and a shorter one; one clip
    video = np.random.default_rng(seed).uniform(-1, 1, (2, frames, 8, 4, 3)).astype(np.float32)
    loaded, again = load(vae_hf, tmp_path)
    model = OpenSoraVAE(loaded)
    run = lambda method, x, *rest: jax.jit(  # noqa: E731
        lambda p, x: model.apply({"params": p}, x, *rest, method=method),
        compiler_options=FAST_COMPILE,
    )(again, x)

    z = run("encode", video)
    assert z.shape == (2, config.latent_frames(frames), 4, 2, 4)
    channels_first = torch.tensor(video).permute(0, 4, 1, 2, 3)
    theirs = opensora_torch.encode(tensors, sizes, spatial, channels_first, raw["micro_frame_size"])
    close(z, theirs.permute(0, 2, 3, 4, 1))
    noise = np.random.default_rng(seed + 9).standard_normal(z.shape, dtype=np.float32)
    theirs = opensora_torch.decode(
        tensors,
        sizes,
        spatial,
        torch.tensor(noise).permute(0, 4, 1, 2, 3),
        frames,
        raw["micro_frame_size"],
    )
    close(run("decode", noise, frames), theirs.permute(0, 2, 3, 4, 1))


def test_vae_config_latent_frames():
    config = OpenSoraVAEConfig()
    assert [config.latent_frames(n) for n in (1, 17, 51, 102, 20, 34)] == [1, 5, 15, 30, 6, 10]
    assert config.clips(40) == [17, 17, 6] and config.clips(16) == [16]


@pytest.mark.parametrize(
    "layout, fields, message",
    [
        (stdit_hf, {"model_type": "STDiT2"}, "model_type is 'STDiT2'"),
        (stdit_hf, {"hidden_size": 20, "num_heads": 3}, "heads must have one even size"),
        (stdit_hf, {"skip_y_embedder": True}, "skip_y_embedder"),
        (vae_hf, {"model_type": "Other"}, "model_type is 'Other'"),
        (vae_hf, {"vae_2d": {"type": "Other"}}, "vae_2d.type is 'Other'"),
        (vae_hf, {"vae_temporal": {"type": "Other"}}, "vae_temporal.type is 'Other'"),
        (
            vae_hf,
            {"vae_temporal": {"type": "VAE_Temporal", "in_out_channels": 3}},
            "the temporal one takes 3",
        ),
        (vae_hf, {"shift": [0.0], "scale": [1.0]}, "one number for each of 4 channels"),
    ],
)
def test_config_from_hf_unsupported(layout, fields, message):
    with pytest.raises(BadInput, match=message):
        layout.config_from_hf(fields)
