"""Videos that records name. A record may come from anywhere, so its path is not believed."""

import os
import stat
from pathlib import PurePosixPath

from pav_jax.errors import BadInput
from pav_jax.storage.addresses import as_path, filesystem, is_remote

MAX_VIDEO_FILE_BYTES = 2**26  # a minute of 1080p takes about as much


def read_saved_video(workdir: str | os.PathLike, video: str) -> bytes | None:
    """Read the file of a record's video; None if there is none any more.

    Args:
      video: the path in the record, relative to the work directory.

    Raises:
      BadInput: the path leads out of the work directory, also through a link, or to something else
        than a regular file of at most MAX_VIDEO_FILE_BYTES.
    """
    parts = PurePosixPath(video).parts
    if "\\" in video or "\0" in video or not parts or parts[0] == "/" or ".." in parts:
        raise _bad(workdir, video, "leads out of the work directory")
    path = as_path(workdir) / video
    try:
        if not is_remote(workdir):
            _check_local(workdir, video)
        elif (filesystem(path).size(os.fspath(path)) or 0) > MAX_VIDEO_FILE_BYTES:
            raise _bad(workdir, video, f"is larger than {MAX_VIDEO_FILE_BYTES:,} bytes, the limit")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "its name is not valid text"
        raise _bad(workdir, video, f"cannot be read ({reason})") from error


def _check_local(workdir: str | os.PathLike, video: str) -> None:
    root = os.path.realpath(workdir)
    path = os.path.realpath(os.path.join(root, video))
    if os.path.commonpath([root, path]) != root:
        raise _bad(workdir, video, "is a link out of the work directory")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise _bad(workdir, video, "is not a regular file")
    if status.st_size > MAX_VIDEO_FILE_BYTES:
        problem = f"has {status.st_size:,} bytes; the limit is {MAX_VIDEO_FILE_BYTES:,}"
        raise _bad(workdir, video, problem)


def _bad(workdir: str | os.PathLike, video: str, problem: str) -> BadInput:
    name = video if len(video) <= 200 else f"{video[:200]}..."
    return BadInput(
        f"{os.fspath(workdir)}: a record's video {name!r} {problem}; remove the record or correct"
        " its field video",
        source=workdir,
        field="video",
    )
