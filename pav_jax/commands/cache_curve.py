"""`pav cache-curve`: measures the residual curve that `cache_threshold` relies on."""

import argparse
from typing import Any

DIGITS = 5
PROMPTS = "mini:prompts/evolve.txt"


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "cache-curve",
        help="measure a generator's curve for --cache-threshold",
        description="""\
Samples a few prompts in one batch without skipping steps, prints the mean ratio of each step's
residual to the previous one, and writes it into the folder's pav_generation.json as cache_ratios.
cache_threshold predicts from this curve which steps may reuse an earlier residual. The curve
depends on the weights and the sampler; measure it with the number of steps that you use.""",
        epilog="""\
examples:
  pav cache-curve /data/CogVideoX-5b --dtype=bfloat16 --count=1
  pav cache-curve mini:generator prompts.txt --num-inference-steps=50 --dry""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", metavar="FOLDER", help="generator folder, or mini:generator")
    command.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="texts, or files with one prompt per line; default: the embedded ones",
    )
    command.add_argument(
        "--count", type=int, default=16, help="number of prompts to sample (default 16)"
    )
    command.add_argument(
        "--num-inference-steps", type=int, help="denoising steps; default: the folder's"
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights (default float32)",
    )
    command.add_argument("--dry", action="store_true", help="print the curve without writing it")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    """Measure the curve, print it and, without `--dry`, save it."""
    from pav_jax.checkpoints import embedded
    from pav_jax.checkpoints.hub import local_folder
    from pav_jax.commands.arguments import require_at_least
    from pav_jax.commands.prompts import read_prompts
    from pav_jax.storage.addresses import as_path
    from pav_jax.storage.folders import replace_file
    from pav_jax.storage.json_files import encode_json, read_json
    from pav_jax.video import generation_config, residual_curve
    from pav_jax.video.video_model import VideoModel

    require_at_least(1, "--count", args.count)
    require_at_least(1, "--num-inference-steps", args.num_inference_steps)
    folder = local_folder(as_path(args.folder))  # a path is never looked up on the Hub
    prompts = read_prompts(args.prompts or [PROMPTS])[: args.count]
    model = VideoModel.from_pretrained(
        folder, dtype=args.dtype, num_inference_steps=args.num_inference_steps, cache_threshold=0.0
    )
    curve = [round(float(ratio), DIGITS) for ratio in residual_curve.measure_ratios(model, prompts)]
    print(curve)
    if not args.dry:
        path = folder / generation_config.FILE
        values = (read_json(path) if path.exists() else {}) | {"cache_ratios": curve}
        is_embedded = args.folder.startswith(embedded.PREFIX)
        replace_file(folder if is_embedded else args.folder, path.name, encode_json(values))
