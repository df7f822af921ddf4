"""Adapters of consecutive trainings, joined into one."""

import dataclasses
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from pav_jax.errors import BadInput
from pav_jax.language.adapters import is_portable, joined_adapter, write_joined
from pav_jax.language.chat import user_chat
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import LoraConfig, init_lora
from pav_jax.language.model_files import adapter_sampling
from pav_jax.main import main
from tests.tiny.byte_language_model import TEMPLATE, tiny_language_model

IDS = np.random.default_rng(0).integers(0, 200, (2, 12))


def train(lm: LanguageModel, config: LoraConfig, folder, seed: int) -> LanguageModel:
    """Write adapter and booster to `folder`, as training does; return the booster."""
    lora = init_lora(lm.params, config, jax.random.key(seed))
    lora = jax.tree.map(lambda x: 0.2 * jax.random.normal(jax.random.key(seed), x.shape), lora)
    adapted = lm.with_lora(lora, config)
    adapted.save_pretrained(folder / "adapter", merge_adapter=False)
    adapted.save_pretrained(folder / "booster")
    return LanguageModel.from_pretrained(folder / "booster", dtype="float32")


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """(work directory with a base, sft and round_1, the last model)."""
    work = tmp_path_factory.mktemp("chain")
    tiny_language_model().save_pretrained(work / "base")
    base = LanguageModel.from_pretrained(work / "base", dtype="float32")
    base = dataclasses.replace(base, generation={"max_new_tokens": 12})
    first = train(
        base, LoraConfig(r=2, lora_alpha=8.0, target_modules=("q_proj", "v_proj")), work / "sft", 1
    )
    return work, train(
        first,
        LoraConfig(r=3, lora_alpha=3.0, target_modules=("k_proj", "q_proj", "down_proj")),
        work / "round_1",
        2,
    )


def test_joined_adapter_in_peft_matches_last_booster(chain, tmp_path, capsys):
    work, last = chain
    options = [f"--from={work}/round_1/booster", f"--out={tmp_path}/adapter"]
    assert main(["export", "--to=peft", *options]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert str(work / "base") in note
    assert "--base-model=owner/name" in note
    base = AutoModelForCausalLM.from_pretrained(work / "base", torch_dtype=torch.float32)
    with torch.no_grad():
        theirs = (
            PeftModel.from_pretrained(base, tmp_path / "adapter")
            .eval()(torch.from_numpy(IDS))
            .logits.numpy()
        )
    ours = np.asarray(last.logits(IDS))
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


def test_export_adapter_for_other_machines(chain, tmp_path, capsys):
    work, last = chain
    options = ["--to=peft", f"--from={work}/round_1/booster", f"--out={tmp_path}/adapter"]
    assert main(["export", *options, "--base-model=owner/name"]) == 0
    assert not capsys.readouterr().err
    fields = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert '"owner/name"' in fields
    for file in (tmp_path / "adapter").glob("*.json"):
        assert str(work) not in file.read_text()
    assert "base_model: owner/name" in (tmp_path / "adapter" / "README.md").read_text()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    messages = user_chat("two dogs")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == last.prompt_ids("two dogs")


@pytest.mark.parametrize("base", ["owner/name", "gs://bucket/base", "gpt2"])
def test_is_portable_public_names(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_portable(base)
    assert not is_portable(str(tmp_path / base))
    if "gs" not in base:
        (tmp_path / base).mkdir(parents=True)
        assert not is_portable(base)


@pytest.mark.parametrize("base", ["smollm2", "owner/model.gguf", "/models/x"])
def test_is_portable_names_of_this_library_and_machine(base):
    assert not is_portable(base)


@pytest.mark.parametrize(
    "options", [["--to=hf", "--base-model=a/b"], ["--to=peft", "--base-model="]]
)
def test_export_base_model_of_another_format(options, tmp_path, capsys):
    assert main(["export", "--from=m", f"--out={tmp_path}/x", *options]) == 2
    assert "--base-model" in capsys.readouterr().err


def test_write_joined_round_trip(chain, tmp_path):
    work, last = chain
    joined = joined_adapter(work / "round_1" / "booster")
    assert joined.base == str((work / "base").resolve())
    assert joined.lora_config.r == 5
    write_joined(tmp_path, joined)
    assert adapter_sampling(tmp_path) == {"max_new_tokens": 12}
    ours = LanguageModel.from_pretrained(work / "base", dtype="float32", adapter=tmp_path)
    expected = np.asarray(last.logits(IDS))
    np.testing.assert_allclose(ours.logits(IDS), expected, atol=1e-4 * np.abs(expected).max())


def test_export_merged_keeps_what_the_adapter_knows(chain, tmp_path):
    """The chat template, which has the instruction, and the sampling are those of the adapter."""
    work, _ = chain
    adapter = shutil.copytree(work / "sft" / "adapter", tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("Film: " + TEMPLATE)
    sampling = {"max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9}
    (adapter / "generation_config.json").write_text(json.dumps(sampling))
    options = [f"--from={work}/base", f"--adapter={adapter}", f"--out={tmp_path}/merged"]
    assert main(["export", *options]) == 0
    merged = LanguageModel.from_pretrained(tmp_path / "merged")
    assert "Film: " in merged.tokenizer.decode(merged.prompt_ids("two dogs"))
    assert adapter_sampling(tmp_path / "merged") == sampling


def test_write_joined_bfloat16(chain, tmp_path):
    """Half the size, rounded once, and read as it was written."""
    work, _ = chain
    joined = joined_adapter(work / "round_1" / "booster")
    read = {}
    for dtype in ("float32", "bfloat16"):
        write_joined(tmp_path / dtype, joined, dtype)
        lm = LanguageModel.from_pretrained(work / "base", "float32", adapter=tmp_path / dtype)
        read[dtype] = jax.tree.map(np.asarray, lm.lora)
        assert np.isfinite(lm.logits(IDS)).all()
    rounded = jax.tree.map(
        lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), read["float32"]
    )
    jax.tree.map(np.testing.assert_array_equal, read["bfloat16"], rounded)
    sizes = [
        (tmp_path / dtype / "adapter_model.safetensors").stat().st_size
        for dtype in ("float32", "bfloat16")
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_joined_adapter_without_adapter(chain, tmp_path, capsys):
    work, _ = chain
    with pytest.raises(BadInput) as error:
        joined_adapter(work / "base")
    assert error.value.source == str(work / "base")
    assert main(["export", f"--from={work}/base", "--to=peft", f"--out={tmp_path}/x"]) == 2
    assert "--to=hf" in capsys.readouterr().err
