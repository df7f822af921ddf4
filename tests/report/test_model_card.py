"""The card of an exported booster says what its work directory knows, and no more."""

import json

from pav_jax.report.model_card import render, write_model_card

DELTA = {"overall": [1.25, 1.0, 1.5], "FAITH": [-0.01, -0.02, 0.0]}


def workdir(folder):
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


def test_it_tells_of_base_training_metrics_and_evaluation(tmp_path):
    booster = workdir(tmp_path)
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
    assert "0.69" not in text and "Not measured" not in text


def test_it_names_no_path_of_this_machine_and_admits_what_it_does_not_know(tmp_path):
    booster = workdir(tmp_path)
    (tmp_path / "round_1" / "adapter" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "/home/x/base"}'
    )
    (tmp_path / "evaluation.json").unlink()
    assert "/home" not in render(booster) and "Not measured." in render(booster)
    (tmp_path / "bare").mkdir()
    assert "no training.json" in render(tmp_path / "bare")
