"""PEFT's adapter layout, for every family of decoders."""

import copy
import re

import jax
import numpy as np
import pytest
import torch
from peft import LoraConfig as LoraFile
from peft import PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from pav_jax.checkpoints import folder as folder_module
from pav_jax.checkpoints import peft
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import LoraConfig, init_lora, merge
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.storage.json_files import read_json, write_json
from tests.tiny.byte_language_model import tiny_tokenizer
from tests.tiny.decoders import FAMILIES, tiny_gemma3_vlm, torch_model

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
        ({"peft_type": "IA3"}, "peft_type"),
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


# ---------------------------------------------------------------------------- fields of the config


@pytest.mark.parametrize(
    "fields",
    [
        {"init_lora_weights": value}
        for value in ("pissa", "pissa_niter_16", "olora", "loftq", "corda", "eva", "lora_ga", 3)
    ]
    + [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"fan_in_fan_out": True},
        {"use_qalora": True},
        {"alora_invocation_tokens": [1, 2]},
        {"layer_replication": [[0, 2]]},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        {"a_field_of_the_future": "x"},
    ],
)
def test_read_config_other_than_plain_lora(adapter, fields):
    folder, *_ = adapter
    file = folder / "adapter_config.json"
    write_json(file, {**read_json(file), **fields})
    with pytest.raises(BadInput) as error:
        peft.read_adapter(folder, TABLE, SHAPES)
    ((name, value),) = fields.items()
    assert error.value.field == name
    assert f"{name}={str(value)!r}" in str(error.value)


@pytest.mark.parametrize("value", [True, False, None, "gaussian", "orthogonal"])
def test_read_config_initialisation_of_plain_lora(adapter, value):
    folder, *_ = adapter
    file = folder / "adapter_config.json"
    write_json(file, {**LoraFile(r=3).to_dict(), **read_json(file), "init_lora_weights": value})
    peft.read_adapter(folder, TABLE, SHAPES)


# ----------------------------------------------------------------------------- parity with peft


def linear_names(model) -> list[str]:
    """The last names of the dense layers of a decoder."""
    modules = model.named_modules()
    names = {n.split(".")[-1] for n, m in modules if isinstance(m, torch.nn.Linear)}
    return sorted(names - {"lm_head", "gate"})  # `gate` is the router of experts


def random_adapter(model, folder, **fields):
    """Save a random adapter of peft's; return the model with the adapter merged."""
    config = LoraFile(r=2, lora_alpha=6, **fields)
    adapted = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


def assert_equal_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


SLOW_FAMILIES = ("llama", "qwen3", "mistral", "smollm3", "qwen3_moe")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_FAMILIES else [])
        for name in FAMILIES
    ],
)
def test_adapter_of_every_family_equals_peft(family, tmp_path):
    use_rslora = FAMILIES.index(family) % 2 == 1
    base = torch_model(family, 1)
    base.save_pretrained(tmp_path / "base")
    merged = random_adapter(
        base, tmp_path / "theirs", target_modules=linear_names(base), use_rslora=use_rslora
    )
    config, params = folder_module.load(hf, tmp_path / "base")
    table = hf.weights(config)
    lora, settings = peft.read_adapter(tmp_path / "theirs", table, hf.param_shapes(config))
    lora_config = LoraConfig(**settings)

    # read
    folder_module.save(hf, tmp_path / "merged", config, merge(params, lora, lora_config))
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert_equal_weights(ours, merged)

    # write: the layers that are one tensor in the file share `lora_A`, or do not
    for name, tree in (("shared", lora), ("own", own_matrices(lora))):
        peft.write_adapter(
            tmp_path / name, table, tree, lora_config.r, lora_config.lora_alpha, 0.0, "base"
        )
        rank = read_json(tmp_path / name / "adapter_config.json")["r"]
        assert rank == (6 if (family, name) == ("phi3", "own") else 2)
        merged_params = merge(params, tree, lora_config)
        again, settings = peft.read_adapter(tmp_path / name, table, hf.param_shapes(config))
        merged_again = merge(params, again, LoraConfig(**settings))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), merged_again, merged_params
        )
        folder_module.save(hf, tmp_path / f"{name}_ours", config, merged_params)
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / f"{name}_ours", dtype=torch.float32)
        theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / name)
        assert_equal_weights(ours, theirs.merge_and_unload())


def own_matrices(lora):
    """The adapter with other matrices `a` in every layer."""
    leaves, structure = jax.tree.flatten(lora)
    rng = np.random.default_rng(0)
    return structure.unflatten([x + 0.1 * rng.standard_normal(x.shape) for x in leaves])


@pytest.mark.parametrize("older_names", [False, True])
def test_read_adapter_of_a_vision_language_model(older_names, tmp_path):
    base = tiny_gemma3_vlm(0)
    pattern = r".*language_model.*(q_proj|o_proj|up_proj)"
    merged = random_adapter(base, tmp_path / "adapter", target_modules=pattern)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    if older_names:  # of transformers 4
        tensors = {
            name.replace("model.language_model.layers", "language_model.model.layers"): array
            for name, array in load_file(file).items()
        }
        assert any("language_model.model.layers" in name for name in tensors)
        save_file(tensors, file)
    base.save_pretrained(tmp_path / "base")
    merged.save_pretrained(tmp_path / "merged")
    config, params = folder_module.load(hf, tmp_path / "base")
    _, expected = folder_module.load(hf, tmp_path / "merged")
    lora, settings = peft.read_adapter(
        tmp_path / "adapter", hf.weights(config), hf.param_shapes(config)
    )
    ours = merge(params, lora, LoraConfig(**settings))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)
    assert not np.allclose(params["embed"], 0)


def test_save_adapter_of_a_vision_language_model(tmp_path):
    base = tiny_gemma3_vlm(0)
    base.save_pretrained(tmp_path / "base")
    tokenizer = tiny_tokenizer()
    base.resize_token_embeddings(len(tokenizer))
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    lm = LanguageModel.from_pretrained(tmp_path / "base", dtype="float32")
    lora_config = LoraConfig(r=2, lora_alpha=6.0, target_modules=("q_proj", "up_proj"))
    lora = own_matrices(init_lora(lm.params, lora_config, jax.random.key(0)))
    lm.with_lora(lora, lora_config).save_pretrained(tmp_path / "adapter", merge_adapter=False)
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32),
        tmp_path / "adapter",
    )
    assert not any("lora" in n and "vision" in n for n, _ in adapted.named_parameters())
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    _, expected = folder_module.load(hf, tmp_path / "merged")
    ours = merge(lm.params, lora, lora_config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)
    assert not np.allclose(
        ours["layers"]["attention"]["q_proj"]["kernel"],
        lm.params["layers"]["attention"]["q_proj"]["kernel"],
    )


def test_read_adapter_of_the_vision_tower(tmp_path):
    base = tiny_gemma3_vlm(0)
    base.save_pretrained(tmp_path / "base")
    random_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    config = folder_module.read_config(hf, tmp_path / "base")
    with pytest.raises(BadInput, match="vision_tower.* fits no layer"):
        peft.read_adapter(tmp_path / "adapter", hf.weights(config), hf.param_shapes(config))
