"""Several adapters in one batch: each row is as if its own were alone."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pav_jax.checkpoints.folder import load
from pav_jax.errors import BadInput
from pav_jax.language import chat, decode, prefill
from pav_jax.language.adapter_set import RANK_MULTIPLE
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import merge
from pav_jax.language.quantization import quantize
from pav_jax.language.sampling import Sampling
from pav_jax.language.scheduler import MIN_PREFIX
from pav_jax.models.decoder import Decoder, hf
from tests.language import adapter_folders
from tests.language.adapter_folders import CONFIGS, NAMES, WORDS
from tests.tiny import decoders
from tests.tiny.byte_language_model import tiny_language_model
from tests.tiny.language_model import FAMILIES

IDS = np.random.default_rng(0).integers(0, 200, (len(NAMES), 12))
PROGRAMS: tuple[Any, ...] = (
    decode.decode_rows,
    decode.empty_rows,
    decode.fill_rows,
    decode.take_layer,
    prefill.compute_prefix,
    prefill.compute_prompts,
)


def make(family, folder):
    """(model with all adapters, adapters)."""
    lm = adapter_folders.instructed(tiny_language_model(batch_size=3, **FAMILIES[family]))
    adapters = adapter_folders.write_adapters(lm, folder)
    return adapter_folders.load_adapters(lm, folder), adapters


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def llama(folder):
    return make("llama", folder)


def alone(lm, adapters, name):
    """The base model with one adapter merged into its weights."""
    return lm if name == "__base__" else lm.with_params(merge(lm.params, *adapters[name]))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_generate_ids_with_adapters_equals_each_alone(family, llama, tmp_path):
    lm, adapters = llama if family == "llama" else make(family, tmp_path)
    prompts = [lm.prompt_ids(words) for words in WORDS]
    for temperature in (0.0, 1.0):
        settings = Sampling(max_new_tokens=24, temperature=temperature)
        together = lm.generate_ids(prompts, settings, 2, range(7), NAMES)
        num_distinct = len({tuple(answer) for (answer, _) in together})
        # a tiny Gemma repeats one token if it is greedy
        assert num_distinct == 7 or (temperature == 0.0 and num_distinct > 1)
        for name in ("__base__", *CONFIGS):
            rows = [i for i in range(7) if NAMES[i] == name]
            expected = alone(lm, adapters, name).generate_ids(
                [prompts[i] for i in rows], settings, 2, rows
            )
            assert [together[i] for i in rows] == expected


@pytest.mark.slow
def test_generate_ids_runs_the_instruction_once_for_each_adapter(llama, monkeypatch):
    lm, _ = llama
    prompts = [lm.prompt_ids(words) for words in WORDS]
    instruction = chat.prefix(lm.tokenizer)
    assert len(instruction) > MIN_PREFIX
    settings = Sampling(max_new_tokens=24)
    together = lm.generate_ids(prompts, settings, 2, range(7), NAMES)
    runs = {"compute_prefix": [], "compute_prompts": []}
    for name, calls in runs.items():
        program = getattr(prefill, name)
        monkeypatch.setattr(
            prefill,
            name,
            lambda *a, program=program, calls=calls: calls.append(a[-1]) or program(*a),
        )
    for rows in ([2], [1], range(7)):
        for calls in runs.values():
            calls.clear()
        unused = dataclasses.replace(lm)  # has no instruction of earlier calls
        answers = unused.generate_ids(
            [prompts[i] for i in rows], settings, 2, list(rows), [NAMES[i] for i in rows]
        )
        assert answers == [together[i] for i in rows]
        num_adapters = len({NAMES[i] for i in rows})
        assert [a.shape for a in runs["compute_prefix"]] == [(1, len(instruction))] * num_adapters
        lengths = np.concatenate(runs["compute_prompts"])
        assert lengths[lengths > 0].tolist() == [len(prompts[i]) - len(instruction) for i in rows]


def test_logits_with_adapters_equal_each_alone(llama):
    lm, adapters = llama
    logits = lm.logits(IDS, adapter_names=NAMES)
    np.testing.assert_array_equal(lm.logits(IDS), lm.delete_adapter("wan").logits(IDS))
    for i, name in enumerate(NAMES):
        single = lm if name == "__base__" else lm.with_lora(*adapters[name])
        expected = single.logits(IDS[i : i + 1])[0]
        np.testing.assert_allclose(logits[i], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_generate_with_one_name_for_all_prompts(llama):
    lm, _ = llama
    texts = lm.generate(WORDS[:2], max_new_tokens=5, temperature=0.0, adapter_names="wan")
    assert texts == lm.generate(
        WORDS[:2], max_new_tokens=5, temperature=0.0, adapter_names=["wan", "wan"]
    )
    assert texts != lm.generate(WORDS[:2], max_new_tokens=5, temperature=0.0)


def test_logits_with_adapters_match_peft(tmp_path):
    theirs = decoders.torch_model("qwen3", 0)
    theirs.save_pretrained(tmp_path / "base")
    config, params = load(hf, tmp_path / "base", jnp.float32)
    model = None
    lm = LanguageModel(Decoder(config), params, config, tokenizer=None)
    names = ["first", "second"]
    for i, name in enumerate(names):
        settings = peft.LoraConfig(
            r=2 + 3 * i,
            lora_alpha=5,
            use_rslora=bool(i),
            target_modules=[["q_proj", "o_proj"], ["up_proj", "q_proj"]][i],
            init_lora_weights=False,
        )
        if model is None:
            model = peft.get_peft_model(theirs, settings, name)
        else:
            model.add_adapter(name, settings)
    assert model is not None
    model.save_pretrained(tmp_path)
    for name in names:
        lm = lm.load_adapter(tmp_path / name, name)
    rows = ["second", "__base__", "first", "second"]
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (4, 9))
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(ids), adapter_names=rows).logits.numpy()
    logits = np.asarray(lm.logits(ids, adapter_names=rows))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_load_adapter_shares_base_and_compiles_nothing_again(llama, folder, tmp_path):
    lm, _ = llama
    prompts = [lm.prompt_ids(words) for words in WORDS]
    settings = Sampling(max_new_tokens=24)
    first = lm.generate_ids(prompts, settings, 2, range(7), NAMES)
    compiled = [program._cache_size() for program in PROGRAMS]
    config = dataclasses.replace(CONFIGS["cogvideox"], r=5)
    assert sum(c.r for c in CONFIGS.values()) + 2 < RANK_MULTIPLE
    other = lm.with_lora(adapter_folders.random_lora(lm, config, 9), config)
    other.save_pretrained(tmp_path / "opensora", merge_adapter=False)
    swapped = lm.delete_adapter("cogvideox").load_adapter(tmp_path / "opensora", "opensora")
    assert swapped.adapter_names == ("wan", "hunyuan", "opensora")
    assert all(
        a is b
        for a, b in zip(jax.tree.leaves(swapped.params), jax.tree.leaves(lm.params), strict=True)
    )
    names = [name.replace("cogvideox", "opensora") for name in NAMES]
    second = swapped.generate_ids(prompts, settings, 2, range(7), names)
    assert [program._cache_size() for program in PROGRAMS] == compiled
    changed = [i for i in range(7) if first[i] != second[i]]
    assert changed == [NAMES.index("cogvideox")]


def test_delete_adapter_last(llama, folder):
    lm = dataclasses.replace(llama[0], adapters=type(llama[0].adapters)())
    lm = lm.load_adapter(folder / "wan", "wan").delete_adapter("wan")
    assert lm.adapter_names == ()
    expected = np.asarray(lm.logits(IDS[:1]))
    np.testing.assert_array_equal(lm.logits(IDS[:1], adapter_names="__base__"), expected)


def write_changed(source, folder, value):
    """Copy an adapter with all numbers of its `lora_A` replaced."""
    folder.mkdir()
    tensors = load_file(source / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "lora_A" in name:
            tensors[name] = np.full_like(tensor, value)
    save_file(tensors, folder / "adapter_model.safetensors")
    text = (source / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(text)
    return folder


def test_logits_do_not_depend_on_an_adapter_that_overflows(llama, folder, tmp_path):
    lm, _ = llama
    broken = lm.delete_adapter("cogvideox").load_adapter(
        write_changed(folder / "cogvideox", tmp_path / "x", 3e38), "x"
    )
    names = [name.replace("cogvideox", "x") for name in NAMES]
    logits = np.asarray(broken.logits(IDS, adapter_names=names))
    expected = np.asarray(lm.logits(IDS, adapter_names=NAMES))
    others = [i for i, name in enumerate(names) if name != "x"]
    assert not np.isfinite(logits[names.index("x")]).all()
    np.testing.assert_allclose(logits[others], expected[others], atol=1e-4)


@pytest.mark.parametrize("value, dtype", [(np.nan, "float32"), (3.4e38, "bfloat16")])
def test_load_adapter_not_finite(value, dtype, llama, folder, tmp_path):
    lm = dataclasses.replace(llama[0], model=llama[0].model.clone(dtype=jnp.dtype(dtype)))
    with pytest.raises(BadInput, match="NaN|not finite") as error:
        lm.load_adapter(write_changed(folder / "wan", tmp_path / "x", value), "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, message", [("wan", "delete_adapter"), ("__base__", "base model"), ("", "cannot")]
)
def test_load_adapter_name_taken(name, message, llama, folder):
    with pytest.raises(BadInput, match=message) as error:
        llama[0].load_adapter(folder / "hunyuan", name)
    assert error.value.field == "adapter_name" and "\n" not in str(error.value)


def test_merge_adapter_changes_programs_only(llama, monkeypatch):
    lm, _ = llama
    merged = lm.merge_adapter("hunyuan")
    prompts = [lm.prompt_ids(words) for words in WORDS]
    settings = Sampling(max_new_tokens=24)
    collections = []

    def record(shape, weights, *rest, decode_rows=decode.decode_rows):
        collections.append(set(weights[0][0]))
        return decode_rows(shape, weights, *rest)

    expected = lm.generate_ids(prompts, settings, 2, range(7), NAMES)
    monkeypatch.setattr(decode, "decode_rows", record)
    assert merged.generate_ids(prompts, settings, 2, range(7), NAMES) == expected
    assert {"params"} in collections and {"params", "lora"} in collections
    own = [i for i, name in enumerate(NAMES) if name == "hunyuan"]
    alone = merged.generate_ids([prompts[i] for i in own], settings, 2, own)
    assert alone == [expected[i] for i in own]
    np.testing.assert_allclose(merged.logits(IDS), lm.logits(IDS, None, "hunyuan"), atol=1e-4)
    with pytest.raises(BadInput, match="'hunyuan' is merged"):
        merged.merge_adapter("wan")
    rest = merged.delete_adapter("hunyuan")
    assert rest.adapter_names == ("wan", "cogvideox")
    for name in ("__base__", "wan"):
        logits = rest.logits(IDS, None, name)
        np.testing.assert_allclose(logits, lm.logits(IDS, None, name), atol=1e-4)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers"])
def test_load_adapter_of_another_base(field, folder):
    size = {"hidden_size": 48, "num_hidden_layers": 1}[field]
    lm = tiny_language_model(**{field: size})
    with pytest.raises(BadInput) as error:
        lm.load_adapter(folder / "wan", "wan")
    assert str(folder / "wan") in str(error.value) and "\n" not in str(error.value)


def test_load_adapter_corrupt(llama, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(BadInput, match="IA3"):
        llama[0].load_adapter(tmp_path, "x")


@pytest.mark.parametrize(
    "names, message",
    [
        (["wan"], "1 for 2 prompts"),
        (["wan"] * 3, "3 for 2 prompts"),
        (["wan", "wen"], "'wen'.*wan, cogvideox, hunyuan"),
        ("none", "'none'"),
    ],
)
def test_generate_wrong_adapter_names(names, message, llama):
    lm, _ = llama
    for call in (
        lambda: lm.generate(WORDS[:2], adapter_names=names),
        lambda: lm.logits(IDS[:2], adapter_names=names),
    ):
        with pytest.raises(BadInput, match=message) as error:
            call()
        assert error.value.field == "adapter_names" and "\n" not in str(error.value)


def test_delete_adapter_unknown(llama, lm):
    with pytest.raises(BadInput, match="wan, cogvideox, hunyuan") as error:
        llama[0].delete_adapter("x")
    assert error.value.field == "adapter_name"
    with pytest.raises(BadInput, match="load_adapter"):
        lm.generate(["a"], adapter_names=["x"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_generate_ids_quantized_base_with_adapters(kind, llama, folder):
    base = llama[0].with_params(quantize(llama[0].params, kind))
    lm = adapter_folders.load_adapters(base, folder)
    prompts = [lm.prompt_ids(words) for words in WORDS]
    settings = Sampling(max_new_tokens=12)
    together = lm.generate_ids(prompts, settings, 1, range(7), NAMES)
    for i, name in enumerate(NAMES[:4]):
        single = base if name == "__base__" else base.with_lora(*llama[1][name])
        assert single.generate_ids([prompts[i]], settings, 1, i) == [together[i]]
