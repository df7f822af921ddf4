"""Named sets of evaluation prompts, read from the files that the configuration lists."""

import dataclasses
from collections.abc import Mapping

from pav_jax.candidates.prompt_file import read_prompt_file
from pav_jax.errors import BadInput
from pav_jax.storage.json_files import parse_json


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Prompts that are measured and reported together.

    Attributes:
      prompts: the users' prompts.
      oracles: the caption that each prompt was made from, None if it is unknown.
    """

    prompts: tuple[str, ...]
    oracles: tuple[str | None, ...]

    def first(self, max_prompts: int | None) -> "PromptSet":
        """Return the first `max_prompts` prompts; all if it is None."""
        return PromptSet(self.prompts[:max_prompts], self.oracles[:max_prompts])


def read_sets(files: Mapping[str, str], max_prompts: int | None = None) -> dict[str, PromptSet]:
    """Read the evaluation prompts: set name -> prompts.

    Args:
      files: set name -> file, see `read_prompt_set`.
      max_prompts: maximum number of prompts per set; None for all.

    Raises:
      BadInput: there is no set, or a file is missing, malformed or empty, or repeats a prompt.
    """
    if not files:
        raise BadInput(
            "evaluate.prompts: no prompt set is configured; add a name and a file, as in {'mine':"
            " 'prompts.txt'}",
            source="configuration",
            field="evaluate.prompts",
        )
    return {
        name: read_prompt_set(path, f"evaluate.prompts.{name}").first(max_prompts)
        for name, path in sorted(files.items())
    }


def read_prompt_set(path: str, field: str | None = None) -> PromptSet:
    """Read a file of prompts.

    Args:
      path: a .txt file with one prompt per line, or a .jsonl file of objects with `prompt` and
        optionally `oracle`; `mini:...` refers to a file in this package.
      field: the field of the configuration that names the file, for messages.

    Raises:
      BadInput: the file is missing, malformed or empty, or repeats a prompt.
    """
    lines = read_prompt_file(path, field).split("\n")
    oracles: dict[str, str | None] = {}
    read_line = _read_json if str(path).endswith(".jsonl") else _read_text
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        location = f"{path}:{number}"
        prompt, oracle = read_line(line, location)
        if prompt in oracles:
            raise BadInput(f"{location}: duplicate prompt; remove one of the two", source=path)
        oracles[prompt] = oracle
    if not oracles:
        name = f"{field}={path}" if field else path
        raise BadInput(f"{name}: the file has no prompt; write one per line", path, field)
    return PromptSet(tuple(oracles), tuple(oracles.values()))


def _read_text(line: str, location: str) -> tuple[str, None]:
    return " ".join(line.split()), None


def _read_json(line: str, location: str) -> tuple[str, str | None]:
    row = parse_json(line, location, "fix the line")
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput(
            f"{location}: needs an object with a `prompt`", source=location, field="prompt"
        )
    oracle = row.get("oracle")
    if oracle is not None and not isinstance(oracle, str):
        raise BadInput(f"{location}: `oracle` must be a string", source=location, field="oracle")
    return " ".join(prompt.split()), oracle
