import subprocess
import sys

import pytest

from pav_jax.main import main

COMMANDS = [
    "refine",
    "adapters",
    "serve",
    "generate",
    "score",
    "fvd",
    "run",
    "evolve",
    "select",
    "sft",
    "prefer",
    "dpo",
    "grpo",
    "evaluate",
    "trust",
    "calibrate",
    "report",
    "export",
    "check",
    "cache-curve",
]


def test_help_lists_commands(capsys):
    for argv in ([], ["--help"]):
        try:
            assert main(argv) == 0
        except SystemExit as stop:
            assert stop.code == 0
        text = capsys.readouterr().out
        assert all(f"    {name} " in text for name in COMMANDS) and "pav run --config=mini" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"  pav {command}" in text and "examples:" in text


def test_help_imports():
    code = (
        "import sys; from pav_jax.main import main\ntry: main(['run', '--help'])\nexcept"
        " SystemExit: pass\nprint([m for m in ('jax', 'torch', 'transformers', 'matplotlib',"
        " 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
