"""Evolution by pav_jax against the published system's order of work, on the embedded models.

    python benchmarks/evolve.py                      # 16 prompts, 2 rounds of 3 rewrites
    python benchmarks/evolve.py --json=FILE

Both make and score the same candidates: each prompt's own video, then the videos of `--rewrites`
new rewrites a round, with the same initial noise, by the same weights in float32, and score them
with the method's seven rewards (VideoScore's five, aesthetic, MPS).

  pav_jax    the stage as `pav evolve` runs it: prompts share batches of the embedded generator's
             size, with a device per core (evolve_stage.py)
  published  one prompt after the other, a video at a time, a score at a time, models moved between
             these steps; torch, diffusers and transformers in inference mode with a thread per core
             (evolve_published.py)

The texts are those that pav_jax proposed. Each side times its own proposals; the published side's
language model decodes as many tokens as the longest of the answers has. Each side is a process of
its own, one after the other. Prints candidates per second after compilation and where the time
goes; for that pav_jax waits after each activity, while the stage itself overlaps them. `first run`
is the stage with an empty and with a filled cache of compiled programs. The FLOPs of the videos
over the rate of a large matrix product on the same cores give the least time in which a float32
program could generate them, and with it the largest possible ratio. Then the largest differences
of videos and scores: exit status 1 if they are not equal to rounding.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from machine import cpu_model, product_rate, versions, write_result
from pav_jax.environment import prepare_process

ACTIVITIES = ("propose", "generate", "score", "move", "bookkeeping")
MAX_VIDEO_STEPS = 1  # of 1/255 that a value of a video may differ by: the two sides round
MAX_SCORE_DIFFERENCE = 0.01  # such a step changes scores of about 1 to 10 by less


@dataclasses.dataclass(frozen=True)
class Differences:
    """How far the two sides' results are apart.

    Attributes:
      video_steps: largest difference of a value of a video after rounding to 1/255, in steps.
      video_before_rounding: the same before the published side's are rounded, beyond half a step.
      share_of_values: of the videos that differ at all after rounding.
      scores: the largest difference by name.
    """

    video_steps: int
    video_before_rounding: float
    share_of_values: float
    scores: dict[str, float]

    @classmethod
    def of(cls, folder: Path, ours: Sequence[dict], theirs: Sequence[dict]) -> "Differences":
        """Compare the videos in a folder and the rows of both sides."""
        named = [[(row["prompt"], row["round"], row["text"]) for row in x] for x in (ours, theirs)]
        assert named[0] == named[1], "the two sides made other candidates"
        a = np.load(folder / "our_videos.npy")
        b = np.load(folder / "videos.npy") * 255
        steps = np.abs(a.astype(int) - b.round().astype(int))
        return cls(
            int(steps.max()),
            max(float(np.abs(a - b).max()) - 0.5, 0.0),
            float((steps > 0).mean()),
            {
                name: max(
                    abs(x["scores"][name] - y["scores"][name])
                    for x, y in zip(ours, theirs, strict=True)
                )
                for name in theirs[0]["scores"]
            },
        )

    @property
    def are_rounding(self) -> bool:
        """Whether both sides made the same videos and scores."""
        return (
            self.video_steps <= MAX_VIDEO_STEPS
            and max(self.scores.values()) <= MAX_SCORE_DIFFERENCE
        )


def run_script(name: str, folder: Path, *options: str, cache: Path | None = None) -> None:
    """Run a script of this folder; with `cache` as JAX's cache of compiled programs."""
    environment = dict(os.environ)
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"  # as `pav` sets it
    command = [sys.executable, str(Path(__file__).with_name(name)), f"--folder={folder}", *options]
    subprocess.run(command, env=environment, check=True)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run both sides; returns the values of the result."""
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("prompts", "rounds", "rewrites")]
    for name in ("num_inference_steps", "batch_size"):
        if (value := getattr(arguments, name)) is not None:
            sizes.append(f"--{name.replace('_', '-')}={value}")
    # the caller's cache if the first run is not of interest
    cache = folder / "cache" if arguments.first_runs else None
    sizes.append(f"--repeats={arguments.repeats}")
    run_script("evolve_stage.py", folder, *sizes, cache=cache)
    ours = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    if arguments.first_runs:
        run_script("evolve_stage.py", folder, *sizes, "--first-only", cache=cache)
        stage = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        ours["first_seconds_cached"] = stage["first_seconds"]
    product = product_rate()
    run_script("evolve_published.py", folder, *arguments.published_options)
    product = max(product, product_rate())  # before and after, as the machine's speed may change
    theirs = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    differences = Differences.of(folder, ours.pop("rows"), rows := theirs.pop("rows"))
    count = len(rows)
    rates = count / min(ours["seconds"]), count / theirs["seconds"]
    # no float32 program generates these videos faster, whatever else it does in no time
    least_seconds = count * ours["flops_per_video"] / product
    resident = count / (theirs["seconds"] - theirs["parts"]["move"])
    return {
        "prompts": arguments.prompts,
        "rounds": arguments.rounds,
        "rewrites": arguments.rewrites,
        "candidates": count,
        "candidates_per_second": {"pav_jax": rates[0], "published": rates[1]},
        "ratio": rates[0] / rates[1],
        "ratio_without_moves": rates[0] / resident,
        "product_flops_per_second": product,
        "least_seconds": least_seconds,
        "largest_ratio": theirs["seconds"] / least_seconds,
        "pav_jax": ours,
        "published": theirs,
        "differences": dataclasses.asdict(differences) | {"rounding": differences.are_rounding},
    }


def print_result(result: dict[str, Any], console: Console) -> None:
    """Print the tables of a result."""
    ours, theirs, count = result["pav_jax"], result["published"], result["candidates"]
    used = versions()
    packages = ", ".join(f"{n} {used[n]}" for n in ("jax", "torch", "diffusers", "transformers"))
    console.print(
        f"CPU: {cpu_model()}, {len(os.sched_getaffinity(0))} cores; {packages};"
        f" {ours['devices']} jax devices, {theirs['threads']} torch threads; float32;"
        f" {result['prompts']} prompts x (1 + {result['rounds']} x {result['rewrites']}) ="
        f" {count} candidates, batches of {ours['batch_size']} and of 1"
    )
    table = Table("", "ours", "published", "ratio")
    rates = result["candidates_per_second"]
    table.add_row(
        "candidates/s",
        f"{rates['pav_jax']:.2f}",
        f"{rates['published']:.2f}",
        f"{result['ratio']:.2f}",
    )
    for activity in ACTIVITIES:
        mine, peers = (1e3 * side["parts"].get(activity, 0) / count for side in (ours, theirs))
        ratio = f"{peers / mine:.2f}" if mine else ""
        table.add_row(f"{activity}, ms a candidate", f"{mine:.1f}", f"{peers:.1f}", ratio)
    console.print(table)
    overlap = min(ours["seconds"]) / ours["profile_seconds"]
    console.print(
        f"ours, seconds: {', '.join(f'{s:.2f}' for s in ours['seconds'])}; with a wait after each"
        f" activity {ours['profile_seconds']:.2f}, of which overlapping saves {1 - overlap:.0%}"
    )
    console.print(
        f"published without moves: {result['ratio_without_moves']:.2f} times; loading"
        f" {ours['load_seconds']:.1f} s and {theirs['load_seconds']:.1f} s, not counted"
    )
    console.print(
        f"generating takes {count * ours['flops_per_video'] / 1e12:.2f} TFLOP; at the"
        f" {result['product_flops_per_second'] / 1e9:.0f} GFLOP/s of a large matrix product here"
        f" that is {result['least_seconds']:.1f} s, {result['largest_ratio']:.2f} times as fast as"
        " the published order: no float32 program can be faster"
    )
    if "first_seconds_cached" in ours:
        fastest = min(ours["seconds"])
        console.print(
            f"ours, first run: {ours['first_seconds']:.1f} s, of which compilation"
            f" {ours['first_seconds'] - fastest:.1f} s; with compiled programs from the cache"
            f" {ours['first_seconds_cached']:.1f} s"
        )
    apart = result["differences"]
    scores = ", ".join(f"{name} {value:.1e}" for name, value in apart["scores"].items())
    console.print(
        f"largest difference of a video: {apart['video_steps']} of 255 after rounding"
        f" ({apart['share_of_values']:.2%} of values), {apart['video_before_rounding']:.1e} beyond"
        f" rounding; of scores: {scores}"
    )


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rewrites", type=int, default=3, help="per prompt and round")
    parser.add_argument("--num-inference-steps", type=int, help="default: the generator's")
    parser.add_argument("--batch-size", type=int, help="of pav_jax; default: the generator's")
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="runs of pav_jax after the first, of which the fastest counts; 0: the first counts",
    )
    parser.add_argument(
        "--no-first-runs",
        dest="first_runs",
        action="store_false",
        help="do not measure compilation; use the cache of compiled programs",
    )
    parser.add_argument("--threads", type=int, help="of torch; default: one per core")
    parser.add_argument("--json", type=Path, help="write the result there, as --json=FILE")
    arguments = parser.parse_args()
    prepare_process()  # what the command `pav` sets, such as a device per core, for both scripts
    arguments.published_options = [f"--threads={arguments.threads}"] if arguments.threads else []
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(arguments, Path(scratch))
    print_result(result, Console())
    write_result(arguments.json, result)
    if not result["differences"]["rounding"]:
        sys.exit("the two sides made different videos or scores")


if __name__ == "__main__":
    main()
