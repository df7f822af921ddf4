"""UMT5, Wan's text encoder, against transformers' `UMT5EncoderModel`, both ways, on random tiny configurations."""

import jax
import numpy as np
import pytest
import torch
import transformers

from pav_jax.checkpoints.folder import load, save
from pav_jax.models.t5 import T5Encoder, hf

RELATIVE = 1e-4


def random_original(seed: int) -> transformers.UMT5EncoderModel:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    config = transformers.UMT5Config(
        vocab_size=int(rng.integers(40, 90)), d_model=int(rng.choice([16, 24, 32])), d_kv=int(rng.choice([4, 8, 12])),
        d_ff=int(rng.choice([20, 48])), num_layers=int(rng.integers(2, 4)), num_heads=int(rng.choice([2, 3, 4])),
        relative_attention_num_buckets=int(rng.choice([8, 16, 32])),
        relative_attention_max_distance=int(rng.choice([20, 64, 128])),
        feed_forward_proj=str(rng.choice(["gated-gelu", "gated-gelu", "relu"])),
    )
    model = transformers.UMT5EncoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("seed", range(3))
def test_outputs_equal_transformers_and_saved_weights_load_back_there(seed, tmp_path):
    original = random_original(seed)
    original.save_pretrained(tmp_path / "theirs")
    config, params = load(hf, tmp_path / "theirs")
    biases = params["layers"]["attention"]["position_bias"]
    assert len(biases) == config.layers and not np.array_equal(biases[0], biases[1])

    ids = np.random.default_rng(100 + seed).integers(0, original.config.vocab_size, (3, 37))
    mask = np.arange(37)[None, :] < np.array([37, 11, 20])[:, None]
    with torch.no_grad():
        theirs = original(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))).last_hidden_state
    ours = jax.jit(T5Encoder(config).apply)({"params": params}, ids, mask)
    reference = theirs.numpy()[mask]
    assert np.abs(np.asarray(ours)[mask] - reference).max() / np.abs(reference).max() < RELATIVE

    save(hf, tmp_path / "ours", config, params)
    again, report = transformers.UMT5EncoderModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        back = again.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))).last_hidden_state
    assert torch.equal(back, theirs)
