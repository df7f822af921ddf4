"""Tokenizers of exported folders, in the form that transformers 4.57 and 5 read."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pav_jax.checkpoints.tokenizers import make_portable, save_tokenizer
from pav_jax.language.language_model import LanguageModel
from tests.checkpoints.test_gguf_tokenizers import TEXTS
from tests.tiny.byte_language_model import TEMPLATE
from tests.tiny.decoders import torch_model

VERSION_4 = "transformers==4.57.1"
FAMILIES = ("llama", "qwen3", "gemma3_text")
# runs under transformers 4: the folder's tokens and logits, as JSON
SCRIPT = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
texts = json.load(open(sys.argv[1]))
for folder in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(texts)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids[-1]])).logits[0].tolist()
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a dog"}], tokenize=False)
    json.dump([ids, logits, chat], open(folder + "/answer.json", "w"))
"""


def tokenizer_of(prefix_space: bool, nested: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which a space in front of a text changes its tokens."""
    alphabet = sorted(pre.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    bytes_ = pre.ByteLevel(add_prefix_space=prefix_space)
    bpe.pre_tokenizer = pre.Sequence([pre.Digits(), bytes_]) if nested else bytes_
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|end|>",
        extra_special_tokens=["<|user|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("prefix_space", [False, True])
def test_save_tokenizer_portable(prefix_space, nested, tmp_path):
    tokenizer = tokenizer_of(prefix_space, nested)
    tokenizer.save_pretrained(tmp_path / "first")
    again = AutoTokenizer.from_pretrained(tmp_path / "first")
    save_tokenizer(again, tmp_path / "second")
    settings = json.loads((tmp_path / "second" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings.get("add_prefix_space", False) == prefix_space
    assert settings["additional_special_tokens"] == ["<|user|>"]
    foreign = {"backend", "is_local", "local_files_only", "extra_special_tokens"}
    assert not foreign & settings.keys()
    back = AutoTokenizer.from_pretrained(tmp_path / "second")
    assert back(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert "<|user|>" in back.all_special_tokens


def test_make_portable_without_tokenizer(tmp_path):
    make_portable(tmp_path)
    assert not list(tmp_path.iterdir())


def exported(family: str, folder: Path) -> LanguageModel:
    """A model of a family, saved by us after it was saved by transformers 5."""
    tokenizer = tokenizer_of(prefix_space=family == "llama")
    model = torch_model(family, 0, vocab_size=270, eos_token_id=256, pad_token_id=256)
    model.save_pretrained(folder / "first")
    tokenizer.save_pretrained(folder / "first")
    lm = LanguageModel.from_pretrained(folder / "first", dtype="float32")
    lm.save_pretrained(folder / "exported")
    return lm


@pytest.fixture(scope="module")
def version_4(tmp_path_factory):
    """A Python that imports transformers 4.57, and everything else as this one does."""
    folder = tmp_path_factory.mktemp("version_4")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", VERSION_4, "jinja2"]
    subprocess.run(pip, check=True, timeout=300)
    (site,) = folder.glob("lib/python*/site-packages")
    # searched after the environment's own packages: torch and its requirements are found there
    (site / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.mark.slow  # installs a second transformers
def test_exports_load_in_transformers_4(version_4, tmp_path):
    models_ = {family: exported(family, tmp_path / family) for family in FAMILIES}
    folders = [str(tmp_path / family / "exported") for family in FAMILIES]
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [version_4, "-c", SCRIPT, str(tmp_path / "texts.json"), *folders]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    for family, folder in zip(FAMILIES, folders, strict=True):
        ids, logits, chat = json.loads(Path(folder, "answer.json").read_text())
        lm = models_[family]
        assert ids == lm.tokenizer(TEXTS)["input_ids"]
        ours = lm.logits(np.asarray([ids[-1]]))[0]
        np.testing.assert_allclose(logits, ours, atol=1e-4 * np.abs(ours).max())
        assert chat == "<|user|>a dog<|end|>"
