import json

import pytest

from pav_jax import config as configuration
from pav_jax.errors import BadInput

START = "from pav_jax import defaults\ndef get_config():\n    config = defaults.get_config()\n"


def write(tmp_path, body, start=START):
    file = tmp_path / "mine.py"
    file.write_text(start + "".join(f"    {line}\n" for line in body))
    return str(file)


@pytest.mark.parametrize(
    "override, path, value",
    [
        ("--config.evolve.rounds=2", "evolve.rounds", 2),
        ("--config.sft.learning_rate=1", "sft.learning_rate", 1.0),
        ("--config.evaluate.seeds=(4,5)", "evaluate.seeds", (4, 5)),
        ("--config.evaluate.controls=false", "evaluate.controls", False),
        ("--noconfig.evaluate.controls", "evaluate.controls", False),
        ("--config.generator.num_inference_steps=4", "generator.num_inference_steps", 4),
        ("--config.rewriter.path=a=b c", "rewriter.path", "a=b c"),
        ("--config.prefer.weights={'AES': 2}", "prefer.weights", {"AES": 2}),
        ("--config.prefer.weights=None", "prefer.weights", None),
    ],
)
def test_any_field_can_be_set_on_the_command_line(override, path, value):
    found = configuration.load(None, [override])
    for name in path.split("."):
        found = found[name]
    assert (dict(found) if isinstance(value, dict) else found) == value


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "--config.evolve.ronds=2",
            "no field 'ronds' in the section evolve; did you mean evolve.rounds?",
        ),
        ("--config.evole.rounds=2", "no field 'evole' in the configuration; did you mean evolve?"),
        ("--config.evolve.rounds=two", "evolve.rounds is a whole number (now 8)"),
        ("--config.evolve.rounds=2.5", "evolve.rounds is a whole number"),
        ("--config.sft.learning_rate=fast", "sft.learning_rate is a number"),
        ("--config.evaluate.controls=maybe", "evaluate.controls is true or false"),
        (
            "--config.generator.num_inference_steps=many",
            "generator.num_inference_steps is a whole number",
        ),
        ("--config.evolve=3", "evolve is a section"),
        ("--config.seed.x=1", "seed is a value, it has no fields"),
        ("--config.prefer.weights=3", "give a mapping"),
        ("--config.seed", "seed is a whole number"),
    ],
)
def test_a_wrong_field_is_named(override, message):
    with pytest.raises(BadInput) as caught:
        configuration.load(None, [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert override.split("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    "body, message",
    [
        (
            ["config.evolve.ronds = 3", "return config"],
            "mine.py:4: there is no field 'ronds'; did you mean 'rounds'?",
        ),
        (
            ["config.evolve.rounds = 'x'", "return config"],
            "mine.py:4: Could not override field 'rounds'",
        ),
        (["return 3"], "gave int, not an ml_collections.ConfigDict"),
        (["return config +"], "mine.py:4: invalid syntax"),
        (["return 1 / 0"], "mine.py:4: division by zero"),
    ],
)
def test_a_wrong_configuration_file_is_named_with_its_line(tmp_path, body, message):
    with pytest.raises(BadInput) as caught:
        configuration.load(write(tmp_path, body))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_configuration_is_named(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        configuration.load(str(tmp_path / "none.py"))
    with pytest.raises(BadInput, match="holds no get_config"):
        configuration.load(write(tmp_path, [], start="x = 1\n"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match="not a Python file"):
        configuration.load(str(tmp_path / "notes.txt"))


def test_a_file_may_replace_free_sections_and_take_an_argument(tmp_path):
    file = write(
        tmp_path,
        ["config.evaluate.prompts = {'mine': path}", "return config"],
        start=START.replace("get_config()", "get_config(path)", 1),
    )
    assert configuration.load(file + ":my.txt").evaluate.prompts.to_dict() == {"mine": "my.txt"}


def test_shipped_configurations_load(request):
    for file in sorted((request.config.rootpath / "configs").glob("*.py")):
        assert configuration.load(file).rounds >= 1


def test_overrides_are_taken_out_of_the_command_line():
    rest, overrides = configuration.split_overrides(
        [
            "run",
            "--config=a.py",
            "--config.evolve.rounds",
            "2",
            "--workdir=w",
            "--noconfig.x",
            "--config.y",
            "--config.z=1 2",
        ]
    )
    assert rest == ["run", "--config=a.py", "--workdir=w"]
    assert overrides == ["--config.evolve.rounds=2", "--noconfig.x", "--config.y", "--config.z=1 2"]


def test_a_work_directory_belongs_to_one_configuration(tmp_path):
    first = configuration.load(None, ["--config.evolve.rounds=3"])
    configuration.claim(first, tmp_path)
    configuration.claim(first, tmp_path)
    again = configuration.for_workdir(None, [], tmp_path)
    configuration.claim(again, tmp_path)
    assert again.evolve.rounds == 3 and again.evaluate.seeds == (0, 1)
    with pytest.raises(BadInput) as caught:
        configuration.claim(
            configuration.load(None, ["--config.evolve.rounds=4", "--config.seed=1"]), tmp_path
        )
    assert "made with evolve.rounds = 3, now it is 4; give another --workdir" in str(caught.value)
    assert json.loads((tmp_path / "config.json").read_text())["evolve"]["rounds"] == 3


def test_a_work_directory_without_configuration_needs_one(tmp_path):
    with pytest.raises(BadInput, match="no config.json here; give --config"):
        configuration.for_workdir(None, [], tmp_path)
    with pytest.raises(BadInput, match="needs a --config"):
        configuration.for_workdir(None, ["--config.seed=1"], tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="config.json: not valid JSON"):
        configuration.for_workdir(None, [], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="this is a file"):
        configuration.claim(configuration.load(), tmp_path / "file")


def test_a_work_directory_takes_in_sections_that_are_newer_than_it(tmp_path):
    configuration.claim(configuration.load(), tmp_path)
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in whole.items() if name != "trust"}))
    assert configuration.for_workdir(None, [], tmp_path).trust.seeds == (0, 1, 2, 3)
    configuration.claim(configuration.load(None, ["--config.trust.max_prompts=5"]), tmp_path)
    assert json.loads(file.read_text()) == whole | {"trust": whole["trust"] | {"max_prompts": 5}}
    with pytest.raises(BadInput, match="trust.max_prompts = 5, now it is 6"):
        configuration.claim(configuration.load(None, ["--config.trust.max_prompts=6"]), tmp_path)
