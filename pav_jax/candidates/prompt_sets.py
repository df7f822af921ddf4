"""Named sets of evaluation prompts, read from the files that the configuration lists."""

import dataclasses
import json
from collections.abc import Iterator, Mapping

from etils import epath

from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Prompts that are measured and reported together; `oracles` holds the caption a prompt came
    from, or None."""

    prompts: tuple[str, ...]
    oracles: tuple[str | None, ...]

    def first(self, count: int) -> "PromptSet":
        """The first `count` prompts; all for 0."""
        return PromptSet(self.prompts[: count or None], self.oracles[: count or None])


def read_sets(files: Mapping[str, str], count: int = 0) -> dict[str, PromptSet]:
    """Set name -> file (`mini:...` names those that come with the package) -> set name -> prompts.

    Raises:
      BadInput: there is no set, or a file is missing, broken, empty, or names a prompt twice.
    """
    if not files:
        raise BadInput(
            "evaluate.prompts: names no prompt set; give a name and a file, as in {'mine':"
            " 'prompts.txt'}"
        )
    return {name: read_prompt_set(path).first(count) for name, path in sorted(files.items())}


def read_prompt_set(path: str) -> PromptSet:
    """Reads a .txt file with one prompt a line, or a .jsonl file of objects with `prompt` and
    perhaps `oracle`."""
    file = epath.Path(local_file(path))
    if not file.exists():
        raise BadInput(
            f"{path}: no such file; evaluate.prompts names a .txt or .jsonl file for each set"
        )
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text") from error
    rows = {}
    for number, prompt, oracle in _rows(path, lines):
        if prompt in rows:
            raise BadInput(f"{path}:{number}: this prompt is in the file twice; leave one out")
        rows[prompt] = oracle
    if not rows:
        raise BadInput(f"{path}: no prompt in it")
    return PromptSet(tuple(rows), tuple(rows.values()))


def _rows(path: str, lines: list[str]) -> Iterator[tuple[int, str, str | None]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not str(path).endswith(".jsonl"):
            yield number, " ".join(line.split()), None
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}:{number}: not valid JSON ({error.msg})") from error
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("prompt"), str)
            or not row["prompt"].strip()
        ):
            raise BadInput(f"{path}:{number}: needs an object with a `prompt`")
        oracle = row.get("oracle")
        if oracle is not None and not isinstance(oracle, str):
            raise BadInput(f"{path}:{number}: `oracle` must be text")
        yield number, " ".join(row["prompt"].split()), oracle
