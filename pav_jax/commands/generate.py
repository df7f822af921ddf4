"""`pav generate`: prompts in, video files out."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

EMBEDDED = "mini:generator"
FORMATS = ("mp4", "gif", "frames")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "generate", help="make videos from prompts", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Generates one video per prompt and prints the path of each. A video depends on its prompt, the "
                    "seed and the\nsampling options alone, not on the other prompts.",
        epilog="""\
examples:
  pav generate "a red ball bounces on grass" --out=videos
  pav refine "a red ball" | pav generate - --out=videos --format=gif
  pav generate prompts.txt --model=/data/CogVideoX-5b --steps=50 --guidance-scale=6""")
    command.add_argument("prompts", nargs="*", metavar="PROMPT", help="text, a file (one prompt a line), or - for "
                         "standard input")
    command.add_argument("--model", help="a diffusers folder or hub id; default: the embedded generator")
    command.add_argument("--out", default="videos", help="folder for the files (default videos)")
    command.add_argument("--seed", type=int, default=0, help="same seed, same video (default 0)")
    command.add_argument("--negative-prompt", default="", help="what to steer away from")
    command.add_argument("--steps", type=int, help="denoising steps; default: the model's")
    command.add_argument("--guidance-scale", type=float, help="how strictly to follow the prompt; default: the model's")
    command.add_argument("--num-frames", type=int, help="frames of the video; default: the model's")
    command.add_argument("--height", type=int, help="pixels; default: the model's")
    command.add_argument("--width", type=int, help="pixels; default: the model's")
    command.add_argument("--vae-tiling", action="store_true", default=None, help="decode the video in overlapping "
                         "tiles: less memory, a slightly different picture")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 for the embedded "
                         "generator, else bfloat16")
    command.add_argument("--batch", type=int, default=1, help="videos made at once (default 1)")
    command.add_argument("--format", choices=FORMATS, default="mp4", help="mp4 (H.264), gif, or a folder of PNG frames")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    from pav_jax.commands.numbers import at_least
    from pav_jax.commands.prompts import read_prompts

    for option in ("steps", "num_frames", "height", "width", "batch"):
        at_least(1, "--" + option.replace("_", "-"), getattr(args, option))
    prompts = read_prompts(args.prompts)
    if args.model is None:
        print("pav generate: no --model given, using the embedded generator, which knows small moving pictures only",
              file=sys.stderr)

    from pav_jax.embedded import resolve
    from pav_jax.video import files
    from pav_jax.video.video_model import VideoModel

    writers = {"mp4": files.write_mp4, "gif": files.write_gif}
    model = VideoModel.from_pretrained(resolve(args.model or EMBEDDED), batch=args.batch,
                                       dtype=args.dtype or ("bfloat16" if args.model else "float32"))
    out = Path(args.out)
    for first in range(0, len(prompts), args.batch):
        batch = prompts[first:first + args.batch]
        videos = model.generate(batch, negative_prompt=args.negative_prompt, num_frames=args.num_frames,
                                height=args.height, width=args.width, steps=args.steps,
                                guidance_scale=args.guidance_scale, seed=args.seed,
                                vae_tiling=args.vae_tiling)
        for i, (prompt, video_TxHxWx3) in enumerate(zip(batch, videos, strict=True), first):
            path = out / f"{i:03d}-{_slug(prompt)}-{args.seed}"
            if args.format == "frames":
                files.write_frames(path, video_TxHxWx3)
            else:
                path = path.with_name(f"{path.name}.{args.format}")
                writers[args.format](path, video_TxHxWx3, model.defaults.fps)
            print(path, flush=True)


def _slug(prompt: str) -> str:
    """The prompt's first words as a file name that is safe everywhere."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "video"
