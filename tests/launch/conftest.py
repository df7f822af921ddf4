"""Fixtures of the tests of the launch scripts."""

import shutil

import pytest

from tests.launch.scripts import LAUNCH, Desk


@pytest.fixture
def desk(tmp_path):
    """Runs scripts with fake programs."""
    return Desk(tmp_path)


@pytest.fixture
def host(desk):
    """A host's home directory with the repository's scripts and a pav that notes how it was
    called."""
    home = desk.folder / "tmp-host"
    (home / "pav/.venv/bin").mkdir(parents=True)
    shutil.copytree(LAUNCH, home / "pav/launch")
    pav = home / "pav/.venv/bin/pav"
    pav.write_text(
        '#!/usr/bin/env bash\nprintf "%s\\n" "$@" "$JAX_COMPILATION_CACHE_DIR" "$LIBTPU_INIT_ARGS"'
        ' "${OPENAI_API_KEY:-}" "$PWD" >~/called\necho working; exit "$(cat ~/fate 2>/dev/null ||'
        ' echo 0)"\n'
    )
    pav.chmod(0o755)
    return home
