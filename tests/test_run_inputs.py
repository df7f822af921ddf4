import json
import types

import pytest

from pav_jax.config import load
from pav_jax.errors import BadInput
from pav_jax.run_inputs import check_run_inputs

LOADED = types.SimpleNamespace(chat_proposers={})


@pytest.mark.parametrize(
    "override, field",
    [
        ("evolve.prompts=/none.txt", "evolve.prompts"),
        ("evolve.prompts=/", "evolve.prompts"),
        ("evolve.prompts=", "evolve.prompts"),
        ("prefer.prompts=/none.txt", "prefer.prompts"),
        ("evaluate.prompts={'mine': '/none.txt'}", "evaluate.prompts.mine"),
        ("evaluate.prompts={}", "evaluate.prompts"),
        ("evaluate.rewrite_files={'mine': '/none.jsonl'}", "evaluate.rewrite_files.mine"),
        ("evaluate.rewrite_files={'mine': '/none'}", "evaluate.rewrite_files.mine"),
        ("evaluate.systems=('dpo_3',)", "evaluate.systems"),
        ("rewriter.template=/none.jinja", "rewriter.template"),
        ("sft.pairs=/none.jsonl", "sft.pairs"),
    ],
)
def test_check_run_inputs_missing(override, field, tmp_path):
    with pytest.raises(BadInput) as error:
        check_run_inputs(load(None, [f"--config.{override}"]), LOADED, tmp_path)
    assert error.value.field == field and field in str(error.value)


@pytest.mark.parametrize(
    "workdir, path", [("runs/a", "runs/ab/booster"), (".", "../booster"), ("runs/a", "runs/a")]
)
def test_check_run_inputs_booster_outside_workdir(workdir, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(None, [f"--config.evaluate.rewrite_files={ {'mine': path} }"])
    with pytest.raises(BadInput, match="no booster there"):
        check_run_inputs(config, LOADED, workdir)


@pytest.mark.parametrize(
    "field, expected",
    [
        ("rewriter.template", "give a chat template"),
        ("sft.pairs", "file of pairs"),
        ("prefer.prompts", "file of prompts"),
    ],
)
def test_check_run_inputs_names_the_kind_of_file(field, expected, tmp_path):
    with pytest.raises(BadInput, match=expected):
        check_run_inputs(load(None, [f"--config.{field}=/none"]), LOADED, tmp_path)


def test_check_run_inputs_usable(tmp_path):
    rewrites = tmp_path / "rewrites.jsonl"
    (tmp_path / "prompts.txt").write_text("a dog\n")
    rewrites.write_text(json.dumps({"prompt": "a dog", "refined": "a big dog"}))
    files = {"mine": str(rewrites), "other": "mini:booster", "own": f"{tmp_path}/grpo/booster"}
    overrides = [
        f"--config.evaluate.prompts={ {'mine': str(tmp_path / 'prompts.txt')} }",
        f"--config.evaluate.rewrite_files={files}",
    ]
    check_run_inputs(load(None, overrides), LOADED, tmp_path)
    rewrites.write_text(json.dumps({"prompt": "a cat", "refined": "a big cat"}))
    with pytest.raises(BadInput, match="1 prompts have no rewrite"):
        check_run_inputs(load(None, overrides), LOADED, tmp_path)
