"""Decoder: packed rows, adapters, hidden states, config.json. Parity with torch is in parity/."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.models.decoder import Decoder, DecoderConfig, hf
from pav_jax.models.decoder.model import segment_positions, unembed
from pav_jax.models.weights import logical_axes

CONFIG = DecoderConfig(64, 32, 40, 2, 4, 2, 8, initializer_range=0.3)
FIELDS = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture(scope="module")
def params():
    return Decoder(CONFIG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


@pytest.fixture(scope="module")
def ids():
    return jnp.asarray(np.random.default_rng(0).integers(0, 64, (1, 12)))


@pytest.mark.slow
def test_llama_packed_documents_equal_separate_ones(params, ids):
    segments = jnp.asarray([[1] * 5 + [2] * 4 + [3] * 3])
    np.testing.assert_array_equal(
        segment_positions(segments)[0], [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]
    )
    packed = Decoder(CONFIG).apply({"params": params}, ids, segment_ids_BxT=segments)
    for part in (slice(0, 5), slice(5, 9), slice(9, 12)):
        alone = Decoder(CONFIG).apply({"params": params}, ids[:, part])
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-5)


def test_unembed_hidden_equals_logits(params, ids):
    hidden = Decoder(CONFIG).apply({"params": params}, ids, return_hidden=True)
    logits = Decoder(CONFIG).apply({"params": params}, ids)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(unembed(params, hidden), logits, atol=1e-6)


@pytest.mark.slow
def test_llama_remat_gradients(params, ids):
    def loss(p, remat):
        return jnp.square(Decoder(CONFIG, remat=remat).apply({"params": p}, ids)).mean()

    stored, recomputed = (jax.grad(loss)(params, remat) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), stored, recomputed)


@pytest.mark.slow
def test_llama_flat_rows_values_and_gradients(ids):
    config = dataclasses.replace(CONFIG, qkv_bias=True, out_bias=True)
    rng = np.random.default_rng(1)
    rows = jnp.concatenate([ids, ids[:, ::-1]])
    adapter = {
        "a": rng.normal(size=(2, 32, 3)).astype(np.float32),
        "b": rng.normal(size=(2, 3, 40)).astype(np.float32),
    }
    weights = {
        "params": Decoder(config).init(jax.random.key(1), rows)["params"],
        "lora": {"layers": {"mlp": {"up_proj": adapter}}},
    }

    def loss(weights, flat):
        logits = Decoder(config, lora_scale=0.3, flat_rows=flat).apply(weights, rows)
        return jnp.square(logits).mean(), logits

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    plain = gradient(weights, False)
    flat = gradient(weights, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, flat)
    adapted = plain[0]["lora"]["layers"]["mlp"]["up_proj"]
    assert all(np.abs(gradient).max() > 1e-3 for gradient in adapted.values())


def test_weights_cover_parameters_and_axes():
    shapes = hf.param_shapes(CONFIG)
    axes = logical_axes(hf.weights(CONFIG))
    jax.tree.map(
        lambda shape, names: len(shape.shape) == len(names) or pytest.fail(str(names)),
        shapes,
        axes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_config_from_hf_rope_fields_of_transformers_4_and_5():
    llama3 = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    old = hf.config_from_hf(
        {**FIELDS, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **llama3}}
    )
    new = hf.config_from_hf(
        {**FIELDS, "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **llama3}}
    )
    assert old == new and old.rope.theta == 5e5 and old.rope.scaling.factor == 8.0


@pytest.mark.parametrize(
    "change, field",
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.factor"),
        ({"hidden_act": "tanhexp"}, "hidden_act"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ],
)
def test_config_from_hf_unsupported(change, field):
    with pytest.raises(BadInput) as error:
        hf.config_from_hf({**FIELDS, **change})
    assert (error.value.source, error.value.field) == ("config.json", field)


def test_load_shape_mismatch(params, tmp_path):
    save(hf, tmp_path, CONFIG, params)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"intermediate_size": 40', '"intermediate_size": 48'))
    with pytest.raises(BadInput) as error:
        load(hf, tmp_path)
    assert error.value.field.endswith("mlp.gate_proj.weight")
