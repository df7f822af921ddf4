"""Low-rank adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.language.lora import LoraConfig, count, init_lora, merge, target_paths, with_lora
from pav_jax.models.decoder import hf
from tests.tiny import language_model as tiny

IDS = jnp.asarray([[5, 9, 200, 31, 7]])


def trained_lora(lm, config, seed=1):
    """Return an adapter whose `b` is not zero."""
    lora = init_lora(lm.params, config, jax.random.key(seed))
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(seed), a.shape), lora)


@pytest.mark.parametrize(
    "modules", [("q_proj", "v_proj"), (".*_proj",), ("layers/mlp/.*", "o_proj")]
)
def test_adapter_equals_merged_weights(lm, modules):
    config = LoraConfig(r=3, lora_alpha=7.0, target_modules=modules)
    model = with_lora(lm.model, config)
    fresh = init_lora(lm.params, config, jax.random.key(0))
    base = lm.model.apply({"params": lm.params}, IDS)
    np.testing.assert_array_equal(model.apply({"params": lm.params, "lora": fresh}, IDS), base)
    lora = trained_lora(lm, config)
    adapted = model.apply({"params": lm.params, "lora": lora}, IDS)
    merged = lm.model.apply({"params": merge(lm.params, lora, config)}, IDS)
    assert np.abs(adapted - base).max() > 0.1
    np.testing.assert_allclose(adapted, merged, atol=2e-4)


def test_init_lora_values(lm):
    lora = init_lora(lm.params, LoraConfig(r=4), jax.random.key(0))["layers"]["attention"]["q_proj"]
    assert not lora["b"].any()
    assert lora["a"].all()
    assert np.abs(lora["a"]).max() <= 32**-0.5
    assert not np.array_equal(lora["a"][0], lora["a"][1])


def test_generate_with_adapter(lm):
    config = LoraConfig(r=2, lora_alpha=8.0, target_modules=(".*_proj",))
    lora = trained_lora(lm, config)
    adapted = lm.with_lora(lora, config).generate(["a dog"], max_new_tokens=8, temperature=0.0)
    assert adapted == lm.with_params(merge(lm.params, lora, config)).generate(
        ["a dog"], max_new_tokens=8, temperature=0
    )


def test_dropout_only_on_adapter_in_training(lm):
    config = LoraConfig(r=2, lora_dropout=0.5, target_modules=("q_proj",))
    model = with_lora(lm.model, config)
    lora = trained_lora(lm, config)
    variables = {"params": lm.params, "lora": lora}
    deterministic = model.apply(variables, IDS)
    dropped = model.apply(variables, IDS, deterministic=False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(deterministic, model.apply(variables, IDS))
    assert np.abs(deterministic - dropped).max() > 0
    without_adapter = model.apply(
        {"params": lm.params}, IDS, deterministic=False, rngs={"dropout": jax.random.key(0)}
    )
    np.testing.assert_array_equal(without_adapter, lm.model.apply({"params": lm.params}, IDS))


def test_count_of_adapter(lm):
    r = 3
    d = 32
    f = 48
    kv = 16
    layers = 2
    sizes = {
        "q_proj": d + d,
        "k_proj": d + kv,
        "o_proj": d + d,
        "gate_proj": d + f,
        "down_proj": f + d,
    }
    lora = init_lora(lm.params, LoraConfig(r=r, target_modules=tuple(sizes)), jax.random.key(0))
    assert count(lora) == layers * r * sum(sizes.values())


def test_target_paths_all_linear(lm):
    every = target_paths(lm.params, LoraConfig(target_modules=(".*_proj",)))
    assert target_paths(lm.params, LoraConfig(target_modules="all-linear")) == every
    assert len(every) == 7


@pytest.mark.parametrize(
    "family, module, message",
    [
        ("qwen3_moe", "gate_proj", "one array of all experts"),
        ("phi3", "qkv_proj", "is q_proj, k_proj, v_proj here"),
        ("phi3", "gate_up_proj", "is gate_proj, up_proj here"),
    ],
)
def test_target_paths_not_adaptable(family, module, message):
    params = hf.param_shapes(tiny.make_config(family))
    with pytest.raises(BadInput, match=message) as error:
        target_paths(params, LoraConfig(target_modules=("q_proj", module)))
    assert error.value.field == "lora.target_modules" and "\n" not in str(error.value)


@pytest.mark.parametrize("modules", [("qproj",), ("q_proj", "router"), ("(",), ()])
def test_target_paths_no_match(lm, modules):
    with pytest.raises(BadInput) as error:
        target_paths(lm.params, LoraConfig(target_modules=modules))
    assert error.value.field == "lora.target_modules"
