"""The `pav` command in unusual surroundings, each in a process of its own."""

import os
import subprocess
import sys

import pytest

from pav_jax.environment import variable_error


def run(command, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "pav_jax.main"],
        env=environment | variables,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "command, status, line",
    [
        ('"$@" nothing >&-', 2, "there is no command"),
        ('"$@" refine - <&-', 2, "no prompt in it"),
        ('"$@" nothing 2>&-', 2, ""),
        ('d=$(mktemp -d); cd $d; rmdir $d; "$@" --help', 2, "working directory no longer exists"),
        ("PYTHONIOENCODING=ascii \"$@\" refine $'caf\\xc3\\xa9\\xff'", 2, "not UTF-8"),
        ('PYTHONIOENCODING=ascii "$@" refin\u00e9', 2, "refin"),
    ],
)
def test_console_streams_and_folder(command, status, line):
    result = run(command)
    assert result.returncode == status, result.stderr
    assert line in result.stderr.decode() and b"Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1


@pytest.mark.parametrize("address", ["abc://bucket/cache", "gs://"])
def test_console_compilation_cache_of_no_store(address):
    result = run('"$@" refine "a cat"', JAX_COMPILATION_CACHE_DIR=address)
    assert result.returncode == 2
    line = result.stderr.decode()
    assert line.startswith(f"pav: JAX_COMPILATION_CACHE_DIR={address}: "), line
    assert line.count("\n") == 1


@pytest.mark.slow
def test_console_compilation_cache_in_object_store(gcs_store):
    """It is used, without warnings of its client."""
    gcs_store.proxy.requests.clear()
    result = run(
        '"$@" refine "a cat"',
        JAX_COMPILATION_CACHE_DIR=f"{gcs_store.address}/compiled",
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    assert result.returncode == 0
    assert any("compiled" in path for method, path in gcs_store.proxy.requests if method == "POST")
    assert b"bucket type" not in result.stderr and b"credentials" not in result.stderr


def test_prepare_process_user_without_name_and_home():
    code = (
        "import os, pathlib, pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from pav_jax.environment import prepare_process\n"
        "prepare_process()\n"
        "import getpass; print(getpass.getuser() == str(os.getuid()), pathlib.Path.home().is_dir())"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert result.stdout == b"True True\n", result.stderr


@pytest.mark.parametrize(
    "encoding, shown", [("utf-8", b"\xc3\xa9 \xff \\ud800"), ("ascii", b"\\u00e9 \xff \\ud800")]
)
def test_prepare_process_any_text_can_be_printed(encoding, shown):
    code = (
        "from pav_jax.environment import prepare_process; prepare_process()\n"
        "print('\\xe9 \\udcff \\ud800')"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert result.stdout == shown + b"\n", result.stderr


@pytest.mark.parametrize(
    "name, value, statement",
    [
        ("JAX_ENABLE_X64", "maybe", "import jax"),
        ("JAX_NUM_CPU_DEVICES", "x", "import jax"),
        ("JAX_PLATFORMS", "foo", "import jax; jax.devices()"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "foo", "import jax"),
    ],
)
def test_variable_error_of_jax(name, value, statement):
    code = (
        "from pav_jax.environment import variable_error\n"
        f"try: exec({statement!r})\n"
        "except Exception as error: print(variable_error(error))"
    )
    environment = os.environ | {name: value}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert f"{name}={value}" in result.stdout.decode(), result.stderr


def test_variable_error_of_something_else(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(ValueError) as error:
        int("x")
    assert variable_error(error.value) is None
