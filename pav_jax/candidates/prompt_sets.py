"""Named sets of evaluation prompts, read from the files that the configuration lists."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from pav_jax.candidates.prompt_file import read_prompt_file
from pav_jax.candidates.prompt_text import plain_text
from pav_jax.errors import BadInput
from pav_jax.storage.addresses import is_remote
from pav_jax.storage.json_files import parse_json
from pav_jax.video.images import PromptImage, check_images, read_image


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """One line of a prompt file.

    Attributes:
      prompt: what the user typed, on one line.
      oracle: the caption that the prompt was made from; None if it is unknown.
      image: what its video is to be made from as well; None without one.
      location: the file and line, for messages.
    """

    prompt: str
    oracle: str | None
    image: PromptImage | None
    location: str


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Prompts that are measured and reported together.

    Attributes:
      prompts: the users' prompts.
      oracles: the caption that each prompt was made from, None if it is unknown.
      images: the image of each prompt, None without one; () where no prompt has any.
      locations: the file and line of each prompt, for messages; () if unknown.
    """

    prompts: tuple[str, ...]
    oracles: tuple[str | None, ...]
    images: tuple[PromptImage | None, ...] = ()
    locations: tuple[str, ...] = ()

    def first(self, max_prompts: int | None) -> "PromptSet":
        """Return the first `max_prompts` prompts; all if it is None."""
        return PromptSet(
            self.prompts[:max_prompts],
            self.oracles[:max_prompts],
            self.images[:max_prompts],
            self.locations[:max_prompts],
        )

    @property
    def image_by_prompt(self) -> dict[str, PromptImage | None]:
        """Prompt, as typed and as `plain_text` has it -> its image, None without one."""
        images = self.images or (None,) * len(self.prompts)
        pairs = list(zip(self.prompts, images, strict=True))
        by_prompt: dict[str, PromptImage | None] = {}
        for prompt, image in [*pairs, *((plain_text(prompt), image) for prompt, image in pairs)]:
            by_prompt.setdefault(prompt, image)
        return by_prompt

    def check_images(self, generator: Any) -> None:
        """Check that a generator can use the images of the prompts.

        Raises:
          BadInput: the first prompt with an image that it does not take, or without one it needs.
        """
        images = self.images or (None,) * len(self.prompts)
        for row, image in enumerate(images):
            try:
                check_images(generator, [image])
            except BadInput as error:
                place = self.locations[row] if self.locations else repr(self.prompts[row])
                raise BadInput(f"{place}: {error}", source=place, field="image") from error

    def without_images(self, reader: str) -> tuple[str, ...]:
        """Return the prompts for `reader`, which reads no images.

        Raises:
          BadInput: a prompt has an image.
        """
        for row, image in enumerate(self.images):
            if image is not None:
                place = self.locations[row] if self.locations else repr(self.prompts[row])
                raise BadInput(
                    f"{place}: image: {reader} makes no videos from images; name a file without"
                    " them",
                    source=place,
                    field="image",
                )
        return self.prompts


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
        optionally `oracle` and `image`, the path of an image beside the file, an absolute one or
        one in an object store; `mini:...` refers to a file in this package.
      field: the field of the configuration that names the file, for messages.

    Raises:
      BadInput: the file is missing, malformed or empty, or repeats a prompt; an image is missing,
        cannot be decoded or is too large.
    """
    lines = read_prompt_file(path, field).split("\n")
    rows: dict[str, PromptRow] = {}
    is_json = str(path).endswith(".jsonl")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        location = f"{path}:{number}"
        if is_json:
            row = read_json_row(line, path, location)
        else:
            row = PromptRow(" ".join(line.split()), None, None, location)
        if row.prompt in rows:
            raise BadInput(f"{location}: duplicate prompt; remove one of the two", source=path)
        rows[row.prompt] = row
    if not rows:
        name = f"{field}={path}" if field else path
        raise BadInput(f"{name}: the file has no prompt; write one per line", path, field)
    images = tuple(row.image for row in rows.values())
    return PromptSet(
        tuple(rows),
        tuple(row.oracle for row in rows.values()),
        images if any(images) else (),
        tuple(row.location for row in rows.values()),
    )


def read_json_row(line: str, path: str, location: str) -> PromptRow:
    """Read one line of a .jsonl file of prompts.

    Args:
      path: of the file, beside which images are.
      location: the file and line, for messages.

    Raises:
      BadInput: it is no object with a `prompt`, or its `oracle` or `image` cannot be used.
    """
    row = parse_json(line, location, "fix the line")
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadInput(
            f"{location}: needs an object with a `prompt`", source=location, field="prompt"
        )
    oracle = row.get("oracle")
    if oracle is not None and not isinstance(oracle, str):
        raise BadInput(f"{location}: `oracle` must be a string", source=location, field="oracle")
    image = row.get("image")
    if image is not None:
        image = _read_image(image, path, location)
    return PromptRow(" ".join(prompt.split()), oracle, image, location)


def _read_image(image: Any, path: str, location: str) -> PromptImage:
    if not isinstance(image, str) or not image.strip():
        raise BadInput(
            f"{location}: `image` must be the path of an image; leave it out where there is none",
            source=location,
            field="image",
        )
    # an absolute path or an address stays as it is
    place = image if is_remote(image) else os.path.join(os.path.dirname(path), image)
    return read_image(place, f"{location}: image={image[:200]!r}", location)
