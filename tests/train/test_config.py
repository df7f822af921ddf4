"""Sections of the configuration as dataclasses, and what they refuse."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from pav_jax.config_fields import config_dict
from pav_jax.errors import BadInput
from pav_jax.language import quantization
from pav_jax.train.config import QUANTIZATIONS, SECTIONS, SFTConfig, check_training, section


@pytest.mark.parametrize("name", SECTIONS)
def test_check_training_defaults(name):
    defaults = SECTIONS[name]()
    assert check_training(config_dict(defaults), name) == defaults
    assert check_training({}, name) == defaults
    assert check_training(defaults, name) is defaults
    assert all(field.metadata["help"] for field in dataclasses.fields(defaults))


def test_section_of_a_mapping_or_an_object():
    fields = SFTConfig(max_steps=3)
    whole = ConfigDict({"seed": 0, "sft": config_dict(fields)})
    assert section(whole, "sft") == section({"sft": fields}, "sft") == fields


@pytest.mark.parametrize(
    "name, changes, field",
    [
        ("sft", {"steps": 3}, "steps"),
        ("sft", {"batch_size": "many"}, "batch_size"),
        ("sft", {"batch_size": 0}, "batch_size"),
        ("sft", {"save_steps": 0}, "save_steps"),
        ("sft", {"warmup_ratio": 1.5}, "warmup_ratio"),
        ("sft", {"remat_policy": "all"}, "remat_policy"),
        ("sft", {"gradient_accumulation_steps": 3}, "gradient_accumulation_steps"),
        ("sft", {"quantize": "nf4", "full_finetuning": True}, "quantize"),
        ("sft", {"num_train_epochs": 0.0}, "num_train_epochs"),
        ("sft", {"lora": {"rank": 8}}, "lora"),
        ("dpo", {"loss_type": ("sigmoid", "sigmod")}, "loss_type"),
        ("sft", {"quantize": "int3"}, "quantize"),
        ("dpo", {"lora": {"target_modules": ()}}, "lora.target_modules"),
        ("dpo", {"loss_type": ()}, "loss_type"),
        ("dpo", {"loss_weights": (1.0, 2.0)}, "loss_weights"),
        ("dpo", {"loss_type": ("sigmoid", "sft"), "loss_weights": (1.0,)}, "loss_weights"),
        ("dpo", {"loss_type": ("sigmoid", "sft"), "loss_weights": (0.0, 0.0)}, "loss_weights"),
        ("dpo", {"label_smoothing": 0.1}, "label_smoothing"),
        ("dpo", {"loss_type": ("hinge", "sft"), "label_smoothing": 0.1}, "label_smoothing"),
        ("dpo", {"loss_type": ("robust",), "label_smoothing": 0.5}, "label_smoothing"),
        ("dpo", {"loss_type": ("sft", "exo_pair")}, "label_smoothing"),
        ("grpo", {"num_generations": 1}, "num_generations"),
        ("grpo", {"num_generations": 5}, "num_generations"),
        ("grpo", {"weights": 1.0}, "weights"),
        ("grpo", {"max_length": 64}, "max_length"),
    ],
)
def test_check_training_invalid_field(name, changes, field):
    with pytest.raises(BadInput) as error:
        check_training(changes, name)
    assert error.value.field == f"{name}.{field}"


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": ("robust",), "label_smoothing": 0.1},
        {"loss_type": ("exo_pair", "sft"), "label_smoothing": 0.001, "loss_weights": (1.0, 0.0)},
        {"loss_type": ("sigmoid", "ipo", "sft"), "loss_weights": (0.8, 0.2, 1.5)},
    ],
)
def test_check_training_losses_together(changes):
    assert check_training(changes, "dpo").loss_type == changes["loss_type"]


def test_quantizations():
    assert QUANTIZATIONS == quantization.KINDS


def test_check_training_one_loss_type_as_a_string():
    assert check_training({"loss_type": "ipo"}, "dpo").loss_type == ("ipo",)


def test_check_training_mappings():
    changes = {"weights": {"AES": 1.0}, "constraints": {}, "lora": {"r": 4}}
    fields = check_training(changes, "grpo")
    assert fields.weights == {"AES": 1.0} and fields.constraints == {}
    assert fields.lora.r == 4 and fields.lora.lora_alpha == 16.0
