"""Adapters by name: options, base models, lists, and a batch of several."""

import dataclasses
import json
import shutil

import pytest

from pav_jax.booster import adapter_folders
from pav_jax.booster.adapter_folders import (
    NamedAdapter,
    common_base,
    read_options,
    style_adapter,
)
from pav_jax.booster.booster import Booster
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.records import to_json
from pav_jax.storage.json_files import read_json, write_json
from tests.commands.run_pav import fails, run
from tests.language import adapter_folders as fixtures
from tests.language.adapter_folders import CONFIGS
from tests.tiny.byte_language_model import TEMPLATE, tiny_language_model

CARD = "---\nbase_model: owner/name\ngenerator: {}\n---\n# An adapter\n"
STYLE = "In the style of Wan: "


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a base model and adapters of it; the one for Wan has its own template."""
    folder = tmp_path_factory.mktemp("written")
    lm = fixtures.instructed(tiny_language_model())
    lm = dataclasses.replace(lm, generation={"max_new_tokens": 10})
    lm.save_pretrained(folder / "base")
    lm = dataclasses.replace(lm, path=str(folder / "base"))
    fixtures.write_adapters(lm, folder / "adapters")
    for name in ("wan", "hunyuan"):
        (folder / "adapters" / name / "README.md").write_text(CARD.format(name))
    (folder / "adapters" / "wan" / "chat_template.jinja").write_text(STYLE + TEMPLATE)
    return folder


@pytest.fixture
def adapters(written, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(written / "adapters", tmp_path / "adapters")


@pytest.fixture(autouse=True)
def none_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_folders, "SHIPPED", tmp_path / "none")


@pytest.fixture
def shipped(adapters, monkeypatch, none_shipped):
    monkeypatch.setattr(adapter_folders, "SHIPPED", adapters)


# ---------------------------------------------------------------------------------------- options


def test_read_options_names_and_paths(adapters, shipped, monkeypatch):
    monkeypatch.chdir(adapters.parent)
    (adapters.parent / "lr=3").mkdir()
    arguments = ["a=adapters/wan", "adapters/cogvideox/", "hunyuan", "owner/repo", "./lr=3"]
    assert read_options(arguments) == [
        NamedAdapter("a", "adapters/wan"),
        NamedAdapter("cogvideox", "adapters/cogvideox/"),
        NamedAdapter("hunyuan", str(adapters / "hunyuan")),
        NamedAdapter("repo", "owner/repo"),
        NamedAdapter("lr=3", "./lr=3"),
    ]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["x=nothing here"], "there is no folder nothing here"),
        (["=owner/repo"], "write NAME=PATH"),
        (["x="], "write NAME=PATH"),
        ([""], "write NAME=PATH"),
        (["a/wan", "b/wan"], "another adapter is called wan too"),
    ],
)
def test_read_options_refuses(arguments, message):
    with pytest.raises(BadInput, match=message) as error:
        read_options(arguments)
    assert error.value.source == "--adapter" and "\n" not in str(error.value)


def test_common_base(written, adapters):
    named = [NamedAdapter(name, str(adapters / name)) for name in CONFIGS]
    assert common_base(named) == str(written / "base")
    config = adapters / "wan" / "adapter_config.json"
    write_json(config, read_json(config) | {"base_model_name_or_path": "owner/other"})
    with pytest.raises(BadInput, match="wan for owner/other.*--model"):
        common_base(named)
    write_json(config, read_json(config) | {"base_model_name_or_path": None})
    with pytest.raises(BadInput, match="base_model_name_or_path is missing"):
        common_base(named)


# ------------------------------------------------------------------------------------------ lists


def test_list_shipped_and_found(written, adapters, shipped, capsys):
    status, out, _ = run(capsys, "adapters", "list", str(adapters / "wan"))
    rows = [line.split() for line in out.splitlines()]
    base = str(written / "base")
    assert status == 0 and rows == [
        ["name", "base", "generator", "rank", "size"],
        ["cogvideox", base, "-", "3", *rows[1][4:]],
        ["hunyuan", base, "hunyuan", "8", *rows[2][4:]],
        ["wan", base, "wan", "2", *rows[3][4:]],
        ["wan", base, "wan", "2", *rows[3][4:]],
    ]


def test_list_json(adapters, capsys):
    _, out, _ = run(capsys, "adapters", "list", str(adapters.parent), "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["name"] for row in rows] == [f"adapters/{name}" for name in sorted(CONFIGS)]
    size = (adapters / "hunyuan" / "adapter_model.safetensors").stat().st_size
    assert rows[1]["num_bytes"] == size and rows[1]["path"] == str(adapters / "hunyuan")


def test_list_names_of_folders(adapters, monkeypatch, capsys):
    (adapters / "wan").rename(adapters / ".wan.")
    for path in (str(adapters / ".wan."), "."):
        monkeypatch.chdir(adapters / ".wan.")
        _, out, _ = run(capsys, "adapters", "list", path)
        assert out.splitlines()[1].split()[0] == ".wan."
    _, out, _ = run(capsys, "adapters", "list", "..")
    assert out.splitlines()[1].split()[0] == ".wan."


def test_list_without_adapters(tmp_path, capsys):
    assert "none come with this version" in run(capsys, "adapters", "list")[1]
    assert "no adapter in it" in fails(capsys, "adapters", "list", str(tmp_path))
    assert "no such folder" in fails(capsys, "adapters", "list", str(tmp_path / "x"))


@pytest.mark.parametrize(
    "file,content,message",
    [
        ("README.md", b"---\na: [\n---\n", "its header cannot be read"),
        ("README.md", b"---\n- a\n---\n", "its header cannot be read"),
        ("README.md", b"\xff\xfe", "its header cannot be read"),
        ("adapter_config.json", b"{", "adapter_config.json"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors is missing"),
    ],
)
def test_list_shows_the_others_beside_a_broken_one(adapters, capsys, file, content, message):
    path = adapters / "wan" / file
    path.unlink() if content is None else path.write_bytes(content)
    status, out, err = run(capsys, "adapters", "list", str(adapters))
    assert status == 2 and len(err.splitlines()) == 1 and message in err
    assert [line.split()[0] for line in out.splitlines()] == ["name", "cogvideox", "hunyuan"]


# -------------------------------------------------------------------------------------- rewriting


@pytest.mark.slow
def test_refine_adapters_in_one_batch(written):
    """Each rewrite is as if its adapter and template were alone, and the base is loaded once."""
    paths = {name: written / "adapters" / name for name in CONFIGS}
    mixed = Booster.from_pretrained(written / "base", adapters=paths)
    names = ["hunyuan", "cogvideox", "wan", "__base__"]
    rewrites = mixed.refine(["two dogs run"] * len(names), seed=3, adapter_names=names, mode="off")
    texts = [row[0].refined for row in rewrites]
    assert len(set(texts)) == len(names)
    assert [row[0].adapter for row in rewrites] == [*names[:-1], None]
    for name, text in list(zip(names, texts, strict=True))[1:]:
        template = written / "adapters" / "wan" / "chat_template.jinja" if name == "wan" else None
        chosen = {name: paths[name]} if name in paths else {}
        booster = Booster.from_pretrained(written / "base", template=template, adapters=chosen)
        row = booster.refine("two dogs run", seed=3, adapter_names=name, mode="off")[0]
        assert row[0].refined == text
    again = mixed.refine("two dogs run", seed=3, mode="off")[0][0]
    assert again.refined == texts[-1] and again.adapter is None


@pytest.mark.slow
def test_refine_option(written, capsys):
    """--adapter loads the base that the adapter names; --template goes before its own."""
    adapter = written / "adapters" / "wan"
    words = ("refine", "two dogs run", f"--adapter={adapter}", "--seed=3", "--json", "--mode=off")
    row = json.loads(run(capsys, *words)[1])
    booster = Booster.from_pretrained(written / "base", adapters={"x": adapter})
    expected = booster.refine("two dogs run", seed=3, adapter_names="x", mode="off")[0][0]
    assert row == json.loads(to_json(expected)) | {"adapter": "wan"}
    other = json.loads(run(capsys, *words, "--template=model")[1])
    assert other["refined"] != row["refined"]
    message = fails(capsys, "refine", "a", f"--adapter={adapter}", "--model=mini:rewriter")
    assert "adapter" in message


@pytest.mark.slow
def test_refine_adapter_with_its_own_limit(written, adapters):
    """`max_new_tokens` of an adapter's folder goes before that of the base model."""
    file = adapters / "wan" / "generation_config.json"
    file.write_text('{"max_new_tokens": 3, "temperature": 9.0}')
    paths = {name: adapters / name for name in ("wan", "hunyuan")}
    booster = Booster.from_pretrained(written / "base", adapters=paths)
    limits = [booster.sampling_of(name).max_new_tokens for name in ("wan", "hunyuan", None)]
    assert limits == [3, 10, 10]
    assert booster.sampling_of("wan").temperature == booster.sampling.temperature
    names = ["hunyuan", "wan", "hunyuan"]
    rewrites = booster.refine(["sea", "sea", "rain"], adapter_names=names, mode="off")
    assert [len(row[0].refined) <= 3 for row in rewrites] == [False, True, False]
    for prompt, name, row in zip(["sea", "sea", "rain"], names, rewrites, strict=True):
        alone = booster.refine(prompt, adapter_names=name, mode="off")[0][0]
        assert row[0] == alone and alone.adapter == name
    removed = booster.language_model.delete_adapter("wan")
    assert not removed.adapters.limits and removed.adapter_names == ("hunyuan",)
    file.write_text('{"max_new_tokens": 0}')
    with pytest.raises(BadInput, match="generation_config.json.*max_new_tokens"):
        Booster.from_pretrained(written / "base", adapters=paths)


def test_load_adapter_with_a_broken_template(written, adapters):
    (adapters / "wan" / "chat_template.jinja").write_text("{{ messages[")
    with pytest.raises(BadInput, match="template"):
        Booster.from_pretrained(written / "base", adapters={"wan": adapters / "wan"})


@pytest.mark.slow
def test_default_booster_has_shipped_adapters(written, shipped, monkeypatch):
    lm = LanguageModel.from_pretrained(str(written / "base"))
    monkeypatch.setattr(LanguageModel, "from_pretrained", lambda *_, **__: lm)
    booster = Booster.from_pretrained(template="model")
    assert sorted(booster.language_model.adapter_names) == ["cogvideox", "hunyuan", "wan"]
    assert booster.default_adapter == "cogvideox" and booster.guard.mode == "auto"
    texts = {
        name: booster.refine("two dogs", adapter_names=name, mode="off")[0][0].refined
        for name in (None, "cogvideox", "__base__")
    }
    assert texts[None] == texts["cogvideox"] != texts["__base__"]


def test_style_adapter(adapters, shipped):
    assert style_adapter("wan") == NamedAdapter("wan", str(adapters / "wan"))
    assert common_base([style_adapter("wan"), style_adapter("hunyuan")]) == "smollm2"
    with pytest.raises(BadInput, match="--for=sora: choose one of cogvideox, hunyuan, wan"):
        style_adapter("sora")


@pytest.mark.parametrize("command", ["refine a", "serve --port=0"])
@pytest.mark.parametrize("option", ["--model=mini:booster", "--adapter=wan"])
def test_style_beside_a_model(capsys, command, option):
    line = fails(capsys, *command.split(), "--for=wan", option)
    assert f"leave it or {option.partition('=')[0]} out" in line
