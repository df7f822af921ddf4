"""PEFT's adapter layout. That peft itself loads it is tested with the language model."""

import re

import jax
import numpy as np
import pytest

from pav_jax.checkpoints import peft
from pav_jax.errors import BadInput
from pav_jax.language.lora import LoraConfig, init_lora
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.storage.json_files import read_json, write_json

CONFIG = DecoderConfig(64, 32, 40, 2, 4, 2, 8)
TABLE = hf.weights(CONFIG)
SHAPES = hf.param_shapes(CONFIG)


@pytest.fixture
def adapter(tmp_path):
    config = LoraConfig(
        r=3, lora_alpha=6.0, lora_dropout=0.1, target_modules=("q_proj", "down_proj")
    )
    lora = init_lora(hf.param_shapes(CONFIG), config, jax.random.key(0))
    lora = jax.tree.map(lambda a: a + 1, lora)
    peft.write_adapter(tmp_path, TABLE, lora, config.r, config.lora_alpha, config.lora_dropout)
    return tmp_path, lora, config


def test_read_adapter_round_trip(adapter):
    folder, lora, config = adapter
    back, settings = peft.read_adapter(folder, TABLE, SHAPES)
    jax.tree.map(np.testing.assert_array_equal, back, lora)
    assert LoraConfig(**settings) == LoraConfig(3, 6.0, 0.1, ("down_proj", "q_proj"))


@pytest.mark.parametrize(
    "change", [{"peft_type": "IA3"}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}]
)
def test_read_adapter_unsupported_kind(adapter, change):
    folder, *_ = adapter
    write_json(
        folder / "adapter_config.json", {**read_json(folder / "adapter_config.json"), **change}
    )
    with pytest.raises(BadInput) as error:
        peft.read_adapter(folder, TABLE, SHAPES)
    assert error.value.field == next(iter(change))


def test_read_adapter_of_another_depth(adapter):
    folder, *_ = adapter
    for layers in (1, 3):
        with pytest.raises(BadInput) as error:
            other = DecoderConfig(64, 32, 40, layers, 4, 2, 8)
            peft.read_adapter(folder, hf.weights(other), hf.param_shapes(other))
        assert re.search(r"layers\.[12]", error.value.field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"r": 2}, "lora_A.weight"),
        ({"r": 0}, "r"),
        ({"r": "3"}, "r"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_dropout": 1.5}, "lora_dropout"),
        ({"peft_type": ["LORA"]}, "peft_type"),
    ],
)
def test_read_adapter_wrong_fields(adapter, change, field):
    folder, *_ = adapter
    path = folder / "adapter_config.json"
    write_json(path, {**read_json(path), **change})
    with pytest.raises(BadInput) as error:
        peft.read_adapter(folder, TABLE, SHAPES)
    assert error.value.field.endswith(field)


def test_read_adapter_not_finite(adapter):
    folder, lora, config = adapter
    broken = jax.tree.map(lambda a: a.at[0, 0].set(np.nan), lora)
    peft.write_adapter(folder, TABLE, broken, config.r, config.lora_alpha, config.lora_dropout)
    with pytest.raises(BadInput, match="NaN"):
        peft.read_adapter(folder, TABLE, SHAPES)
