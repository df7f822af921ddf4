"""Written GGUF files, read back here and by transformers."""

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pav_jax.checkpoints import gguf_writer
from pav_jax.commands import export
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.main import main
from pav_jax.mini.tokenizers import rewriter_tokenizer
from tests.tiny.byte_language_model import tiny_language_model

IDS = np.random.default_rng(0).integers(0, 200, (2, 12))


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words)


@pytest.fixture(scope="module")
def lm():
    return dataclasses.replace(tiny_language_model(seed=3, tie_word_embeddings=False), name="tiny")


@pytest.mark.parametrize(
    "quantization, tolerance", [("f32", 1e-5), ("f16", 1e-2), ("bf16", 5e-2), ("q8_0", 0.15)]
)
def test_write_gguf_round_trip(lm, quantization, tolerance, tmp_path):
    lm.save_gguf(tmp_path / "m.gguf", quantization)
    back = LanguageModel.from_pretrained(tmp_path / "m.gguf", dtype="float32")
    expected = np.asarray(lm.logits(IDS))
    np.testing.assert_allclose(back.logits(IDS), expected, atol=tolerance * np.abs(expected).max())
    assert back.prompt_ids("a dog") == lm.prompt_ids("a dog")
    assert back.eos == lm.eos
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_write_gguf_loads_in_transformers(lm, tmp_path):
    lm.save_pretrained(tmp_path / "folder")
    options = [f"--from={tmp_path}/folder", "--quantization=f32", f"--out={tmp_path}/m.gguf"]
    assert main(["export", "--to=gguf", *options]) == 0
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        logits = theirs(torch.from_numpy(IDS)).logits.numpy()
    expected = np.asarray(lm.logits(IDS))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_write_gguf_unsupported_model_leaves_no_file(lm, tmp_path):
    for changes, quantization, field in (
        ({}, "q2_k", "quantization"),
        ({"tokenizer": rewriter_tokenizer()}, "f32", "tokenizer"),  # normalizes
        ({"tokenizer": word_tokenizer()}, "f32", "tokenizer"),  # not byte-level BPE
    ):
        with pytest.raises(BadInput) as error:
            dataclasses.replace(lm, **changes).save_gguf(tmp_path / "n.gguf", quantization)
        assert error.value.field == field
    assert not list(tmp_path.iterdir())


def test_export_command_quantizations():
    assert export.QUANTIZATIONS == gguf_writer.QUANTIZATIONS
