"""Every command that writes refuses a path where nothing can be made, in one line."""

import os

import pytest

from tests.commands.run_pav import fails, run
from tests.impossible_paths import IMPOSSIBLE, make_places

COMMANDS = {
    "generate": ["generate", "a cat", "--model=m", "--out={}"],
    "generate frames": ["generate", "a cat", "--model=m", "--format=frames", "--out={}"],
    **{f"export {to}": ["export", "--from=m", f"--to={to}", "--out={}"] for to in ("hf", "gguf")},
    **{name: [name, "--config=mini", "--workdir={}"] for name in ("run", "select")},
    "report": ["report", "--workdir={}"],
}
PATHS = IMPOSSIBLE | {
    "a file where a folder is needed": "file",
    "below a device": "/dev/null/x",
    "a device": "/dev/null",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("command", COMMANDS)
def test_command_impossible_path(command, path, tmp_path, capsys, fake_calls):
    make_places(tmp_path)
    words = [word.format(os.path.join(tmp_path, path)) for word in COMMANDS[command]]
    line = fails(capsys, *words)
    assert len(line) < 2000 and line.encode()
    assert fake_calls == []  # nothing was loaded, no stage has begun
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "folder"]


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse such a name")
@pytest.mark.parametrize("command", ["select", "report"])
def test_command_bytes_that_are_no_text(command, tmp_path, capsys):
    status, _, err = run(capsys, command, "--config=mini", f"--workdir={tmp_path}/new\udcff")
    assert (status, err) == (0, "")
