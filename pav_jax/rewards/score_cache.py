"""Scores that were computed before, kept as one small file each.

The cache never stands in the way: an entry that is broken, half-written or of another form is as
good as none and is written again, and where nothing can be written scoring goes on without.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pav_jax" / "scores"


class ScoreCache:
    """Scores in `folder`, which is made when the first is written.

    Attributes:
      problem: why nothing is written any more, in one line.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.problem: str | None = None

    def get(
        self, video: str, prompt: str, reward: str, names: Sequence[str]
    ) -> dict[str, float] | None:
        """The scores of `names`, NaN where the reward had no answer; None where they are not known.

        Args:
          video, reward: the hash of the video's file, the reward's fingerprint.
        """
        try:
            found = json.loads(self._path(video, prompt, reward).read_bytes())
            if not isinstance(found, dict) or set(found) != set(names):
                return None
            return {
                name: math.nan if found[name] is None else _number(found[name]) for name in names
            }
        except (OSError, ValueError, TypeError):
            return None

    def put(self, video: str, prompt: str, reward: str, scores: Mapping[str, float]) -> None:
        """Keeps `scores`; readers see all of them or none."""
        if self.problem:
            return
        path, part = self._path(video, prompt, reward), None
        plain = {
            name: float(value) if math.isfinite(value) else None for name, value in scores.items()
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # a name of its own, so that processes that score the same video do not write into each
            # other's file
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, suffix=".part", delete=False
            ) as file:
                part = Path(file.name)
                json.dump(plain, file)
            os.replace(part, path)
        except OSError as error:
            self.problem = f"{self.folder}: scores are not kept ({error.strerror or error})"
            if part is not None:
                part.unlink(missing_ok=True)

    def _path(self, video: str, prompt: str, reward: str) -> Path:
        text = json.dumps([video, prompt, reward])
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return (
            self.folder / key[:2] / f"{key}.json"
        )  # in 256 folders: some file systems are slow with many files


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)
