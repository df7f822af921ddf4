"""A frozen base quantized: close to the numbers it came from, smaller, and trained on like any
other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from flax import traverse_util

from pav_jax.errors import BadInput
from pav_jax.language import quantization
from pav_jax.train import sft_trainer as sft
from tests.tiers import first_fast
from tests.tiny import language_model as tiny
from tests.train import test_sft_trainer as test_sft

# Largest rounding error of a kernel in units of its tile's largest magnitude: half a step of the
# code, which has 127 steps each side, 7, or NormalFloat's 15 gaps of at most 0.304.
STEP = {"int8": 0.5 / 127, "int4": 0.5 / 7, "nf4": 0.152}


@pytest.mark.parametrize("kind", quantization.KINDS)
def test_quantize_rounding_error(kind):
    scales = jnp.array([1.0, 100.0])[
        :, None, None
    ]  # layers that differ: shared scales would ruin the first
    kernel = jax.random.normal(jax.random.key(3), (2, 128, 24)) * scales
    params = {"layers": {"mlp": {"up_proj": {"kernel": kernel}}}, "embed": kernel[0]}
    small = quantization.quantize(params, kind)
    back = quantization.dequantize(small, jnp.float32)
    np.testing.assert_array_equal(back["embed"], params["embed"])
    tiles = np.abs(kernel).reshape(2, 2, 64, 24).max(2, keepdims=True)
    change = np.abs(back["layers"]["mlp"]["up_proj"]["kernel"] - kernel).reshape(2, 2, 64, 24)
    assert (change <= STEP[kind] * tiles * 1.01 + 1e-7).all() and change.max() > 0
    code = small["layers"]["mlp"]["up_proj"]["kernel"].array.qvalue
    assert code.dtype.itemsize == 1 and code.shape == kernel.shape


# with biases, norms of queries and keys, experts
@pytest.mark.parametrize("family", first_fast(["qwen3_moe", "qwen2", "gemma3_text"], 0))
def test_quantize_family(family):
    lm = tiny.make_lm(family=family)
    small = quantization.quantize(lm.params, "int8")
    names = {
        "/".join(path)
        for path, value in traverse_util.flatten_dict(small).items()
        if isinstance(value, quantization.QuantizedKernel)
    }
    attention = {f"layers/attention/{name}_proj/kernel" for name in "qkvo"}
    suffix = "" if family == "qwen3_moe" else "/kernel"
    mlp = {f"layers/mlp/{name}_proj{suffix}" for name in ("gate", "up", "down")}
    assert names == attention | mlp
    ids = jnp.arange(5, 15)[None]
    logits = [
        np.asarray(jax.jit(lm.model.apply)({"params": params}, ids))
        for params in (small, quantization.dequantize(small, jnp.float32), lm.params)
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    error = np.abs(logits[0] - logits[2]).mean()
    assert 0 < error < 0.1 * np.abs(logits[2]).mean()


@pytest.mark.slow
@pytest.mark.parametrize("kind, near", [("int8", 0.05), ("nf4", 0.5)])
def test_run_quantized_base(kind, near, tmp_path):
    pairs = tiny.write_pairs(tmp_path / "sft_pairs.jsonl")
    losses = {}
    for quantize in (None, kind):
        folder = tmp_path / (quantize or "whole")
        booster = sft.run(test_sft.make_config(quantize=quantize), tiny.make_lm(), pairs, folder)
        losses[quantize] = [
            json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
    assert 0 < abs(losses[kind][0] - losses[None][0]) < near
    assert losses[kind][-1] < losses[kind][0] - 0.2
    saved = transformers.AutoModelForCausalLM.from_pretrained(booster)
    assert all(p.isfinite().all() for p in saved.parameters())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"quantize": "int3"}, "'int3': choose from int8, int4, nf4"),
        ({"quantize": "nf4", "full_finetuning": True}, "full fine-tuning has no frozen base"),
    ],
)
def test_run_invalid_quantize(changes, message, tmp_path):
    pairs = tiny.write_pairs(tmp_path / "sft_pairs.jsonl")
    with pytest.raises(BadInput, match=message):
        sft.run(test_sft.make_config(**changes), tiny.make_lm(), pairs, tmp_path / "sft")
