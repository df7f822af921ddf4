import dataclasses
import functools
import io
import json
import sys
import types

import pytest
from PIL import Image

from pav_jax.records import Refinement
from pav_jax.storage.json_files import write_json
from tests.commands.run_pav import fails, run
from tests.tiers import first_fast
from tests.tiny import decoders
from tests.tiny.language_model import make_tokenizer


def test_refine_output(capsys, fake_calls):
    status, out, err = run(
        capsys, "refine", "a  girl <b>plays</b>", "--num-return-sequences=2", "--seed=5"
    )
    assert (status, out) == (
        0,
        "a girl <b>plays</b> in detail 0\na girl <b>plays</b> in detail 1\n",
    )
    assert err == ""
    assert fake_calls == [
        ("load", "smollm2", None, "cogvideox"),
        ("refine", ["a girl <b>plays</b>"], 2, 5),
    ]


def test_refine_image(tmp_path, capsys, fake_calls):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    status, _, err = run(capsys, "refine", "a cat", "--model=m", f"--image={path}")
    assert status == 0 and err.startswith("pav refine: the rewriter does not read the image")
    assert fake_calls[-1] == ("refine", ["a cat"], 1, 0, {"image": [path]})
    assert run(capsys, "refine", "a cat", "--json", f"--image={path}")[2] == ""


@pytest.mark.parametrize("option,expected", [("auto", ()), ("on", (True,)), ("off", (False,))])
def test_refine_int8(capsys, fake_calls, option, expected):
    run(capsys, "refine", "a cat", "--model=m", f"--int8={option}")
    run(capsys, "refine", "a cat", f"--int8={option}")
    loads = [call for call in fake_calls if call[0] == "load"]
    assert loads == [
        ("load", "m", None, *expected),
        ("load", "smollm2", None, "cogvideox", *expected),
    ]


def test_refine_files_and_stdin(tmp_path, capsys, monkeypatch, fake_calls):
    (tmp_path / "p.txt").write_text("\ufeffa cat\r\n\n  a dog 🐕 \n", encoding="utf-8")
    monkeypatch.setattr(
        sys,
        "stdin",
        types.SimpleNamespace(buffer=io.BytesIO(b"from a pipe\n"), isatty=lambda: False),
    )
    status, out, err = run(
        capsys, "refine", str(tmp_path / "p.txt"), "-", "--model=m", "--template=t.jinja", "--json"
    )
    assert status == 0 and err == ""
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["prompt"] for r in rows] == ["a cat", "a dog 🐕", "from a pipe"]
    assert set(rows[0]) == {f.name for f in dataclasses.fields(Refinement)} - {"image", "note"}
    assert fake_calls[0] == ("load", "m", "t.jinja")


def test_refine_invalid_line(tmp_path, capsys):
    file = tmp_path / "p.txt"
    file.write_bytes(b"fine\n" + b"y" * 3000)
    assert f"{file}:2: 3,000 characters long" in fails(capsys, "refine", str(file))
    file.write_bytes(b"fine\nna\xefve")
    assert f"{file}:2: not UTF-8 text" in fails(capsys, "refine", str(file))
    file.write_bytes(b"\n \n")
    assert "no prompt in it" in fails(capsys, "refine", str(file))
    assert "this is a folder" in fails(capsys, "refine", str(tmp_path))


def test_refine_without_prompt(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    assert "no prompt; give one in quotes" in fails(capsys, "refine")


def test_refine_too_many_rewrites(capsys, fake_calls):
    line = fails(capsys, "refine", "a cat", "a dog", "-n", "100000000")
    assert "--num-return-sequences=100000000: the limit is 50,000" in line and fake_calls == []


def test_refine_guard_options(capsys, fake_calls):
    guard = {"mode": "on", "keep": ["cat", "a"], "fidelity": 0.5, "max_words": 40}
    guard |= {"language": "any", "samples": 2}
    options = ["--mode=on", "--keep=cat", "--keep=a", "--fidelity=0.5", "--max-words=40"]
    status, _, _ = run(capsys, "refine", "a cat", *options, "--language=any", "--samples=2")
    assert status == 0
    assert fake_calls[1] == ("refine", ["a cat"], 1, 0, guard)


@pytest.mark.parametrize(
    "option", ["--fidelity=1.5", "--fidelity=nan", "--max-words=2", "--samples=0", "--keep=dog"]
)
def test_refine_invalid_guard_option(option, capsys, fake_calls):
    assert option.split("=")[0] in fails(capsys, "refine", "a cat", option)
    assert fake_calls == []


def test_refine_says_why_a_prompt_stands(capsys, fake_calls):
    _, _, err = run(capsys, "refine", "a cat", "what is rain?", "--model=m")
    assert err == "pav refine: prompt 2, 'what is rain?': unchanged: it is a question\n"
    assert run(capsys, "refine", "what is rain?")[2] == "pav refine: unchanged: it is a question\n"


@pytest.mark.parametrize(
    "family", first_fast(["qwen3_moe", "gemma3", *decoders.FAMILIES[:-1]], number=2)
)
def test_refine_with_every_family(family, tmp_path, capsys):
    make = functools.partial(decoders.torch_model, family)
    model = (decoders.tiny_gemma3_vlm if family == "gemma3" else make)(0)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "generation_config.json").read_text())
    write_json(tmp_path / "generation_config.json", fields | {"max_new_tokens": 4})
    status, out, _ = run(capsys, "refine", "a b c", f"--model={tmp_path}", "--json")
    assert status == 0
    row = json.loads(out)
    assert row["prompt"] == "a b c" and row["refined"]
