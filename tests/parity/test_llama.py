"""Llama agrees with transformers' torch implementation, in both directions of the checkpoint
table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pav_jax.checkpoints.folder import load, save
from pav_jax.models.decoder import Decoder, hf
from tests.tiers import first_fast

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def random_config(seed: int) -> LlamaConfig:
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.integers(1, 4))
    groups = int(rng.integers(1, 4))
    scaled = bool(rng.integers(2))
    rope = (
        {**LLAMA3_ROPE, "original_max_position_embeddings": 16}
        if scaled
        else {"rope_type": "default"}
    )
    return LlamaConfig(
        vocab_size=int(rng.integers(50, 130)),
        hidden_size=kv_heads * groups * int(rng.integers(6, 12)),
        intermediate_size=int(rng.integers(20, 70)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=kv_heads * groups,
        num_key_value_heads=kv_heads,
        head_dim=2 * int(rng.integers(2, 9)),
        rope_parameters={"rope_theta": float(rng.choice([10000.0, 100000.0, 500000.0])), **rope},
        tie_word_embeddings=bool(rng.integers(2)),
        attention_bias=bool(rng.integers(2)),
        mlp_bias=bool(rng.integers(2)),
        initializer_range=0.2,
        max_position_embeddings=64,
    )


def torch_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for (
            name,
            p,
        ) in (
            model.named_parameters()
        ):  # biases and norms start at constants that would hide mistakes
            if "bias" in name or "norm" in name:
                p.add_(0.2 * torch.randn_like(p))
    return model


def torch_logits(model, ids, **kwargs) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(np.array(ids)), **kwargs).logits.numpy()


def assert_close(ours, theirs, tolerance=1e-4):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("seed", first_fast(range(5), slow=1))
def test_llama_equals_transformers(seed, tmp_path):
    theirs = torch_model(random_config(seed), seed)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = load(hf, tmp_path / "theirs")
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, (2, 40))
    want = torch_logits(theirs, ids)
    assert_close(jax.jit(Decoder(config).apply)({"params": params}, jnp.asarray(ids)), want)

    save(hf, tmp_path / "ours", config, params, max_shard_size="20KB" if seed % 2 else "5GB")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    np.testing.assert_array_equal(torch_logits(back, ids), want)
    assert load(hf, tmp_path / "ours")[0] == config


def test_llama_padding_equals_transformers(tmp_path):
    theirs = torch_model(random_config(11), 11)
    theirs.save_pretrained(tmp_path)
    config, params = load(hf, tmp_path)
    ids = np.random.default_rng(3).integers(0, config.vocab_size, (2, 12))
    mask = np.ones((2, 12), np.int64)
    mask[0, :5] = 0
    mask[1, 8:] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    want = torch_logits(
        theirs, ids, attention_mask=torch.from_numpy(mask), position_ids=torch.from_numpy(positions)
    )
    got = Decoder(config).apply({"params": params}, jnp.asarray(ids), None, jnp.asarray(mask))
    assert_close(np.where(mask[..., None], got, 0), np.where(mask[..., None], want, 0))


@pytest.mark.parametrize("offset", first_fast([0, 100_000], 0))
def test_llama_rope_scaling_equals_transformers(offset, tmp_path):
    length = 8300 if offset == 0 else 64
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
        max_position_embeddings=131072,
        rope_parameters={"rope_theta": 500000.0, **LLAMA3_ROPE},
    )
    theirs = torch_model(config, 1)
    theirs.save_pretrained(tmp_path)
    ours, params = load(hf, tmp_path)
    ids = np.random.default_rng(1).integers(0, 60, (1, length))
    positions = offset + np.arange(length)[None]
    want = torch_logits(theirs, ids, position_ids=torch.from_numpy(positions))[:, -64:]
    got = jax.jit(Decoder(ours).apply)(
        {"params": params}, jnp.asarray(ids), jnp.asarray(positions)
    )[:, -64:]
    assert_close(got, want)
