"""GGUF files of every architecture: written, read back, and read by transformers."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pav_jax.checkpoints import gguf, gguf_layout
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.models.decoder import DecoderConfig, hf
from pav_jax.models.decoder.config import LayerKind
from pav_jax.models.decoder.rotary import Llama3Scaling, Rope, YarnScaling
from tests.tiny.byte_language_model import tiny_language_model, tiny_tokenizer
from tests.tiny.decoders import random_config, torch_model

FAMILIES = tuple(each.model_type for each in gguf_layout.ARCHITECTURES.values())
ROWS = 270  # more embeddings than tokens
IDS = np.random.default_rng(0).integers(0, 250, (2, 40))


def fields_for_gguf(family: str, seed: int) -> dict:
    """Changes of a random configuration to one that GGUF files of its architecture can say."""
    config = random_config(family, seed)
    fields: dict = {"vocab_size": ROWS, "eos_token_id": 257, "pad_token_id": 256}
    fields["bos_token_id"] = None
    types = ["full_attention"] * config.num_hidden_layers
    if family == "gemma3_text":
        types = ["sliding_attention", "full_attention", "sliding_attention"]
        fields |= dict(layer_types=types[: config.num_hidden_layers])
        fields["query_pre_attn_scalar"] = config.head_dim
    elif family != "llama":
        fields |= dict(use_sliding_window=False, sliding_window=None, layer_types=types)
        if config.rope_parameters["rope_type"] == "llama3":  # llama.cpp reads it for llama only
            fields["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}
    if family == "qwen3":
        fields["attention_bias"] = False
    return fields


def language_model(family: str, seed: int, folder, **changes) -> LanguageModel:
    model = torch_model(family, seed, **{**fields_for_gguf(family, seed), **changes})
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return LanguageModel.from_pretrained(folder, dtype="float32")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_write_gguf_round_trip_of_family(family, seed, tmp_path):
    lm = language_model(family, seed, tmp_path / "folder")
    lm.save_gguf(tmp_path / "m.gguf", "f32")
    back = LanguageModel.from_pretrained(tmp_path / "m.gguf", dtype="float32")
    # of training; a float32 in the file; compared one by one
    skipped = {"initializer_range": 0.02, "rms_norm_eps": 0.0, "layer_kinds": ()}
    expected = dataclasses.replace(lm.config, **skipped)
    assert dataclasses.replace(back.config, **skipped) == expected
    assert back.config.rms_norm_eps == pytest.approx(lm.config.rms_norm_eps)
    for layer in range(lm.config.num_hidden_layers):
        assert back.config.kind(layer) == lm.config.kind(layer)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back.params, lm.params)
    assert back.prompt_ids("a dog") == lm.prompt_ids("a dog")
    assert back.eos == lm.eos


# sizes that transformers' reader of GGUF files takes for granted
ASSUMED = {
    "llama": {"head_dim": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
    "gemma3_text": {
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "num_hidden_layers": 7,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_write_gguf_of_family_loads_in_transformers(family, tmp_path):
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    biases = {"attention_bias": False, "mlp_bias": False} if family == "llama" else {}
    lm = language_model(family, 0, tmp_path / "folder", **{**plain, **biases, **ASSUMED[family]})
    lm.save_gguf(tmp_path / "m.gguf", "f32")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        logits = theirs(torch.from_numpy(IDS)).logits.numpy()
    back = LanguageModel.from_pretrained(tmp_path / "m.gguf", dtype="float32")
    np.testing.assert_allclose(back.logits(IDS), logits, atol=1e-4 * np.abs(logits).max())


def plain_config(family: str) -> DecoderConfig:
    rope = {"rope_type": "default", "rope_theta": 1e4}
    fields = {**random_config(family, 0).to_dict(), **fields_for_gguf(family, 0)}
    if family != "gemma3_text":
        fields["rope_parameters"] = rope
    return hf.config_from_hf(fields)


YARN = Rope(1e4, YarnScaling(4.0, 32, beta_fast=16.0))
LLAMA3 = Rope(1e4, Llama3Scaling(8.0, 1.0, 4.0, 64))


@pytest.mark.parametrize(
    "family, changes, field",
    [
        ("llama", {"model_type": "smollm3"}, "model_type"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"rope": YARN}, "rope_scaling"),
        ("qwen2", {"out_bias": True}, "out_bias"),
        ("qwen2", {"layer_kinds": (LayerKind(8), LayerKind())}, "sliding_window"),
        ("qwen3", {"qkv_bias": True}, "qkv_bias"),
        ("qwen3", {"rope": LLAMA3}, "rope_scaling"),
        ("gemma3_text", {"attention_scale": 0.9}, "query_pre_attn_scalar"),
        ("gemma3_text", {"layer_kinds": (LayerKind(), LayerKind(8))}, "layer_types"),
        ("gemma3_text", {"layer_kinds": (LayerKind(8, YARN), LayerKind())}, "rope_scaling"),
    ],
)
def test_architecture_of_model_that_llama_cpp_computes_otherwise(family, changes, field):
    config = plain_config(family)
    assert gguf_layout.architecture_of(config, "m").model_type == family
    with pytest.raises(BadInput) as error:
        gguf_layout.architecture_of(dataclasses.replace(config, **changes), "m")
    assert error.value.field == field


def test_read_gguf_tensor_of_another_model(tmp_path, monkeypatch):
    name = "blk.0.attn_q_norm.weight"
    own = gguf_layout.Architecture.gguf_name
    monkeypatch.setattr(
        gguf_layout.Architecture,
        "gguf_name",
        lambda self, hf_name: name if hf_name == "model.norm.weight" else own(self, hf_name),
    )
    tiny_language_model().save_gguf(tmp_path / "m.gguf", "f32")
    with pytest.raises(BadInput) as error:
        LanguageModel.from_pretrained(tmp_path / "m.gguf", dtype="float32")
    assert error.value.field == name


def test_read_gguf_unknown_rope_factors(tmp_path, monkeypatch):
    factors = np.asarray([1.0, 2.0, 3.0, 8.0], np.float32)
    monkeypatch.setattr(gguf_layout, "rope_factors", lambda config: factors)
    tiny_language_model().save_gguf(tmp_path / "m.gguf", "f32")
    with pytest.raises(BadInput) as error:
        LanguageModel.from_pretrained(tmp_path / "m.gguf", dtype="float32")
    assert error.value.field == gguf_layout.ROPE_FACTORS
    assert gguf.GGUFFile(tmp_path / "m.gguf", header_only=True).config().head_dim == 8
