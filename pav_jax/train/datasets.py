"""Training examples from Python: records, dicts, a `datasets.Dataset`, or a file."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.parallel.processes import first_process_first
from pav_jax.records import Preference, PromptPair
from pav_jax.storage.addresses import AnyPath
from pav_jax.storage.records import read_jsonl, write_jsonl
from pav_jax.train.import_pairs import import_pairs

Dataset = str | os.PathLike | Iterable[Any]


def write_pairs(dataset: Dataset, path: AnyPath) -> AnyPath:
    """Write the examples of SFT as JSON Lines of `PromptPair`.

    Args:
      dataset: a .jsonl or .json file (see `import_pairs`), or an iterable, such as a
        `datasets.Dataset`, of `PromptPair`s or of dicts with `prompt` and `completion` (or
        `refined`), or with `messages`. Texts may be TRL's conversations of one message.

    Raises:
      BadInput: an example lacks a text; `field` names the column.
    """
    with first_process_first("dataset"):
        if isinstance(dataset, str | os.PathLike):
            return import_pairs(dataset, path)
        write_jsonl(path, [_pair(row, number) for number, row in enumerate(dataset)])
    return path


def write_preferences(dataset: Dataset, path: AnyPath) -> AnyPath:
    """Write the examples of DPO as JSON Lines of `Preference`.

    Args:
      dataset: a .jsonl file of `Preference`s, or an iterable of `Preference`s or of dicts with
        `prompt`, `chosen` and `rejected`. Texts may be TRL's conversations of one message.

    Raises:
      BadInput: an example lacks a text; `field` names the column.
    """
    with first_process_first("dataset"):
        if isinstance(dataset, str | os.PathLike):
            write_jsonl(path, read_jsonl(dataset, Preference))
        else:
            write_jsonl(path, [_preference(row, number) for number, row in enumerate(dataset)])
    return path


def prompt_texts(prompts: Iterable[Any]) -> list[str]:
    """The prompts of an iterable of texts, or of dicts with `prompt`."""
    texts = []
    for number, row in enumerate(prompts):
        texts.append(_text(row["prompt"] if isinstance(row, Mapping) else row, "prompt", number))
    return texts


def _pair(row: Any, number: int) -> PromptPair:
    if isinstance(row, PromptPair):
        return row
    _check_is_mapping(row, number)
    if "messages" in row:
        messages = list(row["messages"])
        return PromptPair(
            _text(messages[:1], "messages", number), _text(messages[1:], "messages", number)
        )
    completion = "refined" if "refined" in row else "completion"
    return PromptPair(_column(row, "prompt", number), _column(row, completion, number))


def _preference(row: Any, number: int) -> Preference:
    if isinstance(row, Preference):
        return row
    _check_is_mapping(row, number)
    return Preference(
        prompt=_column(row, "prompt", number),
        chosen=_column(row, "chosen", number),
        rejected=_column(row, "rejected", number),
        margin=float(row.get("margin", 0.0)),
    )


def _check_is_mapping(row: Any, number: int) -> None:
    if not isinstance(row, Mapping):
        raise BadInput(
            f"dataset: example {number} is a {type(row).__name__}; give a dict or a record",
            source="dataset",
        )


def _column(row: Mapping[str, Any], name: str, number: int) -> str:
    if name not in row:
        raise BadInput(
            f"dataset: example {number} has no {name!r}; it has {', '.join(sorted(row))}",
            source="dataset",
            field=name,
        )
    return _text(row[name], name, number)


def _text(value: Any, name: str, number: int) -> str:
    """A text, or the content of a conversation of one message."""
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    if not isinstance(value, str):
        raise BadInput(
            f"dataset: {name!r} of example {number} is neither a text nor a conversation of one"
            " message",
            source="dataset",
            field=name,
        )
    return value
