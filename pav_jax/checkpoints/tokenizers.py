"""Loads the tokenizer in the folder of a checkpoint, without running code from it; saves one for
other versions of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pav_jax.errors import BadInput
from pav_jax.storage.json_files import read_json, write_json

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# version 5's notes on where a tokenizer was loaded from
OWN_FIELDS = ("backend", "is_local", "local_files_only", "name_or_path", "tokenizer_file")
MAX_REASON = 200  # characters of a library's message


def load_tokenizer(
    folder: str | Path, files: Sequence[str] = FILES, hint: str = "", **options: Any
) -> Any:
    """Load a tokenizer of transformers.

    Args:
      folder: a local folder.
      files: names of tokenizer files, of which one must be there.
      hint: how to fix a folder without one.
      options: for `AutoTokenizer.from_pretrained`.

    Raises:
      BadInput: no tokenizer is there, it is broken, or it needs code from the folder.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    if not any((folder / name).exists() for name in files):
        raise BadInput(
            f"{folder}: no tokenizer.json; {hint or 'is the checkpoint complete?'}",
            folder,
            "tokenizer.json",
        )
    settings = {name: read_json(folder / name) for name in SETTINGS if (folder / name).exists()}
    code = settings.get("tokenizer_config.json", {}).get("auto_map")
    try:
        # code in the folder is never run; without an own class, transformers refuses `auto_map`
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, **options)
    except Exception as error:  # transformers and tokenizers raise nearly anything
        if code is not None:
            file = folder / "tokenizer_config.json"
            raise BadInput(
                f"{file}: auto_map names a tokenizer that is Python code in the folder, which is"
                " never run; save the tokenizer as tokenizer.json with transformers",
                source=file,
                field="auto_map",
            ) from error
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        if (folder / "spiece.model").exists():
            reason += "; spiece.model needs the sentencepiece package"
        raise BadInput(
            f"{folder}: tokenizer.json or its settings cannot be read ({reason}); download or"
            " export them again",
            source=folder / "tokenizer.json",
        ) from error


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write a tokenizer that transformers 4.57 and 5 load with the same tokens."""
    tokenizer.save_pretrained(folder)
    make_portable(folder)


def make_portable(folder: str | Path) -> None:
    """Rewrite tokenizer_config.json beside a tokenizer.json as transformers 4.57 and 5 read it.

    Version 5 writes a class that version 4 does not have, and a list that it cannot read; version 4
    resets the pre-tokenizer's prefix space unless the file asks for it.
    """
    file = Path(folder) / "tokenizer_config.json"
    if not file.is_file() or not (Path(folder) / "tokenizer.json").is_file():
        return
    settings = {key: value for key, value in read_json(file).items() if key not in OWN_FIELDS}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings.pop("add_prefix_space", None)
    if _has_prefix_space(read_json(Path(folder) / "tokenizer.json").get("pre_tokenizer")):
        settings["add_prefix_space"] = True
    write_json(file, settings)


def _has_prefix_space(pre_tokenizer: Any) -> bool:
    """Whether a pre-tokenizer, or one in its sequence, puts a space in front of texts."""
    if not isinstance(pre_tokenizer, dict):
        return False
    steps = pre_tokenizer.get("pretokenizers") or []
    return pre_tokenizer.get("add_prefix_space") is True or any(map(_has_prefix_space, steps))
