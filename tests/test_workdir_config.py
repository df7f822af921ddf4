import contextlib
import json
import shlex

import jax
import pytest

from pav_jax import config as configuration
from pav_jax import workdir_config
from pav_jax.errors import BadInput


def add_result(folder):
    (folder / "pool").mkdir(exist_ok=True)


def test_bind_config_to_workdir_changed(tmp_path):
    add_result(tmp_path)
    first = configuration.load(None, ["--config.evolve.rounds=3"])
    workdir_config.bind_config_to_workdir(first, tmp_path)
    workdir_config.bind_config_to_workdir(first, tmp_path)
    again = workdir_config.config_for_workdir(None, [], tmp_path)
    workdir_config.bind_config_to_workdir(again, tmp_path)
    assert again.evolve.rounds == 3 and again.evaluate.seeds == (0, 1)
    with pytest.raises(BadInput) as caught:
        workdir_config.bind_config_to_workdir(
            configuration.load(None, ["--config.evolve.rounds=4", "--config.seed=1"]), tmp_path
        )
    assert "made with evolve.rounds = 3, now it is 4; give another --workdir" in str(caught.value)
    assert json.loads((tmp_path / "config.json").read_text())["evolve"]["rounds"] == 3


def seed_config(seed):
    return configuration.load(None, [f"--config.seed={seed}"])


def saved_seed(folder):
    return workdir_config.saved_config(folder)["seed"]


def test_bind_config_to_workdir_without_results(tmp_path):
    workdir_config.bind_config_to_workdir(seed_config(1), tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "spent.json").write_text("{}")
    workdir_config.bind_config_to_workdir(seed_config(2), tmp_path)
    assert saved_seed(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "logs"]
    (tmp_path / "sft_pairs.jsonl").write_text("")
    with pytest.raises(BadInput, match="made with seed = 2, now it is 3"):
        workdir_config.bind_config_to_workdir(seed_config(3), tmp_path)
    assert saved_seed(tmp_path) == 2


def test_bind_config_to_workdir_other_process(tmp_path, monkeypatch):
    workdir_config.bind_config_to_workdir(seed_config(1), tmp_path)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    workdir_config.bind_config_to_workdir(seed_config(1), tmp_path)
    with pytest.raises(BadInput, match="made with seed = 1, now it is 2"):
        workdir_config.bind_config_to_workdir(seed_config(2), tmp_path)
    assert saved_seed(tmp_path) == 1


@pytest.mark.parametrize("has_result", [False, True])
def test_bind_config_to_workdir_of_a_run_at_work(tmp_path, monkeypatch, has_result):
    @contextlib.contextmanager
    def lock(folder):
        if not has_result:
            raise BadInput("another process is at work here")
        add_result(tmp_path)  # by a run that ended before the lock was free
        yield

    workdir_config.bind_config_to_workdir(seed_config(1), tmp_path)
    monkeypatch.setattr(workdir_config, "workdir_lock", lock)
    with pytest.raises(BadInput, match="made with seed = 1" if has_result else "at work here"):
        workdir_config.bind_config_to_workdir(seed_config(2), tmp_path)
    assert saved_seed(tmp_path) == 1


def test_config_for_workdir_missing(tmp_path):
    with pytest.raises(BadInput, match="no config.json here; give --config"):
        workdir_config.config_for_workdir(None, [], tmp_path)
    with pytest.raises(BadInput, match="needs a --config"):
        workdir_config.config_for_workdir(None, ["--config.seed=1"], tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="config.json: not valid JSON"):
        workdir_config.config_for_workdir(None, [], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="this is a file"):
        workdir_config.bind_config_to_workdir(configuration.load(), tmp_path / "file")


def test_bind_config_to_workdir_new_section(tmp_path):
    add_result(tmp_path)
    workdir_config.bind_config_to_workdir(configuration.load(), tmp_path)
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in whole.items() if name != "trust"}))
    assert workdir_config.config_for_workdir(None, [], tmp_path).trust.seeds == (0, 1, 2, 3)
    workdir_config.bind_config_to_workdir(
        configuration.load(None, ["--config.trust.max_prompts=5"]), tmp_path
    )
    assert json.loads(file.read_text()) == whole | {"trust": whole["trust"] | {"max_prompts": 5}}
    with pytest.raises(BadInput, match="trust.max_prompts = 5, now it is 6"):
        workdir_config.bind_config_to_workdir(
            configuration.load(None, ["--config.trust.max_prompts=6"]), tmp_path
        )


def test_config_for_workdir_other_version(tmp_path):
    workdir_config.bind_config_to_workdir(configuration.load(), tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    del values["evolve"]["num_rewrites"]
    file.write_text(json.dumps(values))
    with pytest.raises(BadInput) as caught:
        workdir_config.config_for_workdir(None, [], tmp_path)
    assert caught.value.field == "evolve.num_rewrites"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "3",
        '{"evolve": "x"}',
        '{"evolve": null}',
        '{"mesh": {}}',
        '{"seed": "x"}',
        '{"seed": null}',
        '{"seed": ' + "9" * 5000 + "}",
        '{"seed": ' + "9" * 400 + "}",
        '{"rewards": {"entries": 3}}',
        '{"proposers": {"local": 3}}',
        '{"a": ' + "[" * 500 + "]" * 500 + "}",
        "[" * 100_000,
        '{"a": NaN}',
        "\ufeff{}",
    ],
)
def test_config_for_workdir_wrong_json(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput) as caught:
        workdir_config.config_for_workdir(None, [], tmp_path)
    assert caught.value.source.endswith("config.json")
    assert "config.json: " in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "path, value",
    [
        ("mesh", None),
        ("evaluate.seeds", "x"),
        ("evaluate.seeds", ["x"]),
        ("generator.endpoint.concurrency", 0),
        ("sft.lora.r", "x"),
        ("sft.learning_rate", None),
        ("rewards.weights.AES", "x"),
        ("proposers.local.share", "x"),
        ("evolve.preview", 3),
    ],
)
def test_config_for_workdir_wrong_value(tmp_path, path, value):
    workdir_config.bind_config_to_workdir(configuration.load(), tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    *parents, name = path.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[name] = value
    file.write_text(json.dumps(values))
    with pytest.raises(BadInput) as caught:
        workdir_config.config_for_workdir(None, [], tmp_path)
    assert caught.value.field.startswith(path) and caught.value.source == str(file)


def test_config_for_workdir_unreadable(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(BadInput, match="config.json: cannot be read"):
        workdir_config.config_for_workdir(None, [], tmp_path)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "not permitted"), TimeoutError("slow"), BadInput("HTTP 503")]
)
def test_saved_config_passing_failure(error, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(workdir_config, "read_bounded", fail)
    with pytest.raises(BadInput) as caught:
        workdir_config.saved_config(tmp_path)
    assert "delete" not in str(caught.value) and "JSON" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "--config.evaluate.seeds=(7, 8)",
        "--config.report.title=it's mine",
        "--config.generator.guidance_scale=3.0",
        "--config.evolve.weights={'AES': 2.0}",
    ],
)
def test_bind_config_to_workdir_suggests_the_saved_value(tmp_path, override):
    add_result(tmp_path)
    workdir_config.bind_config_to_workdir(configuration.load(None, [override]), tmp_path)
    with pytest.raises(BadInput) as caught:
        workdir_config.bind_config_to_workdir(configuration.load(), tmp_path)
    if "or go back to " in str(caught.value):  # not where the saved mapping was empty
        (word,) = shlex.split(str(caught.value).partition("or go back to ")[2])
        again = configuration.load(None, [word])
        workdir_config.bind_config_to_workdir(again, tmp_path)
    else:
        assert "weights" in override
