"""Where the package's own prompts and checkpoints lie: what a path that starts with `mini:`
means."""

from pathlib import Path

from pav_jax.errors import BadInput

PREFIX = "mini:"
ROOT = Path(__file__).parents[1] / "mini"
CHECKPOINTS = ROOT / "checkpoints"


def resolve(path: str) -> str:
    """`mini:prompts/evolve.txt` and `mini:generator` as paths inside the package; anything else as
    it is.

    Raises:
      BadInput: the package has no such file or checkpoint.
    """
    path = str(path)
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    for place in (ROOT / name, CHECKPOINTS / name):
        if place.exists():
            return str(place)
    raise BadInput(f"{path}: the package has nothing of that name; there are {', '.join(names())}")


def names() -> list[str]:
    """Every name `resolve` knows."""
    prompts = [f"{PREFIX}prompts/{p.name}" for p in sorted((ROOT / "prompts").glob("*"))]
    return prompts + [f"{PREFIX}{p.name}" for p in sorted(CHECKPOINTS.glob("*"))]


def booster() -> Path:
    """The booster that comes with the package; the untuned rewriter where there is none."""
    tuned = CHECKPOINTS / "booster"
    return tuned if tuned.is_dir() else CHECKPOINTS / "rewriter"
