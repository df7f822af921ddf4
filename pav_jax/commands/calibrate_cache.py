"""Measures the curve by which `generator.cache_threshold` foresees which steps may keep an earlier residual.

    python -m pav_jax.commands.calibrate_cache FOLDER                      # the folder's own steps; writes the curve
    python -m pav_jax.commands.calibrate_cache FOLDER prompts.txt --steps=50 --dry

A few prompts are sampled in full; the mean ratio of each step's residual to the one before goes into the folder's
pav_generation.json as `cache_ratios`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DIGITS = 5
PROMPTS = "mini:prompts/evolve.txt"


def main(arguments: Sequence[str] | None = None) -> None:
    from pav_jax.checkpoints.safetensors import read_json, write_json
    from pav_jax.commands.numbers import at_least
    from pav_jax.commands.prompts import read_prompts
    from pav_jax.embedded import resolve
    from pav_jax.video import generation, residual_curve
    from pav_jax.video.video_model import VideoModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a generator's folder, or mini:generator")
    parser.add_argument("prompts", nargs="*", help="texts, or files with one prompt a line; default: the embedded ones")
    parser.add_argument("--count", type=int, default=16, help="prompts that are sampled (default 16)")
    parser.add_argument("--steps", type=int, help="default: the folder's")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--dry", action="store_true", help="only print the curve")
    options = parser.parse_args(arguments)
    at_least(1, "--count", options.count)
    folder = Path(resolve(options.folder))
    prompts = read_prompts(options.prompts or [resolve(PROMPTS)])[: options.count]
    model = VideoModel.from_pretrained(folder, dtype=options.dtype, steps=options.steps, cache_threshold=0.0,
                                       batch=min(len(prompts), 16))
    curve = [round(float(ratio), DIGITS) for ratio in residual_curve.ratios(model, prompts)]
    print(curve)
    if not options.dry:
        path = folder / generation.FILE
        write_json(path, (read_json(path) if path.exists() else {}) | {"cache_ratios": curve})


if __name__ == "__main__":
    from pav_jax.errors import BadInput

    try:
        main()
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
