import json

import pytest

from pav_jax import config as configuration
from pav_jax import workdir_config
from pav_jax.errors import BadInput


def test_bind_config_to_workdir_changed(tmp_path):
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


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"evolve": "x"}'])
def test_config_for_workdir_wrong_json(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput) as caught:
        workdir_config.config_for_workdir(None, [], tmp_path)
    assert caught.value.source.endswith("config.json")
