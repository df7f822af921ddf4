"""Draws README's picture of the embedded generator:

    python -m pav_jax.mini.training.grid --out=docs/mini_grid.png

Rows are the first prompts of an evaluation set. Left: the video of the user's prompt. Right: that
of the oracle caption, with the same seed. Five frames each.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pav_jax import defaults
from pav_jax.components import Components
from pav_jax.mini.training.write_prompts import EVALUATION_SETS, read_evaluation_set

FRAMES_SHOWN = (0, 2, 4, 6, 8)
SCALE = 2  # enlargement
LABEL = 18  # pixels of a row's label
GAP = 12  # pixels between the halves


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description="Draws README's picture of the generator.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", default="in_domain", choices=EVALUATION_SETS)
    parser.add_argument("--rows", type=int, default=10)
    args = parser.parse_args()
    rows = read_evaluation_set(args.set)[: args.rows]
    generator = Components(defaults.get_config()).generator
    seeds = list(range(len(rows)))
    own = generator.generate([row["prompt"] for row in rows], seed=seeds)
    oracle = generator.generate([row["oracle"] for row in rows], seed=seeds)

    height = own.shape[2] * SCALE
    width = own.shape[3] * SCALE * len(FRAMES_SHOWN)
    sheet = Image.new("RGB", (2 * width + GAP, (height + LABEL) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        top = i * (height + LABEL)
        draw.text((2, top + 3), row["prompt"], fill="black")
        draw.text((width + GAP + 2, top + 3), "oracle caption", fill="black")
        for videos, left in ((own, 0), (oracle, width + GAP)):
            strip = Image.fromarray(np.concatenate(list(videos[i][list(FRAMES_SHOWN)]), axis=1))
            resized = strip.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(resized, (left, top + LABEL))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
