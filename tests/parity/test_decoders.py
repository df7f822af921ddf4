"""Every family of decoders agrees with transformers, on random configurations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pav_jax.checkpoints.folder import load, save
from pav_jax.models.decoder import Decoder, hf
from tests.tiers import first_fast
from tests.tiny.decoders import FAMILIES, LENGTH, random_config, torch_model

SEEDS = range(4)
# those with the most switches first
SWITCHES_FIRST = sorted(FAMILIES, key=lambda name: name not in ("gemma3_text", "smollm3"))


def torch_logits(model, ids, **kwargs) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(np.array(ids)), **kwargs).logits.float().numpy()


def assert_close(ours, theirs, tolerance=1e-4):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


def logits(config, params, ids, segments=None) -> np.ndarray:
    apply = jax.jit(Decoder(config).apply)
    return np.asarray(apply({"params": params}, jnp.asarray(ids), None, segments))


@pytest.mark.parametrize("seed", first_fast(SEEDS, slow=1))
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_equals_transformers(family, seed, tmp_path):
    theirs = torch_model(family, seed)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = load(hf, tmp_path / "theirs")
    ids = np.random.default_rng(seed).integers(3, config.vocab_size, (2, LENGTH))
    want = torch_logits(theirs, ids)
    assert_close(logits(config, params, ids), want)

    save(hf, tmp_path / "ours", config, params, max_shard_size="20KB" if seed % 2 else "5GB")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    np.testing.assert_allclose(torch_logits(back, ids), want, atol=1e-6)
    again, _ = load(hf, tmp_path / "ours")
    assert again == config


@pytest.mark.parametrize("family", first_fast(SWITCHES_FIRST, 2))
def test_decoder_padding_equals_transformers(family, tmp_path):
    theirs = torch_model(family, 10)
    theirs.save_pretrained(tmp_path)
    config, params = load(hf, tmp_path)
    ids = np.random.default_rng(3).integers(3, config.vocab_size, (2, LENGTH))
    mask = np.ones(ids.shape, np.int64)
    mask[0, :7] = 0
    mask[1, 31:] = 0
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    want = torch_logits(
        theirs, ids, attention_mask=torch.from_numpy(mask), position_ids=torch.from_numpy(positions)
    )
    got = logits(config, params, ids, jnp.asarray(mask))
    assert_close(np.where(mask[..., None], got, 0), np.where(mask[..., None], want, 0))


@pytest.mark.parametrize("family", first_fast(SWITCHES_FIRST, 2))
def test_decoder_packed_rows_equal_separate_ones(family, tmp_path):
    theirs = torch_model(family, 20)
    theirs.save_pretrained(tmp_path)
    config, params = load(hf, tmp_path)
    ids = np.random.default_rng(4).integers(3, config.vocab_size, (1, LENGTH))
    segments = np.repeat([1, 2, 3], [25, 10, LENGTH - 35])[None]
    got = logits(config, params, ids, jnp.asarray(segments))
    for segment in (1, 2, 3):
        here = segments == segment
        assert_close(got[here], torch_logits(theirs, ids[here][None])[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_bfloat16_within_error_of_transformers(family, tmp_path):
    exact = torch_model(family, 30)
    exact.save_pretrained(tmp_path)
    config, params = load(hf, tmp_path, jnp.bfloat16)
    ids = np.random.default_rng(5).integers(3, config.vocab_size, (4, LENGTH))
    want = torch_logits(exact, ids)
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    ours = Decoder(config, jnp.bfloat16).apply({"params": params}, jnp.asarray(ids))
    error = np.abs(np.asarray(ours) - want).mean()
    their_error = np.abs(torch_logits(rounded, ids) - want).mean()
    assert error <= 1.1 * their_error


def test_random_configs_cover_every_switch():
    configs = [random_config(family, seed) for family in FAMILIES for seed in SEEDS]
    ropes = {(c.rope_parameters or {}).get("rope_type") for c in configs}
    assert {"default", "linear", "llama3", "yarn"} <= ropes
    for field in ("tie_word_embeddings", "attention_bias", "use_sliding_window", "norm_topk_prob"):
        assert {getattr(c, field) for c in configs if hasattr(c, field)} == {True, False}
