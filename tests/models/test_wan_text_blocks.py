"""Wan's cross-attention to texts without most of their padding."""

import jax
import numpy as np
import pytest

from pav_jax.models.wan import transformer_hf
from pav_jax.models.wan.transformer import WanConfig, WanTransformer
from tests.tiers import first_fast

BLOCK = 4


@pytest.mark.parametrize("seed, slots", first_fast([(0, 11), (1, 8), (2, 5), (3, 17)], slow=1))
def test_text_blocks_equal_all_slots(seed, slots):
    rng = np.random.default_rng(seed)
    config = WanConfig(
        num_attention_heads=int(rng.choice([1, 2])),
        attention_head_dim=8,
        in_channels=3,
        out_channels=3,
        text_dim=6,
        freq_dim=8,
        ffn_dim=12,
        num_layers=2,
        cross_attn_norm=bool(seed % 2),
    )
    params = jax.tree.map(
        lambda x: 0.4 * rng.standard_normal(x.shape, dtype=np.float32),
        transformer_hf.param_shapes(config),
    )
    length_B = np.array([0, 1, 3, 4, slots - 1, slots])
    latents = rng.standard_normal((6, 2, 4, 4, 3), dtype=np.float32)
    text = rng.standard_normal((6, slots, 6), dtype=np.float32)
    text[np.arange(slots) >= length_B[:, None]] = 0
    text[4, 1] = 0  # not padding, but equal to it

    def predictor(**fields):
        program = jax.jit(WanTransformer(config, **fields).apply)
        return lambda text: np.asarray(program({"params": params}, latents, text, np.arange(6.0)))

    of_all = predictor()
    of_blocks = predictor(text_block=BLOCK)
    plain = of_all(text)
    blocks = of_blocks(text)
    assert np.abs(blocks - plain).max() < 2e-6 * np.abs(plain).max()
    assert np.abs(of_all(text[:, :-1]) - plain)[:4].max() > 1e-3  # the padding counts
    # a text gives the same, bit by bit, beside shorter ones
    shorter = np.where(np.arange(6)[:, None, None] < 3, text, 0)
    np.testing.assert_array_equal(of_blocks(shorter)[:3], blocks[:3])
