"""`pav generate`: generates videos from prompts."""

import argparse
import ast
import re
import sys
from pathlib import Path
from typing import Any

from pav_jax.commands.arguments import add_prompts, require_at_least

EMBEDDED = "mini:generator"
# options of load_generator; None keeps the model's own
MODEL_OPTIONS = (
    "vae_tiling",
    "scheduler",
    "flow_shift",
    "guidance_scale_2",
    "guidance_start",
    "guidance_stop",
    "cache_threshold",
    "cache_max_skips",
    "cache_retention",
)
FORMATS = ("mp4", "gif", "frames", "png")


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "generate",
        help="make videos from prompts",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Generates one video per prompt and prints the path of each. A video depends on its"
            " prompt, the seed and the\nsampling options alone, not on the other prompts. Prompt,"
            " model, seed and version are written\ninto the file. Failed videos are reported on"
            " standard error; the exit status is then 2."
        ),
        epilog="""\
examples:
  pav generate "a red ball bounces on grass" --out=videos
  pav refine "a red ball" | pav generate - --out=videos --format=gif
  pav generate prompts.txt --model=/data/CogVideoX-5b --num-inference-steps=50 --guidance-scale=6
  pav generate "a red ball" --model=diffusers:PixArt-alpha/PixArt-Sigma-XL-2-512-MS
  pav generate "a red ball" --model=http://127.0.0.1:8000/generate
  pav generate "she turns" --image=portrait.png --model=diffusers:FOLDER-OF-AN-I2V-MODEL""",
    )
    add_prompts(command)
    command.add_argument(
        "--model",
        help=(
            "a diffusers folder or Hub id; diffusers:FOLDER-OR-ID for any pipeline of "
            "diffusers, run with torch; the URL of an endpoint; package.module:Name for your own;"
            " default: the embedded generator"
        ),
    )
    command.add_argument("--out", default="videos", help="folder for the files (default videos)")
    command.add_argument(
        "--image",
        metavar="FILE",
        help=(
            "PNG, JPEG or WebP from which all videos are made, with an image-to-video model"
            " (diffusers:, or an endpoint); a .jsonl file of prompts may have one in each line"
        ),
    )
    _add_sampling_options(command)
    _add_skipping_options(command)
    _add_computation_options(command)
    _add_output_options(command)
    command.set_defaults(handler=run, parser=command)


def _add_sampling_options(command: argparse.ArgumentParser) -> None:
    """Add the options that determine the videos: seed, guidance, sampler and size."""
    command.add_argument("--seed", type=int, default=0, help="same seed, same video (default 0)")
    command.add_argument("--negative-prompt", default="", help="what the video should not show")
    command.add_argument(
        "--num-inference-steps", type=int, help="denoising steps; default: the model's"
    )
    command.add_argument(
        "--guidance-scale",
        type=float,
        help="strength of classifier-free guidance; default: the model's",
    )
    command.add_argument(
        "--guidance-scale-2",
        type=float,
        help="the same for the second expert of a Wan 2.2 A14B; default: --guidance-scale",
    )
    command.add_argument(
        "--flow-shift", type=float, help="shift of a Wan's noise levels; default: the model's"
    )
    command.add_argument(
        "--scheduler",
        help="name of a diffusers scheduler class; default: the model's",
    )
    command.add_argument("--num-frames", type=int, help="frames of the video; default: the model's")
    command.add_argument("--height", type=int, help="pixels; default: the model's")
    command.add_argument("--width", type=int, help="pixels; default: the model's")


def _add_skipping_options(command: argparse.ArgumentParser) -> None:
    """Add the options that skip work in some denoising steps."""
    command.add_argument(
        "--guidance-start",
        type=float,
        help="share of the steps to run first without guidance, at half the cost (default 0)",
    )
    command.add_argument(
        "--guidance-stop",
        type=float,
        help="share of the steps after which guidance is off again (default 1)",
    )
    command.add_argument(
        "--cache-threshold",
        type=float,
        help=(
            "reuse an earlier residual in steps where it is predicted to change little, up to this"
            " accumulated error, such as 0.1 (default 0: off)"
        ),
    )
    command.add_argument(
        "--cache-max-skips", type=int, help="maximum number of such steps in a row (default 3)"
    )
    command.add_argument(
        "--cache-retention",
        type=float,
        help="share of the steps, from the first, that are always computed (default 0.2)",
    )


def _add_computation_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the computation: tiling, precision and batch size."""
    command.add_argument(
        "--vae-tiling",
        action="store_true",
        default=None,
        help="decode the video in overlapping tiles: less memory, slightly different pixels",
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: float32 for the embedded generator, else bfloat16",
    )
    command.add_argument(
        "--batch-size", type=int, default=1, help="videos generated at once (default 1)"
    )


def _add_output_options(command: argparse.ArgumentParser) -> None:
    """Add the file format and additional arguments of the generator."""
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=(
            "an additional argument of "
            "a diffusers pipeline, or field of the request to an endpoint; may be repeated"
        ),
    )
    command.add_argument(
        "--format",
        choices=FORMATS,
        help=(
            "mp4 (H.264), gif, a folder of PNG frames, or png "
            "for one frame; default: mp4, and png for an image"
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Generate and write the videos; return the exit status, 2 if a video failed."""
    from pav_jax.commands.prompts import read_prompts_and_images
    from pav_jax.redaction import is_secret_name, redact, register_secret

    for option in ("num_inference_steps", "num_frames", "height", "width", "batch_size"):
        require_at_least(1, "--" + option.replace("_", "-"), getattr(args, option))
    options = dict(map(_option, args.option))
    for name, value in options.items():
        if is_secret_name(name):
            register_secret(str(value))
    prompts, images = read_prompts_and_images(args.prompts, args.image)
    _check_out(args, prompts)
    if args.model is None:
        print(
            "pav generate: no --model given, using the embedded generator, which only makes tiny"
            " toy videos",
            file=sys.stderr,
        )

    from pav_jax.progress import Progress
    from pav_jax.video.images import check_images
    from pav_jax.video.loading import load_generator

    model_options: dict[str, Any] = {name: getattr(args, name) for name in MODEL_OPTIONS} | {
        "options": options or None
    }
    generator: Any = load_generator(
        args.model or EMBEDDED,
        batch_size=args.batch_size,
        dtype=args.dtype or ("bfloat16" if args.model else "float32"),
        **{name: value for name, value in model_options.items() if value is not None},
    )
    sizes = {name: getattr(args, name) for name in ("num_frames", "height", "width")}
    check_images(generator, images)
    _check_sizes(generator, prompts[0], sizes)
    failed = 0
    with Progress(is_brief=True) as progress:
        task = progress.add_task("generate", total=len(prompts), unit="videos")
        for first in range(0, len(prompts), args.batch_size):
            batch = prompts[first : first + args.batch_size]
            output = generator.generate_batch(
                batch,
                **({"image": images[first : first + args.batch_size]} if any(images) else {}),
                negative_prompt=args.negative_prompt,
                **sizes,
                num_inference_steps=args.num_inference_steps,
                guidance_scale=args.guidance_scale,
                seed=args.seed,
                progress=lambda done, _, first=first: progress.update(task, completed=first + done),
            )
            for row, prompt in enumerate(batch):
                if (error := output.errors[row]) is not None:
                    failed += 1
                    print(f"pav generate: {prompt!r}: {redact(error)}", file=sys.stderr)
                    continue
                path = _path(args, first + row, prompt)
                metadata = _metadata(args, generator, prompt, images[first + row])
                print(_write(args, path, output[row], generator.fps, metadata), flush=True)
    return 2 if failed else 0


def _path(args: argparse.Namespace, index: int, prompt: str) -> Any:
    """The path of a video, without a suffix."""
    from pav_jax.storage.addresses import as_path

    return as_path(args.out) / f"{index:03d}-{_slug(prompt)}-{args.seed}"


def _check_out(args: argparse.Namespace, prompts: list[str]) -> None:
    """Refuse paths that cannot be written, before a video is made."""
    from pav_jax.errors import BadInput
    from pav_jax.storage.addresses import as_path, is_remote
    from pav_jax.storage.files import check_writable

    check_writable(as_path(args.out) / "000.mp4", "--out")
    if is_remote(args.out):
        return  # where the same name may be that of an object and of a folder
    for index, prompt in enumerate(prompts):
        path = _path(args, index, prompt)
        if args.format == "frames" and path.exists() and not path.is_dir():
            raise BadInput(
                f"--format=frames: {path} is a file, where the folder of frames would be; choose"
                " another --out",
                source="--out",
            )
        for kind in ("mp4", "gif", "png"):
            if (file := path.with_name(f"{path.name}.{kind}")).is_dir() and args.format != "frames":
                raise BadInput(
                    f"{file}: this is a folder, where the video would be; choose another --out",
                    source="--out",
                )


def _check_sizes(generator: Any, prompt: str, sizes: dict[str, Any]) -> None:
    """Refuse videos that a JAX family cannot make, and warn of another number of frames."""
    from pav_jax.video.video_model import VideoModel

    if isinstance(generator, VideoModel):
        generator.make_request(prompt, **sizes)
    _warn_of_frames(generator, sizes["num_frames"])


def _warn_of_frames(generator: Any, num_frames: int | None) -> None:
    """Say when a model was trained on another number of frames."""
    family = getattr(generator, "family", None)
    trained = family.trained_frames() if family is not None else None
    if num_frames is not None and trained not in (None, num_frames):
        print(
            f"pav generate: --num-frames={num_frames}: this model was trained on {trained} frames"
            " (sample_frames of its transformer); videos of another length may be worse",
            file=sys.stderr,
        )


def _option(text: str) -> tuple[str, Any]:
    """Parse `NAME=VALUE`; the value is a Python literal if it parses as one, else a string."""
    from pav_jax.errors import BadInput

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadInput(f"--option={text}: write NAME=VALUE", source="--option")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _redacted_option(text: str) -> str:
    """`NAME=VALUE` without the value of an option such as api_key, also of one within a mapping."""
    from pav_jax.redaction import redact_tree

    name, value = _option(text)
    shown = redact_tree({name: value})
    return text if shown == {name: value} else f"{name}={shown[name]}"


def _write(
    args: argparse.Namespace, path: Any, video: Any, fps: float, metadata: dict[str, str]
) -> Any:
    """Write one video with its metadata and, as mp4, its sound; return its path."""
    from pav_jax.video import files

    frames = video.frames
    kind = args.format or ("png" if len(frames) == 1 else "mp4")
    if kind != "frames":
        path = path.with_name(f"{path.name}.{kind}")
    if kind == "mp4":
        files.write_mp4(path, frames, fps, metadata, video.audio)
    elif kind == "gif":
        files.write_gif(path, frames, fps, metadata)
    else:
        (files.write_png if kind == "png" else files.write_frames)(path, frames, metadata)
    return path


def _metadata(
    args: argparse.Namespace, generator: Any, prompt: str, image: Any = None
) -> dict[str, str]:
    """Return what is needed to generate the video again; of an image, the digest of its pixels.

    Absolute paths and the query of a URL, which may hold a secret, are left out; the values of
    options such as api_key, and known secrets, are redacted.
    """
    from pav_jax import __version__
    from pav_jax.redaction import redact
    from pav_jax.video.sampling import valid_unicode

    name = args.model or EMBEDDED
    if "://" in name:
        name = name.partition("?")[0]
    elif Path(name.removeprefix("diffusers:")).is_dir():
        name = Path(name.removeprefix("diffusers:")).resolve().name
    metadata = {
        "title": prompt,
        "prompt": prompt,
        "model": name,
        "fingerprint": generator.fingerprint,
        "seed": args.seed,
        "version": f"pav_jax {__version__}",
    }
    if image is not None:
        metadata["image"] = image.digest
    for option in (
        "negative_prompt",
        "num_frames",
        "height",
        "width",
        "num_inference_steps",
        "guidance_scale",
        "dtype",
        *MODEL_OPTIONS,
    ):
        if getattr(args, option) not in (None, ""):
            metadata[option] = getattr(args, option)
    if args.option:
        metadata["options"] = " ".join(map(_redacted_option, args.option))
    return {field: valid_unicode(redact(str(value))) for field, value in metadata.items()}


def _slug(prompt: str) -> str:
    """Return the start of the prompt as a portable file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "video"
