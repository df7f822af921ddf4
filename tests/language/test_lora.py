"""Adapters: zero at first, merged exactly, matched by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.errors import BadInput
from pav_jax.language.lora import LoraConfig, count, init_lora, merge, target_paths, with_lora

IDS = jnp.asarray([[5, 9, 200, 31, 7]])


def trained(lm, config, seed=1):
    """An adapter whose zero factor has moved."""
    lora = init_lora(lm.params, config, jax.random.key(seed))
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(seed), a.shape), lora)


@pytest.mark.parametrize(
    "modules", [("q_proj", "v_proj"), (".*_proj",), ("layers/mlp/.*", "o_proj")]
)
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_equals_its_merge(lm, modules):
    config = LoraConfig(r=3, lora_alpha=7.0, target_modules=modules)
    model = with_lora(lm.model, config)
    fresh = init_lora(lm.params, config, jax.random.key(0))
    base = lm.model.apply({"params": lm.params}, IDS)
    np.testing.assert_array_equal(model.apply({"params": lm.params, "lora": fresh}, IDS), base)
    lora = trained(lm, config)
    beside = model.apply({"params": lm.params, "lora": lora}, IDS)
    inside = lm.model.apply({"params": merge(lm.params, lora, config)}, IDS)
    assert np.abs(beside - base).max() > 0.1
    np.testing.assert_allclose(beside, inside, atol=2e-4)


def test_exactly_one_factor_starts_at_zero_and_layers_start_apart(lm):
    lora = init_lora(lm.params, LoraConfig(r=4), jax.random.key(0))["layers"]["attention"]["q_proj"]
    assert not lora["b"].any() and lora["a"].all()
    assert np.abs(lora["a"]).max() <= 32**-0.5 and not np.array_equal(lora["a"][0], lora["a"][1])


def test_generation_reads_the_adapter_without_a_merge(lm):
    config = LoraConfig(r=2, lora_alpha=8.0, target_modules=(".*_proj",))
    lora = trained(lm, config)
    beside = lm.with_lora(lora, config).generate(["a dog"], max_new_tokens=8, temperature=0.0)
    assert beside == lm.with_params(merge(lm.params, lora, config)).generate(
        ["a dog"], max_new_tokens=8, temperature=0
    )


def test_dropout_acts_on_the_adapter_in_training_only(lm):
    config = LoraConfig(r=2, lora_dropout=0.5, target_modules=("q_proj",))
    model, lora = with_lora(lm.model, config), trained(lm, config)
    variables = {"params": lm.params, "lora": lora}
    calm = model.apply(variables, IDS)
    dropped = model.apply(variables, IDS, deterministic=False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(calm, model.apply(variables, IDS))
    assert np.abs(calm - dropped).max() > 0
    bare = model.apply(
        {"params": lm.params}, IDS, deterministic=False, rngs={"dropout": jax.random.key(0)}
    )
    np.testing.assert_array_equal(bare, lm.model.apply({"params": lm.params}, IDS))


def test_the_trainable_count_is_that_of_the_formula(lm):
    r, d, f, kv, layers = 3, 32, 48, 16, 2
    sizes = {
        "q_proj": d + d,
        "k_proj": d + kv,
        "o_proj": d + d,
        "gate_proj": d + f,
        "down_proj": f + d,
    }
    lora = init_lora(lm.params, LoraConfig(r=r, target_modules=tuple(sizes)), jax.random.key(0))
    assert count(lora) == layers * r * sum(sizes.values())


@pytest.mark.parametrize("modules", [("qproj",), ("q_proj", "router"), ("(",), ()])
def test_a_pattern_that_matches_nothing_is_refused(lm, modules):
    with pytest.raises(BadInput, match="target_modules"):
        target_paths(lm.params, LoraConfig(target_modules=modules))
