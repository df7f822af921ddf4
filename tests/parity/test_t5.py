"""The encoders of T5 and of UMT5, Wan's, against transformers', both ways, on random tiny
configurations."""

import jax
import numpy as np
import pytest
import torch
import transformers

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.t5 import T5Encoder, hf
from pav_jax.models.t5.hf import config_from_hf
from pav_jax.models.t5.model import bucket_table
from tests.parity.comparison import perturbed
from tests.tiers import first_fast

RELATIVE = 1e-4


def random_original(seed: int, kind: str = "T5") -> transformers.PreTrainedModel:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=int(rng.integers(40, 90)),
        d_model=int(rng.choice([16, 24, 32])),
        d_kv=int(rng.choice([4, 8, 12])),
        d_ff=int(rng.choice([20, 48])),
        num_layers=int(rng.integers(1 if kind == "T5" else 2, 4)),
        num_heads=int(rng.choice([2, 3, 4])),
        relative_attention_num_buckets=int(rng.choice([8, 16, 32])),
        relative_attention_max_distance=int(rng.choice([20, 64, 128])),
        feed_forward_proj=str(rng.choice(["gated-gelu", "gated-gelu", "relu", "gated-silu"])),
        tie_word_embeddings=kind == "UMT5",
    )
    return perturbed(getattr(transformers, f"{kind}EncoderModel")(config), 0.3)


def relative_error(ours, theirs) -> float:
    theirs = theirs.numpy()
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


KINDS_AND_SEEDS = [
    *((kind, seed) for seed in range(3) for kind in ("T5", "UMT5")),
    ("T5", 3),
    ("T5", 4),
]


@pytest.mark.parametrize("kind, seed", first_fast(KINDS_AND_SEEDS, 2, slow=2))
def test_t5_equals_transformers(kind, seed, tmp_path):
    original = random_original(seed, kind)
    original.save_pretrained(tmp_path / "theirs")
    config, params = load(hf, tmp_path / "theirs")
    if kind == "UMT5":  # every layer has positions of its own
        biases = params["layers"]["attention"]["position_bias"]
        assert len(biases) == config.layers and not np.array_equal(biases[0], biases[1])

    rng = np.random.default_rng(100 + seed)
    ids = rng.integers(0, original.config.vocab_size, (3, 37))
    mask = np.arange(37)[None, :] < np.array([37, 11, 20])[:, None]
    apply = jax.jit(T5Encoder(config).apply)
    with torch.no_grad():
        plain = original(torch.tensor(ids)).last_hidden_state
        masked = original(
            torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))
        ).last_hidden_state
    assert relative_error(apply({"params": params}, ids), plain) < RELATIVE
    assert (
        relative_error(apply({"params": params}, ids, mask)[mask], masked[torch.tensor(mask)])
        < RELATIVE
    )

    save(hf, tmp_path / "ours", config, params)
    again, report = type(original).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(again.eval()(torch.tensor(ids)).last_hidden_state, plain)


def test_bucket_table_equals_transformers():
    from transformers.models.t5.modeling_t5 import T5Attention

    offsets = torch.arange(600)[None, :] - torch.arange(600)[:, None]
    for buckets, distance in ((32, 128), (8, 20), (16, 64), (32, 100), (64, 256)):
        theirs = T5Attention._relative_position_bucket(offsets, True, buckets, distance).numpy()
        np.testing.assert_array_equal(bucket_table(600, buckets, distance), theirs)


def test_t5_remat_unroll():
    config = config_from_hf(random_original(1).config.to_dict())
    ids = np.arange(10)[None] % config.vocab_size
    params = jax.jit(T5Encoder(config).init)(jax.random.key(0), ids)["params"]
    outputs = [
        jax.jit(T5Encoder(config, remat=remat, unroll=unroll).apply)({"params": params}, ids)
        for remat, unroll in ((False, 1), (True, 1), (False, config.layers))
    ]
    for other in outputs[1:]:
        np.testing.assert_allclose(outputs[0], other, rtol=1e-5, atol=1e-6)


def test_config_from_hf_unsupported():
    with pytest.raises(BadInput, match="model_type"):
        config_from_hf({"model_type": "llama"})
    with pytest.raises(BadInput, match="feed_forward_proj"):
        config_from_hf(
            {
                "vocab_size": 4,
                "d_model": 4,
                "d_kv": 4,
                "d_ff": 4,
                "num_layers": 1,
                "num_heads": 1,
                "feed_forward_proj": "gated-tanh",
            }
        )
