"""The embedded default: a toy world and tiny checkpoints trained on it, in the layouts of the real ones."""

from pathlib import Path

from pav_jax.errors import BadInput

PREFIX = "mini:"
ROOT = Path(__file__).parent


def resolve(path: str) -> str:
    """`mini:prompts/train.txt` and `mini:generator` as paths inside the package; anything else as it is.

    Raises:
      BadInput: the package has no such file or checkpoint.
    """
    path = str(path)
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    for place in (ROOT / name, ROOT / "checkpoints" / name):
        if place.exists():
            return str(place)
    raise BadInput(f"{path}: the package has nothing of that name; there are {', '.join(embedded())}")


def embedded() -> list[str]:
    """Every name `resolve` knows."""
    prompts = [f"{PREFIX}prompts/{p.name}" for p in sorted((ROOT / "prompts").glob("*"))]
    return prompts + [f"{PREFIX}{p.name}" for p in sorted((ROOT / "checkpoints").glob("*"))]
