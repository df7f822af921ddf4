"""Published pairs of prompt and rewrite, as the pairs that training reads."""

import json
import os
from typing import Any

from pav_jax.candidates.prompt_file import read_prompt_file
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.records import PromptPair
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.json_files import parse_json
from pav_jax.storage.records import read_jsonl, write_jsonl


def import_pairs(path: str | os.PathLike, out: AnyPath) -> AnyPath:
    """Write the pairs in the file `path` to `out` as JSON Lines of `PromptPair`.

    Args:
      path: JSON Lines of `PromptPair`, or a .json file with a list of [prompt, refined].

    Raises:
      BadInput: no such file, not JSON, or an item that is not a pair of texts; names file and item.
    """
    path = as_path(local_file(path))
    if path.suffix != ".json":
        write_jsonl(out, read_jsonl(path, PromptPair))
        return out
    text = read_prompt_file(path, "sft.pairs", "a .jsonl or .json file of pairs")
    items = parse_json(text, path, "fix the file")
    if not isinstance(items, list) or not items:
        raise BadInput(f"{path}: must hold a list [[prompt, refined], ...]", source=path)
    for number, item in enumerate(items):
        if not _is_pair(item):
            raise BadInput(
                f"{path}: item {number} is {json.dumps(item)[:60]}; write [prompt, refined], two"
                " texts",
                source=path,
                field=str(number),
            )
    write_jsonl(out, [PromptPair(prompt.strip(), refined.strip()) for prompt, refined in items])
    return out


def _is_pair(item: Any) -> bool:
    if not isinstance(item, list) or len(item) != 2:
        return False
    return all(isinstance(text, str) and text.strip() for text in item)
