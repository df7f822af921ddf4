"""Decoder checkpoints that are wrapped, tied in two ways, or wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from pav_jax.checkpoints.folder import load, save
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.models.decoder import Decoder, hf
from tests.tiny.byte_language_model import tiny_language_model
from tests.tiny.decoders import FAMILIES, random_config, tiny_gemma3_vlm, torch_model

IDS = np.random.default_rng(0).integers(3, 60, (2, 24))
WEIGHTS = "model.safetensors"


def change_tensors(folder, change):
    """Rewrite the file of weights; `change` edits a dict of tensors."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def assert_logits_equal(folder, theirs):
    """What we load from `folder` computes what `theirs` does, also saved and loaded again."""
    config, params = load(hf, folder)
    ours = Decoder(config).apply({"params": params}, jnp.asarray(IDS))
    with torch.no_grad():
        want = theirs.eval()(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(ours, want, atol=1e-4 * np.abs(want).max())
    save(hf, folder / "saved", config, params)
    back = AutoModelForCausalLM.from_pretrained(folder / "saved", dtype=torch.float32)
    with torch.no_grad():
        again = back(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(again, want, atol=1e-5 * np.abs(want).max())
    return config


@pytest.mark.parametrize("is_equal", [True, False])
def test_load_tied_configuration_with_a_head(is_equal, tmp_path):
    torch_model("qwen2", 1).save_pretrained(tmp_path)
    change_config(tmp_path, tie_word_embeddings=True)

    def add_head(tensors):
        head = tensors["model.embed_tokens.weight"].copy()
        noise = np.random.default_rng(0).standard_normal(head.shape)
        tensors["lm_head.weight"] = (head + (0 if is_equal else 0.1 * noise)).astype(np.float32)

    change_tensors(tmp_path, add_head)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    config = assert_logits_equal(tmp_path, theirs)
    assert config.tie_word_embeddings == is_equal


def as_saved(name):
    return name


def older_names(name):
    """Names of transformers 4's files."""
    return name.replace("model.language_model.", "language_model.model.")


def plain_names(name):
    return name.replace("model.language_model.", "model.")


@pytest.mark.parametrize("rename", [as_saved, older_names, plain_names])
def test_load_decoder_of_a_vision_language_model(rename, tmp_path):
    theirs = tiny_gemma3_vlm(0)
    theirs.save_pretrained(tmp_path)
    # transformers 5 saves under the names of version 4
    names = load_file(tmp_path / WEIGHTS)
    wrapped = {
        name: name.replace("language_model.model.", "model.language_model.") for name in names
    }

    def change(tensors):
        for name in list(tensors):
            tensors[rename(wrapped[name])] = tensors.pop(name)

    change_tensors(tmp_path, change)
    prefixes = {name.split("layers.0.")[0] for name in load_file(tmp_path / WEIGHTS)}
    expected = {as_saved: "model.language_model.", older_names: "language_model.model."}
    assert expected.get(rename, "model.") in prefixes
    config = assert_logits_equal(tmp_path, theirs)
    assert config.model_type == "gemma3_text"


# --------------------------------------------------------------------------------- bad checkpoints


def refused(folder):
    """The one line about a checkpoint that cannot be loaded."""
    with pytest.raises(BadInput) as error:
        load(hf, folder)
    assert "\n" not in str(error.value)
    assert str(error.value.source).startswith(str(folder))
    assert str(error.value).startswith(str(folder))
    return error.value


@pytest.fixture(params=FAMILIES)
def checkpoint(request, tmp_path):
    """A checkpoint of each family, of zeros."""
    config = hf.config_from_hf(random_config(request.param, 0).to_dict())
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f"), hf.param_shapes(config))
    save(hf, tmp_path, config, params)
    return tmp_path


def layer_tensor(folder):
    """The name of a matrix in the last layer."""
    names = load_file(folder / WEIGHTS)
    return max(name for name in names if "layers." in name and "self_attn" in name)


def test_load_missing_tensor(checkpoint):
    name = layer_tensor(checkpoint)
    change_tensors(checkpoint, lambda tensors: tensors.pop(name))
    error = refused(checkpoint)
    assert error.field == name
    assert "missing" in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.extra.bias",
        "model.layers.7.input_layernorm.weight",
        "model.norm.bias",
        "lm_head.bias",
    ],
)
def test_load_extra_tensor(checkpoint, name):
    change_tensors(checkpoint, lambda tensors: tensors.update({name: np.ones(3, "f")}))
    error = refused(checkpoint)
    assert error.field == name
    assert "config.json that belongs to the weights" in str(error)


def test_load_extra_tensor_that_does_not_matter(checkpoint):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(checkpoint, lambda tensors: tensors.update({name: np.ones(3, "f")}))
    load(hf, checkpoint)


def test_load_wrong_shape(checkpoint):
    name = layer_tensor(checkpoint)
    change_tensors(checkpoint, lambda tensors: tensors.update({name: np.zeros((3, 2), "f")}))
    error = refused(checkpoint)
    assert error.field == name
    assert "[3, 2]" in str(error)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "qwen3_5", "mixtral", "", ["llama"]])
def test_load_unsupported_model_type(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    error = refused(tmp_path)
    assert error.field == "model_type"
    assert all(name in str(error) for name in (*FAMILIES, "gemma3", "kind=chat"))


@pytest.mark.parametrize(
    ("family", "fields", "field"),
    [
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "rope_type"),
        ("qwen2", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type"),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "rope_type"),
        ("phi3", {"rope_scaling": {"type": "su"}}, "rope_type"),
        ("phi3", {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma3_text", {"layer_types": ["linear_attention"] * 2}, "layer_types"),
        ("qwen2", {"use_sliding_window": True, "layer_types": []}, "layer_types"),
        ("qwen3", {"use_sliding_window": True, "layer_types": "full_attention"}, "layer_types"),
        ("smollm3", {"layer_types": ["full_attention"] * 9}, "layer_types"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers"),
        ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("qwen3_moe", {"num_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok"),
        ("qwen3_moe", {"num_experts_per_tok": 0}, "num_experts_per_tok"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("qwen3", {"num_key_value_heads": 3, "num_attention_heads": 4}, "num_key_value_heads"),
    ],
)
def test_load_unsupported_field(family, fields, field, tmp_path):
    config = random_config(family, 0).to_dict() | {"rope_parameters": None}
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    assert refused(tmp_path).field == field


def test_from_pretrained_tokenizer_larger_than_the_model(tmp_path):
    lm = tiny_language_model()
    lm.save_pretrained(tmp_path)
    lm.tokenizer.add_tokens(["one more"])
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"tokenizer has 261 tokens, the model 260; use") as error:
        LanguageModel.from_pretrained(tmp_path)
    assert error.value.source == str(tmp_path)
