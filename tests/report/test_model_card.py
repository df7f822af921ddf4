import json

import pytest

from pav_jax.booster.adapter_folders import read_card
from pav_jax.report.model_card import render, write_model_card

DELTA = {"overall": [1.25, 1.0, 1.5], "FAITH": [-0.01, -0.02, 0.0]}


def write_workdir(folder):
    """Writes the outputs of a DPO round; returns its booster."""
    stage = folder / "round_1"
    (stage / "adapter").mkdir(parents=True)
    (stage / "booster").mkdir()
    (stage / "training.json").write_text(
        json.dumps({"stage": "dpo", "beta": 0.1, "lora": {"r": 16, "lora_alpha": 32.0}})
    )
    (stage / "metrics.jsonl").write_text('{"step": 1, "loss": 0.69}\n{"step": 2, "loss": 0.5}\n')
    (stage / "adapter" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "owner/model"}'
    )
    sets = {
        "held_out": {"prompts": 100, "systems": {"dpo_1": {"delta": DELTA}, "sft": {"delta": {}}}}
    }
    (folder / "evaluation.json").write_text(json.dumps({"sets": sets}))
    return stage / "booster"


def test_write_model_card_finished_run(tmp_path):
    booster = write_workdir(tmp_path)
    text = write_model_card(tmp_path / "out", booster).read_text()
    for part in (
        "base_model: owner/model",
        "| beta | 0.1 |",
        "| lora.r | 16 |",
        "| loss | 0.5 |",
        "held_out, 100 prompts",
        "dpo_1 - original",
        "| overall | +1.250 (+1.000, +1.500) |",
    ):
        assert part in text
    assert "0.69" not in text  # the first step's loss
    assert "Not evaluated" not in text


def test_write_model_card_adapter(tmp_path):
    booster = write_workdir(tmp_path)
    (tmp_path / "sft_pairs.jsonl").write_text("{}\n" * 761)
    scores = {"sft: FAITH": 0.97126}
    write_model_card(tmp_path / "out", booster, "owner/base", "cogvideox: 2", scores)
    text = (tmp_path / "out" / "README.md").read_text()
    fields = {"library_name": "peft", "base_model": "owner/base", "generator": "cogvideox: 2"}
    assert read_card(tmp_path / "out").items() >= fields.items()
    for part in (
        "| sft_pairs.jsonl | 761 |",
        'AutoModelForCausalLM.from_pretrained("owner/base")',
        "PeftModel.from_pretrained(base, folder)",
        "dpo_1 - original",
        "| sft: FAITH | 0.9713 |",
    ):
        assert part in text
    assert "/home" not in render(booster, "/home/x/base")


@pytest.mark.parametrize(
    "path,name",
    [("mini:generator", "mini:generator"), ("owner/name", "owner/name"), ("/home/x/wan", "wan")],
)
def test_render_generator_of_the_run(tmp_path, path, name):
    booster = write_workdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"generator": {"path": path}}))
    assert "The generator is not recorded" in render(booster)  # no video was made
    (tmp_path / "pool").mkdir()
    text = render(booster)
    assert f'generator: "{name}"\n---' in text and f"for {name}." in text


def test_render_local_base_model(tmp_path):
    booster = write_workdir(tmp_path)
    config = tmp_path / "round_1" / "adapter" / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "/home/x/base"}')
    assert "/home" not in render(booster)


def test_render_without_evaluation(tmp_path):
    booster = write_workdir(tmp_path)
    (tmp_path / "evaluation.json").unlink()
    assert "Not evaluated." in render(booster)


def test_render_without_training(tmp_path):
    (tmp_path / "booster").mkdir()
    assert "no training.json" in render(tmp_path / "booster")
