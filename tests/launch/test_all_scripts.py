"""Settings, DRY_RUN and style, which all scripts share."""

import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.launch.scripts import (
    EVERYWHERE,
    JOB,
    LAUNCH,
    PAV,
    PLACE,
    QUEUED,
    REQUIRED,
    SCRIPTS,
    START,
    on_every_host,
    verbs,
)


def test_scripts_header_and_example():
    named = {str(path.relative_to(LAUNCH)) for path in SCRIPTS}
    sourced = {"tpu_settings.sh", "gcloud.sh"}
    assert named - sourced - {"on_host.sh"} == set(REQUIRED)
    for path in SCRIPTS:
        text = path.read_text()
        if path.name in sourced:
            continue
        assert text.startswith("#!/usr/bin/env bash\n# ") and "set -euo pipefail" in text, path
        assert f"launch/{path.relative_to(LAUNCH)}" in text.partition("\nset -euo")[0], path
        assert path.stat().st_mode & stat.S_IXUSR, path


@pytest.mark.parametrize("script", REQUIRED)
def test_scripts_missing_setting(desk, script):
    settings, arguments = REQUIRED[script]
    for name in settings:
        done = desk.run(
            script,
            {key: value for key, value in settings.items() if key != name},
            arguments,
            check=False,
        )
        assert (
            done.returncode != 0
            and len(done.stderr.splitlines()) == 1
            and f"{name}: " in done.stderr
        ), done.stderr
    assert desk.calls() == []


@pytest.mark.parametrize(
    "script, changes, arguments, words",
    [
        ("create.sh", {"TPU_TYPE": "v3-8"}, [], "TPU_TYPE=v3-8"),
        ("create.sh", {"TPU_KIND": "pod"}, [], "TPU_KIND=pod"),
        ("create.sh", {"CAPACITY": "cheap"}, [], "CAPACITY=cheap"),
        ("create.sh", {"SLICES": "two"}, [], "SLICES=two"),
        ("create.sh", {"TPU_KIND": "tpu-vm", "SLICES": "2"}, [], "TPU_KIND=queued-resources"),
        ("run.sh", {}, [], "give a pav command"),
        ("run.sh", {}, ["python", "x.py"], "give a pav command"),
        ("run.sh", {"SECRETS": "HF_TOKEN"}, PAV, "HF_TOKEN"),
        ("watch.sh", {}, ["pav"], "give a pav command"),
        ("gke/create.sh", {"CAPACITY": "flex"}, [], "CAPACITY=flex"),
        ("gke/create.sh", {"CAPACITY": "reserved"}, [], "RESERVATION"),
        ("gke/run.sh", {}, ["run"], "give a pav command"),
        ("gke/run.sh", {"SECRETS": "HF_TOKEN"}, PAV, "HF_TOKEN"),
    ],
)
def test_scripts_invalid_setting(desk, script, changes, arguments, words):
    done = desk.run(script, REQUIRED[script][0] | changes, arguments, check=False)
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and words in done.stderr, (
        done.stderr
    )
    assert desk.calls() == []


@pytest.mark.parametrize(
    "script", [name for name in REQUIRED if name not in ("watch.sh", "status.sh")]
)
@pytest.mark.parametrize("kind", ["queued-resources", "tpu-vm"])
def test_scripts_dry_run(desk, script, kind):
    settings, arguments = REQUIRED[script]
    settings = settings | {"TPU_KIND": kind}
    arguments = [*arguments, '--config.name=it\'s a "test"'] if arguments else []
    done = desk.run(script, settings | {"DRY_RUN": "1"}, arguments)
    assert desk.calls() == [] and sorted(path.name for path in desk.folder.iterdir()) == ["bin"]
    desk.run(script, settings, arguments)
    called = desk.calls()
    if script == "gke/run.sh":  # a run works in a folder of its own
        scratch = called[1][2].removesuffix("/source.tar")
        called = [
            [word.replace(scratch, str(desk.folder / "pav-mini")) for word in call]
            for call in called
        ]
    assert [shlex.split(line) for line in done.stdout.splitlines()] == called


def test_watch_dry_run(desk):
    settings, arguments = REQUIRED["watch.sh"]
    done = desk.run("watch.sh", settings | {"DRY_RUN": "1"}, arguments)
    assert desk.calls() == []
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert (
        verbs(lines) == ["delete", "create", "stop", "install", "start"]
        and lines[0][4] == "describe"
    )


def test_run_secrets_not_printed(desk):
    settings = JOB | {
        "SECRETS": "OPENAI_API_KEY HF_TOKEN",
        "OPENAI_API_KEY": "s3cret",
        "HF_TOKEN": "t0ken",
    }
    for dry in ("1", "0"):
        done = desk.run("run.sh", settings | {"DRY_RUN": dry}, PAV)
        assert not any(secret in done.stdout + done.stderr for secret in ("s3cret", "t0ken"))
    copy, start = desk.calls()
    assert copy[:5] == [*QUEUED, "scp"] and copy[6:] == [
        "pav:pav_secrets",
        *EVERYWHERE,
        "--scp-flag=-p",
        *PLACE,
    ]
    assert start == on_every_host(START)
    assert not Path(copy[5]).exists()


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_scripts_shellcheck():
    done = subprocess.run(
        ["shellcheck", "-x", *SCRIPTS], cwd=LAUNCH.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_scripts_line_length():
    long = [
        f"{path.name}:{number}"
        for path in SCRIPTS
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if len(line) > 120
    ]
    assert not long
