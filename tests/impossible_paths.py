"""Paths at which no file or folder can be made, below a folder that `make_places` fills."""

from pathlib import Path

IMPOSSIBLE = {
    "below a file": "file/a",
    "far below a file": "file/a/b/c",
    "too long": "x" * 300,
    "too long a folder": "x" * 300 + "/a",
    "too long in all": "x/" * 3000,
    "lone surrogate": "\ud800",
    "below a lone surrogate": "\ud800/a",
    "bytes that are not text below a file": "file/\udcff",
    "null byte": "a\0b",
    "below a dangling link": "dangling/a",
    "not permitted": "/proc/sys/a",
}


def make_places(folder: Path) -> Path:
    """Write what the paths refer to: a file, a folder and a dangling link."""
    (folder / "file").write_text("text")
    (folder / "dangling").symlink_to(folder / "nothing")
    (folder / "folder").mkdir()
    return folder
