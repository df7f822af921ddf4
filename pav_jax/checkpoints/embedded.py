"""The prompts and checkpoints that come with the package; `hub.py` finds them by `mini:NAME`."""

from pathlib import Path

PREFIX = "mini:"
ROOT = Path(__file__).parents[1] / "mini"
CHECKPOINTS = ROOT / "checkpoints"


def names() -> list[str]:
    """Every prompt file and checkpoint by its name, as in "mini:prompts/evolve.txt"."""
    prompts = [f"{PREFIX}prompts/{p.name}" for p in sorted((ROOT / "prompts").glob("*"))]
    return prompts + [f"{PREFIX}{p.name}" for p in sorted(CHECKPOINTS.glob("*"))]
