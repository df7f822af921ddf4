import pytest

from pav_jax import config as configuration
from pav_jax.config_overrides import split_overrides
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
        ("--config.generator.guidance_scale=None", "generator.guidance_scale", None),
        ("--config.generator.guidance_scale=null", "generator.guidance_scale", None),
        ("--config.generator.scheduler=None", "generator.scheduler", None),
        ("--config.sft.max_steps=None", "sft.max_steps", None),
    ],
)
def test_load_override(override, path, value):
    field = configuration.load(None, [override])
    for name in path.split("."):
        field = field[name]
    assert (dict(field) if isinstance(value, dict) else field) == value


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "--config.evolve.ronds=2",
            "no field 'ronds' in the section evolve; did you mean evolve.rounds?",
        ),
        ("--config.evole.rounds=2", "no field 'evole' in the configuration; did you mean evolve?"),
        ("--config.evolve.rounds=two", "evolve.rounds is an integer (now 8)"),
        ("--config.evolve.rounds=2.5", "evolve.rounds is an integer"),
        ("--config.sft.learning_rate=fast", "sft.learning_rate is a number"),
        ("--config.evaluate.controls=maybe", "evaluate.controls is true or false"),
        (
            "--config.generator.num_inference_steps=many",
            "generator.num_inference_steps is an integer",
        ),
        ("--config.evolve=3", "evolve is a section"),
        ("--config.seed.x=1", "seed is a value, it has no fields"),
        ("--config.prefer.weights=3", "give a mapping"),
        ("--config.seed", "seed is an integer"),
    ],
)
def test_load_override_unknown_or_wrong_type(override, message):
    with pytest.raises(BadInput) as caught:
        configuration.load(None, [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert override.split("=")[0] in str(caught.value)
    assert caught.value.source == "--config"


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
        (["return 3"], "returned int, not an ml_collections.ConfigDict"),
        (["return config +"], "mine.py:4: invalid syntax"),
        (["return 1 / 0"], "mine.py:4: division by zero"),
        (["exit(3)"], "mine.py:4: the file called exit(3)"),
        (["raise SystemExit"], "mine.py:4: the file called exit()"),
        (["raise BaseException('stop')"], "mine.py:4: stop"),
        (["raise GeneratorExit"], "mine.py:4: GeneratorExit"),
        (["return get_config()"], "mine.py:"),
        (["config.unlock()", "del config.sft", "return config"], "config.sft: missing"),
        (["config.unlock()", "del config.rewards", "return config"], "config.rewards: missing"),
        (
            ["config.unlock()", "del config.evolve.rounds", "return config"],
            "evolve.rounds: missing",
        ),
        (["config.unlock()", "config.sft = 3", "return config"], "mine.py:5: "),
        (
            ["config.unlock()", "config.evolve.ronds = 3", "return config"],
            "evolve.ronds: there is no",
        ),
        (["config.generator.options = {'a': {1, 2}}", "return config"], "generator.options.a"),
        (["config.generator.options = {'a': object()}", "return config"], "generator.options.a"),
        (["config.generator.options = {'a': b'x'}", "return config"], "generator.options.a"),
        (["config.report.title = '\\ud800'", "return config"], "report.title"),
    ],
)
def test_load_broken_file(tmp_path, body, message):
    with pytest.raises(BadInput) as caught:
        configuration.load(write(tmp_path, body))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "config.rewards.entries['colours'] = {}",
            "mine.py:5: rewards.entries has no key 'colours'; add keys inside"
            " `with config.unlocked():`",
        ),
        (
            "config.rewards.entries.aestetic = {}",
            "mine.py:5: rewards.entries has no key 'aestetic'; did you mean 'aesthetic'? Add keys",
        ),
        ("config.rewards.update(weights={'colours': 1.0})", "mine.py:5: rewards.weights has no"),
        ("config.evolve.ronds = 3", "mine.py:5: there is no field 'ronds'"),
    ],
)
def test_load_new_key_of_a_locked_mapping(tmp_path, monkeypatch, line, message):
    write(tmp_path, ["config.lock()", line, "return config"])
    monkeypatch.chdir(tmp_path)  # a relative path
    with pytest.raises(BadInput) as caught:
        configuration.load("mine.py")
    assert str(caught.value).startswith(message)


def test_load_name_too_long():
    with pytest.raises(BadInput, match="no such file"):
        configuration.load("x" * 5000)


def test_load_unusable_file(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        configuration.load(str(tmp_path / "none.py"))
    with pytest.raises(BadInput, match="defines no get_config"):
        configuration.load(write(tmp_path, [], start="x = 1\n"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match="not a Python file"):
        configuration.load(str(tmp_path / "notes.txt"))


def test_load_file_with_argument(tmp_path):
    file = write(
        tmp_path,
        ["config.evaluate.prompts = {'mine': path}", "return config"],
        start=START.replace("get_config()", "get_config(path)", 1),
    )
    assert configuration.load(file + ":my.txt").evaluate.prompts.to_dict() == {"mine": "my.txt"}


def test_load_shipped_files(request):
    for file in sorted((request.config.rootpath / "configs").glob("*.py")):
        assert configuration.load(file).rounds >= 1


def test_split_overrides_mixed_words():
    rest, overrides = split_overrides(
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


def test_load_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration.load("smoke").report.title == "Smoke test"
    with pytest.raises(BadInput, match="did you mean --config=smoke"):
        configuration.load("smok")


@pytest.mark.parametrize(
    "override, field",
    [
        ("--config.seed=99999999999999999999999", "seed"),
        ("--config.generator.batch_size=0", "generator.batch_size"),
        ("--config.generator.guidance_scale=nan", "generator.guidance_scale"),
        ("--config.sft.learning_rate=nan", "sft.learning_rate"),
        ("--config.sft.max_steps=-1", "sft.max_steps"),
        ("--config.sft.lr_scheduler_type=cosinus", "sft.lr_scheduler_type"),
        ("--config.evolve.ranking=best", "evolve.ranking"),
        ("--config.rewriter.top_p=1.5", "rewriter.top_p"),
        ("--config.mesh.data=0", "mesh.data"),
        ("--config.generator.mesh.tensor=-2", "generator.mesh.tensor"),
        ("--config.generator.num_frames=0", "generator.num_frames"),
        ("--config.generator.endpoint.concurrency=0", "generator.endpoint.concurrency"),
        ("--config.generator.endpoint.timeout_s=0", "generator.endpoint.timeout_s"),
        ("--config.sft.learning_rate=0", "sft.learning_rate"),
        ("--config.sft.weight_decay=-1", "sft.weight_decay"),
        ("--config.sft.max_grad_norm=0", "sft.max_grad_norm"),
        ("--config.sft.lora.lora_dropout=1", "sft.lora.lora_dropout"),
        ("--config.sft.length_buckets=(0,)", "sft.length_buckets"),
        ("--config.dpo.beta=-0.1", "dpo.beta"),
        ("--config.grpo.epsilon=0", "grpo.epsilon"),
        ("--config.prefer.margin=-1", "prefer.margin"),
        ("--config.evolve.preview.keep=0", "evolve.preview.keep"),
        ("--config.check.row_length=100000000000", "check.row_length"),
        ("--config.check.prompt_length=100000000000", "check.prompt_length"),
        ("--config.check.num_examples=100000000000", "check.num_examples"),
        ("--config.evaluate.seeds=()", "evaluate.seeds"),
        ("--config.evaluate.seeds=(1,1)", "evaluate.seeds"),
        ("--config.evaluate.seeds=(-1,)", "evaluate.seeds"),
        ("--config.evaluate.seeds=('a',)", "evaluate.seeds"),
        ("--config.evaluate.systems=('bass',)", "evaluate.systems"),
        ("--config.evaluate.prompts={'mine': 3}", "evaluate.prompts.mine"),
        ("--config.proposers.local.share=-1", "proposers.local.share"),
        ("--config.proposers.local.share=0", "proposers"),
        ("--config.proposers.local.first_round=0", "proposers.local.first_round"),
        ("--config.proposers.chat.concurrency=0", "proposers.chat.concurrency"),
        ("--config.proposers={'local': 3}", "proposers.local"),
        ("--config.rewards.weights={}", "rewards.weights"),
        ("--config.rewards.weights={'AES': 0.0}", "rewards.weights"),
        ("--config.evolve.weights={'AES': 0.0}", "evolve.weights"),
        ("--config.select.weights={'AES': 'x'}", "select.weights.AES"),
        ("--config.prefer.weights={'AEZ': 1.0}", "prefer.weights.AEZ"),
        ("--config.grpo.weights={'FAITH': 1.0}", "grpo.weights.FAITH"),
        ("--config.rewards.constraints={'FAITH': 7.0}", "rewards.constraints.FAITH"),
        ("--config.rewards.thresholds={'FAITH': 1.0}", "rewards.thresholds.FAITH"),
        ("--config.select.constraints={'FAITH': 1.5}", "select.constraints.FAITH"),
        ("--config.prefer.thresholds={'AES': float}", "prefer.thresholds"),
        ("--config.rewards.weights={'AES': 'x'}", "rewards.weights.AES"),
        ("--config.rewards.weights={'AES': 1e999}", "rewards.weights.AES"),
        ("--config.rewards.weights={'AEZ': 1.0}", "rewards.weights.AEZ"),
        ("--config.rewards.entries={'aesthetics': {}}", "rewards.entries"),
        ("--config.rewards.entries={'aesthetic': {'framez': 4}}", "rewards.entries"),
        ("--config.rewards.entries={'aesthetic': 5}", "rewards.entries"),
        ("--config.proposers.local.kind=nearby", "proposers.local"),
        ("--config.proposers={'mine': {'kind': 'local', 'temprature': 1.0}}", "proposers.mine"),
    ],
)
def test_load_value_out_of_range(override, field):
    with pytest.raises(BadInput) as caught:
        configuration.load(None, [override])
    assert "\n" not in str(caught.value)
    assert (caught.value.field or "").startswith(field)
