"""Loss and gradients of supervised fine-tuning, of all parameters and of LoRA adapters, agree with
transformers in every family of decoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

from pav_jax.checkpoints.folder import load
from pav_jax.language.log_probs import log_probs
from pav_jax.language.lora import LoraConfig, init_lora, merge, with_lora
from pav_jax.models.decoder import Decoder, hf
from pav_jax.train.losses import sft_loss
from tests.tiers import first_slow
from tests.tiny.decoders import FAMILIES, LENGTH, torch_model

SEED = 40
LORA = LoraConfig(r=3, lora_alpha=6.0, target_modules="all-linear")
OTHERS = [name for name in FAMILIES if name not in ("qwen3", "gemma3_text")]


def torch_gradients(model, ids, answer, folder):
    """The loss, and the gradients of all parameters in our layout."""
    labels = torch.from_numpy(np.where(answer, ids, -100))
    loss = model(torch.from_numpy(ids), labels=labels).loss
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    model.save_pretrained(folder)  # gradients under the names of their parameters
    return float(loss.detach()), load(hf, folder)[1]


def loss_and_gradients(model, frozen, trained, ids, answer):
    def loss(trained):
        logp = log_probs(model, {**frozen, **trained}, ids, chunk_size=16, mask_BxT=answer)
        return sft_loss(logp, answer, jnp.sum(answer).astype(jnp.float32))

    return jax.jit(jax.value_and_grad(loss))(trained)


def assert_close(ours, theirs):
    ours, theirs = (traverse_util.flatten_dict(tree, sep="/") for tree in (ours, theirs))
    assert set(ours) == set(theirs)
    for name, want in theirs.items():
        error = np.abs(np.asarray(ours[name]) - want).max()
        assert error <= 1e-4 * np.abs(want).max(), name


@pytest.mark.slow
@pytest.mark.parametrize("family", first_slow(["gemma3_text", "qwen3", *OTHERS], 4))
def test_sft_gradients_equal_transformers(family, tmp_path):
    theirs = torch_model(family, SEED)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = load(hf, tmp_path / "theirs")
    rng = np.random.default_rng(SEED)
    ids = rng.integers(3, config.vocab_size, (2, LENGTH))
    answer = rng.random(ids.shape) < 0.6
    answer[:, 0] = False
    want, gradients = torch_gradients(theirs, ids, answer, tmp_path / "gradients")

    model = Decoder(config)
    arrays = (jnp.asarray(ids), jnp.asarray(answer))
    loss, ours = loss_and_gradients(model, {}, {"params": params}, *arrays)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert_close(ours["params"], gradients)

    # the base is such that base + scale a b are torch's weights, whose gradient is G; then that of
    # a is scale G b^T, and that of b is scale a^T G
    lora = init_lora(params, LORA, jax.random.key(0))
    lora = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), lora)
    base = merge(
        params, jax.tree.map(lambda x: x * (-1 if x.shape[-1] == LORA.r else 1), lora), LORA
    )
    frozen = {"params": base}
    loss, ours = loss_and_gradients(with_lora(model, LORA), frozen, {"lora": lora}, *arrays)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    flat = traverse_util.flatten_dict(lora)
    all_gradients = traverse_util.flatten_dict(gradients)
    expected = {}
    for *layer, letter in flat:
        full = LORA.scale * all_gradients[*layer, "kernel"]
        if letter == "a":
            expected[*layer, "a"] = full @ np.asarray(flat[*layer, "b"]).swapaxes(1, 2)
        else:
            expected[*layer, "b"] = np.asarray(flat[*layer, "a"]).swapaxes(1, 2) @ full
    assert_close(ours["lora"], traverse_util.unflatten_dict(expected))
