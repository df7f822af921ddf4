"""A cache of scores, one small file per video, prompt and reward.

The cache never stops a run: a corrupt or incomplete entry is treated as missing and rewritten, and
if entries cannot be written, scoring continues without the cache.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pav_jax.storage.addresses import AnyPath, as_path, is_remote
from pav_jax.storage.files import write_atomic


def default_folder() -> Path:
    """`pav_jax/scores` in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pav_jax" / "scores"


class ScoreCache:
    """Scores in `folder`, local or in an object store; made when the first score is written.

    Attributes:
      problem: one line that says why scores cannot be written any more; None while they can.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = as_path(folder)
        self.problem: str | None = None

    def get(
        self, video: str, prompt: str, reward: str, names: Sequence[str]
    ) -> dict[str, float] | None:
        """Looks up the scores of a video; None if they are not in the cache.

        Args:
          video: the digest of the video's file.
          reward: the reward's fingerprint.
          names: of the scores.

        Returns:
          name -> score, NaN where the reward could not score the video.
        """
        try:
            entry = json.loads(self._path(video, prompt, reward).read_bytes())
            if not isinstance(entry, dict) or set(entry) != set(names):
                return None
            return {
                name: math.nan if entry[name] is None else _finite(entry[name]) for name in names
            }
        except (OSError, ValueError, TypeError):  # BadInput too, where an object store refuses
            return None

    def put(self, video: str, prompt: str, reward: str, scores: Mapping[str, float]) -> None:
        """Writes scores atomically; a failure sets `problem`.

        Args:
          video, reward: see `get`.
        """
        if self.problem:
            return
        path = self._path(video, prompt, reward)
        entry = {
            name: float(value) if math.isfinite(value) else None for name, value in scores.items()
        }
        try:
            self._write(path, json.dumps(entry).encode())
        except (OSError, ValueError) as error:  # BadInput, and ValueError: no name of a file
            reason = getattr(error, "strerror", None) or error
            self.problem = f"{str(self.folder):.300}: scores cannot be cached ({reason})"

    @staticmethod
    def _write(path: AnyPath, data: bytes) -> None:
        if is_remote(path):
            write_atomic(path, data)
            return
        temporary: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # a unique name: other processes may write scores of the same video
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
                temporary = Path(file.name)
                file.write(data)
            os.replace(temporary, path)
        except (OSError, ValueError):
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise

    def _path(self, video: str, prompt: str, reward: str) -> AnyPath:
        text = json.dumps([video, prompt, reward])
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        # 256 folders, because some file systems are slow with many files in one
        return self.folder / key[:2] / f"{key}.json"


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)
