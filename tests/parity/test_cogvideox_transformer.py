"""The CogVideoX transformer against diffusers' `CogVideoXTransformer3DModel`, both ways, on random
configurations."""

from types import SimpleNamespace

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from pav_jax.checkpoints.folder import load, save
from pav_jax.checkpoints.safetensors import read_tensors, write_tensors
from pav_jax.errors import BadInput
from pav_jax.models.cogvideox import transformer_hf
from pav_jax.models.cogvideox.transformer import CogVideoXTransformer
from pav_jax.models.cogvideox.transformer_hf import STEM, config_from_hf
from tests.tiers import first_fast

RELATIVE = 1e-4


def random_original(seed: int, kind: str) -> diffusers.CogVideoXTransformer3DModel:
    """kind: "2b" sinusoidal, "5b" rotary, "learned" rotary and a stored table, "1.5" rotary,
    temporal patches, ofs."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    sizes = dict(
        num_attention_heads=int(rng.choice([2, 4])),
        attention_head_dim=int(rng.choice([8, 24] if kind == "2b" else [16, 32])),
        in_channels=int(rng.choice([3, 4])),
        out_channels=int(rng.choice([2, 4])),
        time_embed_dim=int(rng.choice([8, 12])),
        text_embed_dim=int(rng.choice([6, 10])),
        num_layers=int(rng.integers(1, 4)),
        sample_width=8,
        sample_height=int(rng.choice([4, 8])),
        sample_frames=int(rng.choice([9, 5])),
        patch_size=int(rng.choice([1, 2])),
        max_text_seq_length=int(rng.choice([5, 7])),
        attention_bias=bool(rng.random() < 0.7),
        patch_bias=bool(rng.random() < 0.7),
        norm_elementwise_affine=bool(rng.random() < 0.7),
        norm_eps=float(rng.choice([1e-5, 1e-4])),
        spatial_interpolation_scale=float(rng.choice([1.0, 1.875])),
        temporal_interpolation_scale=float(rng.choice([1.0, 1.5])),
        flip_sin_to_cos=bool(rng.random() < 0.5),
        freq_shift=int(rng.choice([0, 1])),
        use_rotary_positional_embeddings=kind != "2b",
        use_learned_positional_embeddings=kind == "learned",
    )
    if kind == "1.5":
        sizes |= dict(patch_size_t=2, ofs_embed_dim=sizes["time_embed_dim"])
    model = diffusers.CogVideoXTransformer3DModel(**sizes).eval()
    with torch.no_grad():
        for tensor in [
            *model.parameters(),
            *(b for n, b in model.named_buffers() if kind == "learned"),
        ]:
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def their_rotary(model, frames, height, width):
    """The tables diffusers' pipeline would pass; its method reads only these fields."""
    if not model.config.use_rotary_positional_embeddings:
        return None
    pipeline = SimpleNamespace(transformer=model, vae_scale_factor_spatial=8)
    method = CogVideoXPipeline._prepare_rotary_positional_embeddings
    return method(pipeline, height * 8, width * 8, frames, torch.device("cpu"))


def example(config):
    shape = (
        1,
        config.patch_size_t or config.sample_latent_frames,
        config.sample_height,
        config.sample_width,
    )
    return (
        jnp.zeros((*shape, config.in_channels)),
        jnp.zeros((1, config.max_text_seq_length, config.text_embed_dim)),
        jnp.zeros((1,), jnp.int32),
    )


@pytest.mark.parametrize("kind", ["2b", "5b", "learned", "1.5"])
@pytest.mark.parametrize("seed", first_fast(range(3), slow=1))
def test_cogvideox_transformer_equals_diffusers(kind, seed, tmp_path):
    original = random_original(10 * seed + len(kind), kind)
    original.save_pretrained(tmp_path / "theirs")
    config, params = load(transformer_hf, tmp_path / "theirs")
    apply = jax.jit(CogVideoXTransformer(config).apply)

    rng = np.random.default_rng(200 + seed)
    frames = 4 if kind == "1.5" else config.sample_latent_frames
    shapes = [
        (frames, config.sample_height, config.sample_width)
    ]  # the size the model was made for, and another
    if kind in ("2b", "5b"):
        shapes.append((frames + 1, 6, 10))
    for t, h, w in shapes:
        latents = rng.standard_normal((2, t, h, w, config.in_channels), dtype=np.float32)
        text = rng.standard_normal(
            (2, config.max_text_seq_length, config.text_embed_dim), dtype=np.float32
        )
        timesteps = np.array([17, 940])
        ofs = np.array([2.0, 0.5], np.float32) if kind == "1.5" else None
        arguments = dict(
            hidden_states=torch.tensor(latents.transpose(0, 1, 4, 2, 3)),
            encoder_hidden_states=torch.tensor(text),
            timestep=torch.tensor(timesteps),
            ofs=None if ofs is None else torch.tensor(ofs),
            image_rotary_emb=their_rotary(original, t, h, w),
        )
        with torch.no_grad():
            theirs = original(**arguments).sample
        ours = apply({"params": params}, latents, text, timesteps, ofs_B=ofs)
        reference = theirs.numpy().transpose(0, 1, 3, 4, 2)
        assert ours.shape == reference.shape
        assert np.abs(ours - reference).max() / np.abs(reference).max() < RELATIVE

    save(transformer_hf, tmp_path / "ours", config, params)
    again, report = diffusers.CogVideoXTransformer3DModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(again.eval()(**arguments).sample, theirs)


def test_load_ignores_sinusoidal_table(tmp_path):
    original = random_original(3, "2b")
    original.save_pretrained(tmp_path)
    tensors = dict(read_tensors(tmp_path))
    write_tensors(
        tmp_path,
        tensors | {"patch_embed.pos_embedding": original.patch_embed.pos_embedding.numpy()},
        stem=STEM,
    )
    _, params = load(transformer_hf, tmp_path)
    assert "pos_embedding" not in params["patch_embed"]


@pytest.mark.slow
def test_cogvideox_transformer_gradients_remat_unroll():
    config = config_from_hf(dict(random_original(4, "2b").config))
    latents, text, timesteps = example(config)
    latents = jax.random.normal(jax.random.key(1), latents.shape)
    shapes = jax.eval_shape(
        CogVideoXTransformer(config).init, jax.random.key(0), latents, text, timesteps
    )["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, dtype=np.float32), shapes)

    def gradient(remat, unroll):
        model = CogVideoXTransformer(config, remat=remat, unroll=unroll)
        loss = lambda p: jnp.mean(model.apply({"params": p}, latents, text, timesteps) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    plain = gradient(False, 1)
    assert all(
        float(jnp.abs(leaf).max()) > 0
        for leaf in jax.tree.leaves(plain["layers"]["attention"]["v_proj"])
    )
    for other in (gradient(True, 1), gradient(False, config.num_layers)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6), plain, other
        )


def test_config_from_hf_unsupported():
    with pytest.raises(BadInput, match="_class_name"):
        config_from_hf({"_class_name": "WanTransformer3DModel"})
    with pytest.raises(BadInput, match="activation_fn"):
        config_from_hf({"activation_fn": "geglu"})
    with pytest.raises(BadInput, match="attention_head_dim"):
        config_from_hf({"attention_head_dim": 12, "use_rotary_positional_embeddings": True})
