"""Draws README's picture of the embedded generator:
`python -m pav_jax.mini.training.grid --out=docs/mini_grid.png`.

Rows are the first prompts of an evaluation set, in file order. Left: the video of the user's own
words; right: that of the oracle caption; same seed, five frames each.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pav_jax import defaults
from pav_jax.checkpoints.embedded import ROOT
from pav_jax.components import Parts

SHOWN = (0, 2, 4, 6, 8)
SCALE, LABEL, GAP = 2, 18, 12  # enlargement; pixels for a row's label; pixels between the halves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", default="in_domain", choices=("in_domain", "held_out"))
    parser.add_argument("--rows", type=int, default=10)
    args = parser.parse_args()
    lines = (ROOT / "prompts" / f"{args.set}.jsonl").read_text().splitlines()[: args.rows]
    prompts = [json.loads(line) for line in lines]
    generator = Parts(defaults.get_config()).generator
    seeds = list(range(len(prompts)))
    own = generator.generate([p["prompt"] for p in prompts], seed=seeds)
    oracle = generator.generate([p["oracle"] for p in prompts], seed=seeds)

    height, width = own.shape[2] * SCALE, own.shape[3] * SCALE * len(SHOWN)
    sheet = Image.new("RGB", (2 * width + GAP, (height + LABEL) * len(prompts)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, prompt in enumerate(prompts):
        top = i * (height + LABEL)
        draw.text((2, top + 3), prompt["prompt"], fill="black")
        draw.text((width + GAP + 2, top + 3), "oracle caption", fill="black")
        for videos, left in ((own, 0), (oracle, width + GAP)):
            strip = Image.fromarray(np.concatenate(list(videos[i][list(SHOWN)]), axis=1))
            sheet.paste(
                strip.resize((width, height), Image.Resampling.NEAREST), (left, top + LABEL)
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
