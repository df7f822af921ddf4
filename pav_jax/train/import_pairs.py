"""Pairs that others published, as the pairs that training reads."""

import json
from pathlib import Path

from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.records import PromptPair
from pav_jax.storage.records import read_jsonl, write_jsonl


def import_pairs(path: str | Path, out: Path) -> Path:
    """Writes the pairs in `path`, JSON Lines of `PromptPair` or one JSON list of [prompt, refined],
    to `out`.

    Raises:
      BadInput: no such file, not JSON, or an item that is no pair of texts; names the file and the
        item.
    """
    path = Path(local_file(path))
    if path.suffix != ".json":
        write_jsonl(out, read_jsonl(path, PromptPair))
        return out
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); name a file of pairs"
        ) from error
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}); mend or fetch it again") from error
    if not isinstance(items, list) or not items:
        raise BadInput(f"{path}: holds no list; write [[prompt, refined], ...]")
    for number, item in enumerate(items):
        texts = (
            isinstance(item, list)
            and len(item) == 2
            and all(isinstance(t, str) and t.strip() for t in item)
        )
        if not texts:
            raise BadInput(
                f"{path}: item {number} is {json.dumps(item)[:60]}; write [prompt, refined], two"
                " texts"
            )
    write_jsonl(out, [PromptPair(prompt.strip(), refined.strip()) for prompt, refined in items])
    return out
