"""The Wan transformer against diffusers' `WanTransformer3DModel`, both ways, on random
configurations."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.wan import transformer_hf
from pav_jax.models.wan.transformer import WanTransformer
from pav_jax.models.wan.transformer_hf import config_from_hf
from tests.tiers import first_fast

RELATIVE = 1e-4


def random_original(seed: int, **sizes) -> diffusers.WanTransformer3DModel:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    sizes = (
        dict(
            patch_size=[(1, 2, 2), (1, 2, 1), (2, 1, 2), (1, 1, 1)][seed % 4],
            num_attention_heads=int(rng.choice([2, 3])),
            attention_head_dim=int(rng.choice([12, 14, 16, 22])),
            in_channels=int(rng.choice([3, 4])),
            out_channels=int(rng.choice([2, 4])),
            text_dim=int(rng.choice([6, 10])),
            freq_dim=int(rng.choice([8, 12])),
            ffn_dim=int(rng.choice([20, 36])),
            num_layers=int(rng.integers(1, 4)),
            cross_attn_norm=bool(seed % 3),
            eps=float(rng.choice([1e-6, 1e-4])),
            rope_max_seq_len=32,
        )
        | sizes
    )
    model = diffusers.WanTransformer3DModel(**sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def arguments(config, seed):
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((2, 4, 6, 8, config.in_channels), dtype=np.float32)
    text = rng.standard_normal((2, 5, config.text_dim), dtype=np.float32)
    return latents, text, np.array([17, 940])


def theirs_of(original, latents, text, timesteps, dtype=torch.float32):
    with torch.no_grad():
        sample = original(
            hidden_states=torch.tensor(latents.transpose(0, 4, 1, 2, 3)).to(dtype),
            encoder_hidden_states=torch.tensor(text).to(dtype),
            timestep=torch.tensor(timesteps),
        ).sample
    return sample.float().numpy().transpose(0, 2, 3, 4, 1)


@pytest.mark.parametrize("seed", first_fast(range(4), 2, slow=1))
def test_wan_transformer_equals_diffusers(seed, tmp_path):
    original = random_original(seed)
    original.save_pretrained(tmp_path / "theirs")
    config, params = load(transformer_hf, tmp_path / "theirs")
    inputs = arguments(config, 200 + seed)
    theirs = theirs_of(original, *inputs)
    ours = jax.jit(WanTransformer(config).apply)({"params": params}, *inputs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < RELATIVE

    save(transformer_hf, tmp_path / "ours", config, params)
    again, report = diffusers.WanTransformer3DModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    np.testing.assert_array_equal(theirs_of(again.eval(), *inputs), theirs)


def test_load_bfloat16_keeps_float32_modules(tmp_path):
    random_original(1).save_pretrained(tmp_path)
    original = diffusers.WanTransformer3DModel.from_pretrained(
        tmp_path, torch_dtype=torch.bfloat16
    ).eval()
    config, params = load(transformer_hf, tmp_path, jnp.bfloat16)
    state = original.state_dict()
    for row in transformer_hf.weights(config):
        ours = params
        for part in row.path.split("/"):
            ours = ours[part]
        for name in row.hf_names():
            assert str(state[name].dtype).removeprefix("torch.") == str(ours.dtype), name

    inputs = arguments(config, 3)
    exact = theirs_of(random_original(1), *inputs)
    ours = jax.jit(WanTransformer(config, jnp.bfloat16).apply)({"params": params}, *inputs)
    theirs = theirs_of(original, *inputs, dtype=torch.bfloat16)
    error = lambda x: np.sqrt(np.mean((np.asarray(x, np.float32) - exact) ** 2))  # noqa: E731
    assert (
        error(ours) < 1.5 * error(theirs) < 0.1 * exact.std()
    )  # the original's own rounding is the yardstick


@pytest.mark.slow
def test_wan_transformer_gradients_remat_unroll():
    config = config_from_hf(dict(random_original(4, num_layers=2).config))
    latents, text, timesteps = map(jnp.asarray, arguments(config, 1))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.3 * rng.standard_normal(x.shape, dtype=np.float32),
        transformer_hf.param_shapes(config),
    )

    def gradient(remat, unroll):
        model = WanTransformer(config, remat=remat, unroll=unroll)
        loss = lambda p: jnp.mean(model.apply({"params": p}, latents, text, timesteps) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    plain = gradient(False, 1)
    other = gradient(True, config.num_layers)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6), plain, other)


def test_config_from_hf_unsupported():
    for fields, named in (
        ({"_class_name": "CogVideoXTransformer3DModel"}, "_class_name"),
        ({"image_dim": 1280}, "image_dim is 1280; only None is supported"),
        ({"qk_norm": "rms_norm"}, "qk_norm"),
        ({"patch_size": [2, 2]}, "patch_size"),
        ({"attention_head_dim": 13}, "attention_head_dim"),
    ):
        with pytest.raises(BadInput, match=named):
            config_from_hf(fields)
