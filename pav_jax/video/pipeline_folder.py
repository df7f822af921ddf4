"""What the diffusers folders of all families have in common: parts that must be there, a scheduler,
a tokenizer."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers
from jaxtyping import Int

from pav_jax.errors import BadInput
from pav_jax.models.weights import loaded_shapes
from pav_jax.storage.json_files import read_json
from pav_jax.video import schedulers


def check_components(folder: Path, names: Sequence[str], pipeline: str) -> None:
    """Raises BadInput where one of the folders `names` is missing."""
    for name in names:
        if not (folder / name).is_dir():
            raise BadInput(
                f"{folder}: the folder {name!r} is missing; {pipeline} pipeline has"
                f" {', '.join(names)}"
            )


def check_tiling(family: Any, asked: bool) -> None:
    """Raises BadInput where the VAE is asked to decode tiles and cannot."""
    if asked and not family.tiles:
        name = family.__name__ if isinstance(family, type) else type(family).__name__
        raise BadInput(f"vae_tiling: the VAE of {name} decodes whole frames only; leave it out")


def checked_sequence_length(max_sequence_length: int | None, default: int, limit: int) -> int:
    """How many text tokens to read: `max_sequence_length`, or `default` if it is None.

    Raises:
      BadInput: more than `limit`, which the model was trained on.
    """
    if max_sequence_length is None:
        return default
    if max_sequence_length > limit:
        raise BadInput(
            f"max_sequence_length={max_sequence_length}: this model reads at most {limit} text"
            " tokens",
            source="generate",
            field="max_sequence_length",
        )
    return max_sequence_length


def check_multiples(height: int, width: int, step: int) -> None:
    """Raises BadInput, with the nearest sizes that work, where one of them is no multiple of
    `step`."""
    for name, value in (("height", height), ("width", width)):
        if value < step or value % step:
            low = max(value // step, 1) * step
            raise BadInput(
                f"{name}={value}: this model makes multiples of {step}; nearest: {low} and"
                f" {low + step}"
            )


def scheduler_settings(folder: Path, scheduler: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The folder's scheduler configuration, or `scheduler`; a class name keeps the folder's
    settings."""
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    settings = read_json(folder / "scheduler" / "scheduler_config.json")
    return settings | {"_class_name": scheduler} if scheduler else settings


def load_scheduler(
    folder: Path, settings: Mapping[str, Any], known: Collection[str]
) -> schedulers.Scheduler:
    """Raises BadInput where it is none of the classes `known` to sample such a model."""
    source, name = folder / "scheduler" / "scheduler_config.json", settings.get("_class_name")
    if name not in known:
        raise BadInput(
            f"{source}: _class_name is {name!r}; this model samples with {', '.join(sorted(known))}"
        )
    return schedulers.load(settings, str(source))


def load_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer in the pipeline `folder`.

    Raises:
      BadInput: it cannot be loaded.
    """
    folder = folder / "tokenizer"
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        hint = (
            "; spiece.model needs the sentencepiece package"
            if (folder / "spiece.model").exists()
            else ""
        )
        raise BadInput(f"{folder}: cannot load this tokenizer ({error}){hint}") from error


def tokenizer_class(tokenizer: Any) -> str:
    """What model_index.json calls it."""
    name = type(tokenizer).__name__
    return "PreTrainedTokenizerFast" if name == "TokenizersBackend" else name


def tokenize(
    tokenizer: Any, prompts: Sequence[str], length: int, vocab_size: int
) -> tuple[Int[np.ndarray, "B S"], list[int]]:
    """Token ids, padded to `length`, and which prompts were longer and were cut.

    Raises:
      BadInput: the tokenizer makes tokens that the text encoder does not know.
    """
    # lone surrogates have no UTF-8 form; they become "?", as in the records
    prompts = [prompt.encode("utf-8", "replace").decode() for prompt in prompts]
    rows = tokenizer(
        prompts,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="np",
        return_attention_mask=True,
    )
    ids = rows["input_ids"].astype(np.int32)
    if ids.max(initial=0) >= vocab_size:
        raise BadInput(
            f"tokenizer: it makes token {ids.max()}, the text encoder knows {vocab_size}; these"
            " parts do not belong together"
        )
    full = np.flatnonzero(rows["attention_mask"].all(axis=1))
    # not verbose: what is too long is said by whoever asked, and is not read whole as transformers
    # fears
    return ids, [
        int(i) for i in full if len(tokenizer(prompts[i], verbose=False)["input_ids"]) > length
    ]


def sizes(layout: Any, folder: Path) -> Any:
    """The configuration in a model's folder, read by its own `hf.py`."""
    path = folder / "config.json"
    return layout.config_from_hf(read_json(path), str(path))


def shapes_of(layout: Any, config: Any, dtype: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """What loading a model with that configuration as `dtype` gives, without its weights."""
    return loaded_shapes(layout.weights(config), layout.param_shapes(config), dtype)
