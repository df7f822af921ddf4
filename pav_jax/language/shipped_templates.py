"""Chat templates with the instruction to rewrite, one file for each prompt format."""

from pathlib import Path
from typing import Any

from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.language import chat, thoughts
from pav_jax.storage.files import read_bounded
from pav_jax.storage.json_files import read_json

AUTO = "auto"  # stands for `shipped_template` where a template file is named
MODEL = "model"  # stands for the model's own template there
MAX_TEMPLATE_BYTES = 2**20
FOLDER = Path(__file__).with_name("templates")
# format -> tokens that only tokenizers of this format have; the first match is taken
FORMATS = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>"),
    "phi4": ("<|im_start|>", "<|im_sep|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "mistral": ("[INST]", "[/INST]"),
}


def shipped_template(tokenizer: Any, model_type: str) -> Path:
    """Return the file with the instruction to rewrite in the prompt format of a model.

    The format follows from the tokenizer's special tokens, as one family may have several.

    Args:
      model_type: of config.json; early Mistral models write `[INST]` without a token of its own.

    Raises:
      BadInput: the format is not known.
    """
    formats = [name for name, tokens in FORMATS.items() if _has_tokens(tokenizer, tokens)]
    if not formats and model_type == "mistral":
        formats = ["mistral"]
    if not formats:
        raise BadInput(
            f"template={AUTO}: no shipped instruction fits the tokenizer of this {model_type}"
            f" model; formats are {', '.join(FORMATS)}. Name a chat template (a jinja file)",
            field="template",
        )
    name = formats[0]
    if name == "chatml" and _thinks(tokenizer):
        name = "chatml_thinking"
    return FOLDER / f"rewriter_{name}.jinja"


def read_template(template: str | Path, tokenizer: Any, model_type: str) -> str:
    """Return the text of a chat template.

    Args:
      template: a jinja file, or AUTO for the shipped one that fits the tokenizer.
      model_type: as in `shipped_template`.

    Raises:
      BadInput: the file cannot be read, or none is shipped for this model.
    """
    if template == AUTO:
        template = shipped_template(tokenizer, model_type)
    return _read_file(template)


def _read_file(template: str | Path) -> str:
    try:
        return read_bounded(local_file(template), MAX_TEMPLATE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{template}: the chat template cannot be read ({error})", source=template
        ) from error


def read_folder_template(folder: Path) -> str | None:
    """Return the chat template beside a tokenizer or an adapter; None if there is none.

    Raises:
      BadInput: it cannot be read, or is not one text.
    """
    if (folder / "chat_template.jinja").is_file():
        return _read_file(folder / "chat_template.jinja")
    settings = folder / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    if template is not None and not isinstance(template, str):
        raise BadInput(
            f"{settings}: chat_template is of type {type(template).__name__}; it must be a text",
            source=settings,
            field="chat_template",
        )
    return template


def lacks_instruction(tokenizer: Any, model_type: str) -> bool:
    """Return whether a shipped instruction would fit, and the tokenizer's own template says nothing
    of prompts or videos, as that of a general model.

    Args:
      model_type: as in `shipped_template`.
    """
    try:
        shipped_template(tokenizer, model_type)
    except BadInput:  # of no known format, as the embedded models
        return False
    text = chat.chat_text(tokenizer, chat.user_chat("a")).lower()
    return "prompt" not in text and "video" not in text


def _has_tokens(tokenizer: Any, tokens: tuple[str, ...]) -> bool:
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    return all(i is not None and i != tokenizer.unk_token_id for i in ids)


def _thinks(tokenizer: Any) -> bool:
    """Whether a model thinks before it answers, according to its own template."""
    template = tokenizer.chat_template
    return isinstance(template, str) and (
        "enable_thinking" in template or thoughts.has_marks(template)
    )
