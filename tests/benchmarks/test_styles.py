"""Adapters of several styles: the script from prompts to adapters, and a restart."""

import json
import sys

import numpy as np
import pytest

from pav_jax.booster.adapter_folders import read_card
from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.storage.json_files import read_json
from tests.tiny.byte_language_model import tiny_language_model


@pytest.fixture
def styles(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    return pytest.importorskip("styles")


@pytest.fixture
def options(tmp_path):
    """The command line of a small run."""
    tiny_language_model().save_pretrained(tmp_path / "base")
    rows = [
        {
            "prompt": f"a dog number {i}",
            "cogvideox": f"A brown dog, {i}, runs.",
            "wan": f"A dog {i}. Sunny.",
            "hunyuan": f"Dog {i}. Realistic",
        }
        for i in range(30)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        "rewriter.path": tmp_path / "base",
        "rewriter.max_new_tokens": 8,
        "sft.max_steps": 2,
        "sft.batch_size": 4,
        "sft.gradient_accumulation_steps": 1,
        "sft.max_length": 192,
        "grpo.max_steps": 1,
        "grpo.batch_size": 4,
        "grpo.num_generations": 2,
        "grpo.gradient_accumulation_steps": 1,
    }
    return [
        f"--workdir={tmp_path}/runs",
        f"--data={tmp_path}/data.jsonl",
        f"--base-model={tmp_path}/base",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


@pytest.mark.slow
def test_styles_from_prompts_to_adapters(styles, options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["styles.py", *options, "--styles", "wan"])
    styles.main()
    folder = tmp_path / "runs" / "adapters" / "wan"
    card = read_card(folder)
    assert card["generator"] == "wan" and card["library_name"] == "peft"
    assert "| grpo: FAITH |" in (folder / "README.md").read_text()
    assert read_json(folder / "adapter_config.json")["r"] == 6 + 3, "SFT and GRPO, joined"
    report = read_json(tmp_path / "runs" / "wan" / "styles.json")
    assert np.isfinite([report[name]["loss"] for name in ("base", "sft", "grpo")]).all()
    monkeypatch.setattr(styles, "train", None)  # what is written is not trained again
    styles.main()
    capsys.readouterr()
    assert main(["adapters", "list", str(folder.parent)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "wan"
    assert main(["refine", "two dogs", f"--adapter={folder}"]) == 0


@pytest.mark.parametrize("style", ["cogvideox", "wan", "hunyuan"])
def test_adapter_of_a_style_is_small(style):
    """SFT's and GRPO's joined adapter has at most 6 MB in bfloat16."""
    config = load(f"configs/smollm2_style.py:{style}")
    widths = {"q": (576, 576), "k": (576, 192), "v": (576, 192), "o": (576, 576)}
    widths |= {"gate": (576, 1536), "up": (576, 1536), "down": (1536, 576)}
    columns = config.sft.lora.r + config.grpo.lora.r
    assert 2 * 30 * columns * sum(map(sum, widths.values())) < 6e6


def test_style_that_is_none():
    with pytest.raises(BadInput, match="choose one of cogvideox, wan, hunyuan"):
        load("configs/smollm2_style.py:sora")


@pytest.mark.parametrize(
    "text,expected",
    [
        ("", False),
        ("a dog runs", False),
        ("a dog runs, " * 4, True),
        ("she was sitting on a sofa and she was sitting on a chair", False),
        ("the sofa was red. " * 4, True),
    ],
)
def test_has_loop(monkeypatch, text, expected):
    monkeypatch.syspath_prepend("benchmarks")
    assert pytest.importorskip("vbench").has_loop(text) is expected
