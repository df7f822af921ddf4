"""GGUF files that we write: read back here and by transformers, and what is refused."""

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
from pav_jax.models.llama.model import RopeScaling
from tests.language.conftest import tiny_language_model

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
def test_the_same_model_comes_back(lm, quantization, tolerance, tmp_path):
    lm.save_gguf(tmp_path / "m.gguf", quantization)
    back = LanguageModel.from_pretrained(tmp_path / "m.gguf", dtype="float32")
    want = np.asarray(lm.logits(IDS))
    np.testing.assert_allclose(back.logits(IDS), want, atol=tolerance * np.abs(want).max())
    assert back.prompt_ids("a dog") == lm.prompt_ids("a dog") and back.eos == lm.eos
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_transformers_reads_the_same_model(lm, tmp_path):
    lm.save_pretrained(tmp_path / "folder")
    assert (
        main(
            [
                "export",
                f"--from={tmp_path}/folder",
                "--to=gguf",
                "--quantization=f32",
                f"--out={tmp_path}/m.gguf",
            ]
        )
        == 0
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        got = theirs(torch.from_numpy(IDS)).logits.numpy()
    want = np.asarray(lm.logits(IDS))
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_what_gguf_does_not_hold_is_refused_and_nothing_is_left(lm, tmp_path):
    for changed, quantization, message in (
        (lm, "q2_k", "none of"),
        (
            dataclasses.replace(
                lm,
                config=dataclasses.replace(lm.config, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64)),
            ),
            "f32",
            "rope_scaling",
        ),
        (dataclasses.replace(lm, tokenizer=rewriter_tokenizer()), "f32", "changes a text"),
        (dataclasses.replace(lm, tokenizer=word_tokenizer()), "f32", "byte-level BPE only"),
    ):
        with pytest.raises(BadInput, match=message):
            changed.save_gguf(tmp_path / "n.gguf", quantization)
    assert not list(tmp_path.iterdir())


def test_the_command_offers_what_the_writer_writes():
    assert export.QUANTIZATIONS == gguf_writer.QUANTIZATIONS
