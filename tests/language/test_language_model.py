"""Loading, saving and refusing language models."""

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


def adapted(lm):
    config = LoraConfig(r=2, lora_alpha=8.0, target_modules=("q_proj", "gate_proj"))
    lora = jax.tree.map(lambda a: a + 0.1, init_lora(lm.params, config, jax.random.key(3)))
    return lm.with_lora(lora, config)


def test_what_is_saved_loads_back_in_transformers_with_equal_logits_and_tokens(lm, folder):
    assert len(list(folder.glob("*.safetensors"))) > 1
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        want = theirs(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(lm.logits(IDS), want, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "a dog 🐕"}]
    want = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert lm.prompt_ids("a dog 🐕") == want
    assert theirs.generation_config.eos_token_id == lm.eos[0]


def test_what_is_saved_loads_back_here_the_same(lm, folder):
    back = LanguageModel.from_pretrained(folder, dtype="float32", batch_size=lm.batch_size)
    jax.tree.map(np.testing.assert_array_equal, back.params, lm.params)
    assert back.eos == lm.eos and back.config == lm.config and back.name.endswith("tiny")
    assert back.generate(["a dog"], max_new_tokens=8) == lm.generate(["a dog"], max_new_tokens=8)


def test_padding_on_either_side_leaves_the_logits_of_the_real_tokens(lm):
    alone = lm.logits(IDS[:1])
    mask = np.asarray([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]])
    padded = np.zeros((2, 7), int)
    padded[mask == 1] = np.tile(IDS[0], 2)
    got = np.asarray(lm.logits(padded, mask))
    np.testing.assert_allclose(got[0, 2:], alone[0], atol=1e-5)
    np.testing.assert_allclose(got[1, :5], alone[0], atol=1e-5)


def test_an_adapter_is_merged_when_saved_or_saved_alone_for_peft(lm, tmp_path):
    from peft import PeftModel

    tuned = adapted(lm)
    want = np.asarray(tuned.logits(IDS))
    assert np.abs(want - lm.logits(IDS)).max() > 0.1
    tuned.save_pretrained(tmp_path / "merged")
    tuned.save_pretrained(tmp_path / "adapter", merge_adapter=False)
    lm.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        np.testing.assert_allclose(merged(torch.from_numpy(IDS)).logits.numpy(), want, atol=2e-4)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        beside = PeftModel.from_pretrained(base, tmp_path / "adapter")
        np.testing.assert_allclose(beside(torch.from_numpy(IDS)).logits.numpy(), want, atol=2e-4)
    ours = LanguageModel.from_pretrained(
        tmp_path / "base", dtype="float32", adapter=tmp_path / "adapter"
    )
    np.testing.assert_allclose(ours.logits(IDS), want, atol=1e-5)


def test_bfloat16_is_close_to_float32(lm, folder):
    half = LanguageModel.from_pretrained(folder, dtype="bfloat16")
    assert half.params["embed"].dtype == jnp.bfloat16 and half.logits(IDS).dtype == jnp.float32
    want = np.asarray(lm.logits(IDS))
    assert np.abs(half.logits(IDS) - want).max() < 0.05 * np.abs(want).max()


def test_generation_over_a_mesh_gives_the_same_texts(lm, folder):
    from pav_jax.parallel.mesh import make_mesh

    meshed = LanguageModel.from_pretrained(
        folder, dtype="float32", mesh=make_mesh(), batch_size=lm.batch_size
    )
    want = lm.generate(["a dog", "rain"], max_new_tokens=8)
    assert meshed.generate(["a dog", "rain"], max_new_tokens=8) == want


def test_missing_and_broken_checkpoints_are_refused_with_the_file(folder, tmp_path):
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


def test_a_tokenizer_larger_than_the_model_is_refused(lm, folder, tmp_path):
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
def test_a_place_with_nothing_is_refused(path):
    with pytest.raises(BadInput, match=path):
        LanguageModel.from_pretrained(path)


def test_wrong_arguments_are_named(lm, folder):
    with pytest.raises(BadInput, match="dtype"):
        LanguageModel.from_pretrained(folder, dtype="float16")
    with pytest.raises(BadInput, match="seed"):
        lm.generate(["a", "b"], seed=[1])
    with pytest.raises(BadInput, match="num_return_sequences=0"):
        lm.generate(["a"], num_return_sequences=0)


def test_models_are_compared_by_identity_so_that_they_can_be_keys(lm):
    assert lm != dataclasses.replace(lm) and hash(lm)
