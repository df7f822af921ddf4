import json

import pytest

from pav_jax import config as configuration
from pav_jax import redaction
from pav_jax.errors import BadInput
from pav_jax.main import main
from pav_jax.records import PromptPair
from pav_jax.storage.json_files import write_json
from pav_jax.storage.records import write_jsonl

SECRET = 'sk-"quoted"&very-secret'


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setattr(redaction, "_registered", set())
    redaction.register_secret(SECRET)
    return SECRET


@pytest.mark.parametrize(
    "text, shown",
    [
        ("at http://user:pass@host/v1?a=1", "at http://***@host/v1?a=1"),
        ("s3://AKIA:x@bucket/run", "s3://***@bucket/run"),
        ("http://h/x?key=abc&n=2", "http://h/x?key=***&n=2"),
        ("http://h/x?n=2&access_token=abc'", "http://h/x?n=2&access_token=***'"),
        ("gs://b/o?X-Goog-Signature=abc", "gs://b/o?X-Goog-Signature=***"),
        ("http://h/x?version=abc", "http://h/x?version=abc"),
        ("a dog runs, key=3?", "a dog runs, key=3?"),
        ("mail me@home", "mail me@home"),
    ],
)
def test_redact_addresses(text, shown):
    assert redaction.redact(text) == shown
    assert str(BadInput(text, source=text)) == shown
    assert BadInput("x", source=text).source == shown


@pytest.mark.parametrize(
    "name, is_secret",
    [
        ("api_key", True),
        ("X-Api-Key", True),
        ("key", True),
        ("Authorization", True),
        ("client_secret", True),
        ("max_tokens", False),
        ("eos_token", False),
        ("prompt_cache_key", False),
        ("seed", False),
    ],
)
def test_is_secret_name(name, is_secret):
    assert redaction.is_secret_name(name) == is_secret


def test_known_secrets_in_files(secret, tmp_path):
    write_json(tmp_path / "a.json", {"text": f"the key {secret}"})
    write_jsonl(tmp_path / "b.jsonl", [PromptPair("a", f"b {secret} c")])
    assert json.loads((tmp_path / "a.json").read_text()) == {"text": "the key ***"}
    assert json.loads((tmp_path / "b.jsonl").read_text())["refined"] == "b *** c"


def test_register_secret_short_or_empty(monkeypatch):
    monkeypatch.setattr(redaction, "_registered", set())
    for value in (None, "", "none", "EMPTY"):
        redaction.register_secret(value)
    assert redaction.redact("none, EMPTY") == "none, EMPTY"


@pytest.mark.parametrize(
    "override, field, variable",
    [
        ("generator.path=https://me:SECRET@h/x", "generator.path", "PAV_GENERATOR_API_KEY"),
        ("generator.path=http://h/x?key=SECRET", "generator.path", "PAV_GENERATOR_API_KEY"),
        ("generator.path=http://h:65536/x", "generator.path", "65535"),
        ("generator.options={'api_key': 'SECRET'}", "generator.options.api_key", "environment"),
        (
            "generator.options={'a': {'Authorization': 'SECRET'}}",
            "generator.options.a.Authorization",
            "environment",
        ),
        (
            "proposers.chat.base_url=http://u:SECRET@h/v1",
            "proposers.chat.base_url",
            "OPENAI_API_KEY",
        ),
        (
            "rewards.held_out=({'name': 'vision_questions', 'model': 'm', 'base_url':"
            " 'http://h/v1?token=SECRET', 'api_key_env': 'EYE'},)",
            "rewards.held_out.base_url",
            "EYE",
        ),
        ("evolve.prompts=s3://id:SECRET@bucket/prompts.txt", "evolve.prompts", "environment"),
    ],
)
def test_load_credentials_in_configuration(override, field, variable):
    with pytest.raises(BadInput) as error:
        configuration.load(None, [f"--config.{override}"])
    assert error.value.field == field
    assert variable in str(error.value) and "SECRET" not in str(error.value)


def test_main_address_with_credentials(capsys, tmp_path):
    argv = [f"--workdir={tmp_path / 'w'}", "--config.generator.path=http://me:SECRET@h/x"]
    assert main(["run", "--config=smoke", *argv]) == 2
    assert main(["refine", "a dog", "--modle=http://me:SECRET@h/x"]) == 2
    out, err = capsys.readouterr()
    assert "SECRET" not in out + err and len(err.splitlines()) == 2
    assert not (tmp_path / "w").exists()
