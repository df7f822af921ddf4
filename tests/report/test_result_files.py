"""Damage to each field of the files of results."""

import json

import pytest

from pav_jax.candidates.prompt_sets import PromptSet
from pav_jax.errors import BadInput
from pav_jax.evaluate.benchmark import evaluate
from pav_jax.report.result_files import (
    Evaluation,
    Preview,
    SavedConfig,
    Trust,
    read_metrics,
    read_result,
)
from pav_jax.trust.trust import trust
from tests.fakes import FakeGenerator, FakeSuite, make_config
from tests.mutations import entries
from tests.trust.fakes import PROMPTS, PatternGenerator, make_suite
from tests.trust.test_trust import make_config as make_trust_config

PREVIEW = {
    "keep": 0.5,
    "num_previews": 4,
    "num_videos": 2,
    "saved": None,
    "num_groups": 1,
    "rank_correlation": 0.5,
    "best_selected": 1.0,
}
FILES = {
    "evaluation.json": Evaluation,
    "trust.json": Trust,
    "preview.json": Preview,
    "config.json": SavedConfig,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    sets = {"near": PromptSet(("a cat", "a dog"), (None, None))}
    systems = {"base": lambda prompts, seed: [f"{prompt} now" for prompt in prompts]}
    config = make_config(evaluate__num_resamples=50, evaluate__seeds=(0, 1))
    evaluate(config, systems, sets, FakeGenerator(), FakeSuite(), folder, False)
    trust(make_trust_config(), PROMPTS[:4], PatternGenerator(), make_suite(), folder)
    (folder / "preview.json").write_text(json.dumps(PREVIEW))
    (folder / "config.json").write_text(json.dumps({"rewards": {"weights": {"AES": 1.0}}}))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_read_result_wrong_value(name, workdir, tmp_path):
    kind = FILES[name]
    content = json.loads((workdir / name).read_text())
    assert read_result(workdir / name, kind) == content
    file = tmp_path / name
    refused = set()
    for parent, key in list(entries(content)):
        valid = parent[key]
        parent[key] = {"a": [None]}
        file.write_text(json.dumps(content))
        parent[key] = valid
        try:
            read_result(file, kind)
        except BadInput as error:
            assert error.source == str(file) and error.field and "\n" not in str(error)
            refused.add(error.field)
    assert len(refused) > {"config.json": 1, "preview.json": 5}.get(name, 20)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ["", "[]", "{", "3", "[" * 10**5, '{"seeds": 1' + "0" * 5000])
def test_read_result_no_object(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput) as error:
        read_result(tmp_path / name, FILES[name])
    assert error.value.source == str(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda sets: sets["base"]["scores"].pop("AES"), "scores"),
        (lambda sets: sets["base"]["delta"].pop("overall"), "delta"),
        (lambda sets: sets["base"].pop("overall"), "overall"),
    ],
)
def test_read_result_inconsistent_evaluation(change, field, workdir, tmp_path):
    content = json.loads((workdir / "evaluation.json").read_text())
    change(content["sets"]["near"]["systems"])
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(BadInput) as error:
        read_result(tmp_path / "evaluation.json", Evaluation)
    assert error.value.field == f"sets.near.systems.base.{field}"


def test_read_result_trust_without_a_corruption(workdir, tmp_path):
    content = json.loads((workdir / "trust.json").read_text())
    content["rewards"]["AES"]["corruptions"].popitem()
    (tmp_path / "trust.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="lacks") as error:
        read_result(tmp_path / "trust.json", Trust)
    assert error.value.field == "rewards.AES.corruptions"


def test_read_metrics_damaged_lines(tmp_path):
    lines = ['{"step": 1, "loss": 0.5, "mfu": null}', "[]", '{"step": 2, "lo', "[" * 10**5, "\0"]
    lines += ['{"step": 3, "loss": NaN, "x": true}', '{"step": 1' + "0" * 400 + "}"]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff")
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows == [{"step": 1, "loss": 0.5}, {"step": 3}, {}]
    assert read_metrics(tmp_path / "none.jsonl") == []
