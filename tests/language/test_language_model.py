"""Loading and saving language models."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import LoraConfig, init_lora

IDS = np.asarray([[5, 9, 200, 31, 7], [1, 2, 3, 4, 5]])


@pytest.fixture(scope="module")
def folder(lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "tiny"
    lm.save_pretrained(path, max_shard_size="30KB")
    return path


def with_adapter(lm):
    config = LoraConfig(r=2, lora_alpha=8.0, target_modules=("q_proj", "gate_proj"))
    lora = jax.tree.map(lambda a: a + 0.1, init_lora(lm.params, config, jax.random.key(3)))
    return lm.with_lora(lora, config)


def test_save_pretrained_loads_in_transformers(lm, folder):
    assert len(list(folder.glob("*.safetensors"))) > 1
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(lm.logits(IDS), expected, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "a dog 🐕"}]
    expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert lm.prompt_ids("a dog 🐕") == expected
    assert theirs.generation_config.eos_token_id == lm.eos[0]


def test_save_pretrained_round_trip(lm, folder):
    back = LanguageModel.from_pretrained(folder, dtype="float32", batch_size=lm.batch_size)
    jax.tree.map(np.testing.assert_array_equal, back.params, lm.params)
    assert back.eos == lm.eos
    assert back.config == lm.config
    assert back.name.endswith("tiny")
    assert back.generate(["a dog"], max_new_tokens=8) == lm.generate(["a dog"], max_new_tokens=8)


def test_logits_ignore_padding(lm):
    alone = lm.logits(IDS[:1])
    mask = np.asarray([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]])
    padded = np.zeros((2, 7), int)
    padded[mask == 1] = np.tile(IDS[0], 2)
    logits = np.asarray(lm.logits(padded, mask))
    np.testing.assert_allclose(logits[0, 2:], alone[0], atol=1e-5)
    np.testing.assert_allclose(logits[1, :5], alone[0], atol=1e-5)


def test_save_pretrained_adapter_merged_or_for_peft(lm, tmp_path):
    from peft import PeftModel

    tuned = with_adapter(lm)
    expected = np.asarray(tuned.logits(IDS))
    assert np.abs(expected - lm.logits(IDS)).max() > 0.1
    tuned.save_pretrained(tmp_path / "merged")
    tuned.save_pretrained(tmp_path / "adapter", merge_adapter=False)
    lm.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        np.testing.assert_allclose(
            merged(torch.from_numpy(IDS)).logits.numpy(), expected, atol=2e-4
        )
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        peft_model = PeftModel.from_pretrained(base, tmp_path / "adapter")
        np.testing.assert_allclose(
            peft_model(torch.from_numpy(IDS)).logits.numpy(), expected, atol=2e-4
        )
    ours = LanguageModel.from_pretrained(
        tmp_path / "base", dtype="float32", adapter=tmp_path / "adapter"
    )
    np.testing.assert_allclose(ours.logits(IDS), expected, atol=1e-5)


def test_from_pretrained_bfloat16(lm, folder):
    bfloat16 = LanguageModel.from_pretrained(folder, dtype="bfloat16")
    assert (
        bfloat16.params["embed"].dtype == jnp.bfloat16 and bfloat16.logits(IDS).dtype == jnp.float32
    )
    expected = np.asarray(lm.logits(IDS))
    assert np.abs(bfloat16.logits(IDS) - expected).max() < 0.05 * np.abs(expected).max()


def test_from_pretrained_experts_on_dense_model(folder, monkeypatch):
    """Refused before the weights are read."""
    from jax.sharding import AbstractMesh

    from pav_jax.parallel.mesh import AXES

    monkeypatch.setattr("pav_jax.checkpoints.folder.load", None)
    mesh = AbstractMesh((1, 1, 1, 1, 2), AXES)
    with pytest.raises(BadInput, match="mesh.expert=2: the model has no experts; set it to 1"):
        LanguageModel.from_pretrained(folder, mesh=mesh)


def test_generate_on_mesh(lm, folder):
    from pav_jax.parallel.mesh import make_mesh

    meshed = LanguageModel.from_pretrained(
        folder, dtype="float32", mesh=make_mesh(), batch_size=lm.batch_size
    )
    expected = lm.generate(["a dog", "rain"], max_new_tokens=8)
    assert meshed.generate(["a dog", "rain"], max_new_tokens=8) == expected


def test_from_pretrained_missing_or_broken_files(folder, tmp_path):
    cases = {
        "config.json": "config.json",
        "tokenizer.json": "tokenizer.json",
        "model-00001-of-00003.safetensors": "model-00001",
    }
    for i, (file, word) in enumerate(cases.items()):
        broken = tmp_path / str(i)
        broken.mkdir()
        for source in folder.iterdir():
            (broken / source.name).write_bytes(source.read_bytes())
        if not (broken / file).exists():
            file = sorted(broken.glob("model-00001*"))[0].name
        data = (broken / file).read_bytes()
        (broken / file).write_bytes(data[: len(data) // 2])
        with pytest.raises(BadInput, match=word):
            LanguageModel.from_pretrained(broken)
        (broken / file).unlink()
        with pytest.raises(BadInput, match=word):
            LanguageModel.from_pretrained(broken)


def test_from_pretrained_tokenizer_larger_than_model(lm, folder, tmp_path):
    for source in folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(
        {**tokenizer["added_tokens"][0], "id": lm.config.vocab_size, "content": "<more>"}
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadInput, match="tokenizer"):
        LanguageModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nothing", "some-name", "missing.gguf"])
def test_from_pretrained_missing_path(path):
    with pytest.raises(BadInput, match=path):
        LanguageModel.from_pretrained(path)


def test_wrong_arguments(lm, folder):
    for field, call in (
        ("dtype", lambda: LanguageModel.from_pretrained(folder, dtype="float16")),
        ("batch_size", lambda: LanguageModel.from_pretrained(folder, batch_size=0)),
        ("seed", lambda: lm.generate(["a", "b"], seed=[1])),
        ("num_return_sequences", lambda: lm.generate(["a"], num_return_sequences=0)),
    ):
        with pytest.raises(BadInput) as error:
            call()
        assert error.value.field == field


def test_hash_by_identity(lm):
    assert lm != dataclasses.replace(lm)
    assert hash(lm)
