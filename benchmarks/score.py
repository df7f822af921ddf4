"""Videos scored per second by pav_jax and by the torch originals, on the same frames and the same
random weights.

    # CLIP ViT-B/32, and an Idefics2 of width 512 with 8 + 8 layers
    JAX_NUM_CPU_DEVICES=2 python benchmarks/score.py
    # a Qwen2-VL of width 512 with 8 + 8 layers
    JAX_NUM_CPU_DEVICES=2 python benchmarks/score.py --model=videoreward
    # the same steps on models that take seconds
    python benchmarks/score.py --tiny

With several devices pav_jax distributes rows over them, as `pav score` does; set as many as there
are cores. Prints a row each for AES, TVA and MPS, the first two with one CLIP; for VideoScore; and
for VideoReward. Both sides start from uint8 frames and end with one value per score, in float32.
The torch side is transformers' CLIPModel, Idefics2Model and Qwen2VLModel with their image
preprocessors, all videos at once for CLIP and one at a time for the others; like pav_jax it runs
the tower that AES and TVA share once. What follows the towers (the aesthetic head, MPS's cross
layers, the judges' heads) is written with torch here, and the scores of both are compared. The
first call, which compiles, is not counted; the fastest of the others is printed. FLOPs are counted
by formula (a multiply-add counts as two), the same for both. Compare rows of one run only: rates
depend on the load of the machine.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

import score_models
import score_videoreward
from machine import cpu_model, fastest, product_rate, write_result
from pav_jax.rewards import MPS, Aesthetic, ClipAlignment, VideoReward, VideoScore
from pav_jax.rewards.qwen2_vl_processor import VIDEO, target_size


def smooth_videos(count: int, frames: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, frames, height // 16, width // 16, 3), np.uint8)
    return np.kron(coarse, np.ones((1, 1, 16, 16, 1), np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small models, which take seconds")
    parser.add_argument(
        "--videos", type=int, default=32, help="scored together by AES, TVA and MPS"
    )
    parser.add_argument("--videoscore-videos", type=int, default=2, help="videos for VideoScore")
    parser.add_argument(
        "--videoreward-videos", type=int, default=4, help="videos for VideoReward, 8 frames of each"
    )
    parser.add_argument(
        "--model", choices=(*ROWS, "all"), default="all", help="the rows to print (default all)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result there, as --json=FILE")
    args = parser.parse_args()
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        rows = [ROWS[name](args, Path(scratch)) for name in ROWS if args.model in (name, "all")]
    table = Table(
        "float32",
        "GFLOP/video",
        "ours videos/s",
        "torch videos/s",
        "ours/torch",
        "ours GFLOP/s",
        "torch GFLOP/s",
        "largest difference",
    )
    for name, count, flops, mine, theirs, difference in rows:
        # videos per second
        ours = count / mine
        peers = count / theirs
        table.add_row(
            name,
            f"{flops / 1e9:.3g}",
            f"{ours:.3g}",
            f"{peers:.3g}",
            f"{ours / peers:.2f}",
            f"{ours * flops / 1e9:.0f}",
            f"{peers * flops / 1e9:.0f}",
            f"{difference:.1e}",
        )
    console = Console(width=120)
    console.print(
        f"CPU: {cpu_model()}, {len(os.sched_getaffinity(0))} cores; jax {jax.__version__} on"
        f" {jax.default_backend()}, torch {torch.__version__} with {torch.get_num_threads()}"
        f" threads, transformers {transformers.__version__}; {len(jax.devices())} jax devices; best"
        f" of {args.repeats}{', tiny models' * args.tiny}"
    )
    console.print(table)
    fields = ("name", "videos", "flops", "ours", "theirs", "difference")
    peak = product_rate()
    console.print(f"a large float32 matrix product by numpy: {peak / 1e9:.0f} GFLOP/s")
    result = {"rows": [dict(zip(fields, row, strict=True)) for row in rows]}
    write_result(args.json, result | {"peak_flops_per_second": peak})


def clip_row(args: argparse.Namespace, scratch: Path) -> tuple:
    clip = score_models.write_clip(scratch / "clip", args.tiny)
    towers, cross, tensors = score_models.write_mps(scratch / "mps", args.tiny)
    (scratch / "words.txt").write_text("red\nball\nsea\n")
    videos = smooth_videos(args.videos, 16, *((64, 80) if args.tiny else (240, 320)))
    words = score_models.WORDS
    prompts = [
        f"a {words[1 + i % 3]} {words[4 + i % 5]} {words[9 + i % 3]} over the sea"
        for i in range(len(videos))
    ]
    ours = [
        Aesthetic.from_pretrained(scratch / "clip"),
        ClipAlignment.from_pretrained(scratch / "clip"),
        MPS.from_pretrained(scratch / "mps", condition=scratch / "words.txt"),
    ]
    for reward in ours:
        reward.use_local_devices()
    tower = ours[0].tower
    size = clip.config.vision_config.image_size

    def score_ours() -> dict[str, np.ndarray]:
        tower.clear_cache()  # embeddings of the previous call
        return {
            name: value for reward in ours for name, value in reward.score(videos, prompts).items()
        }

    images = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    ids, condition = (
        torch.from_numpy(ours[2].tokens(texts)).long() for texts in (prompts, ["red, ball, sea."])
    )
    head = torch.from_numpy(np.array(ours[0].params["layer_0"]["kernel"][:, 0]))
    score_theirs = score_models.torch_clip_scores(
        clip, towers, cross, tensors, ids, condition, head, images
    )
    image, text = score_models.clip_flops(clip.config)
    flops = 2 * (
        score_models.FRAMES * image + text
    ) + score_models.FRAMES * score_models.cross_flops(clip.config, cross)
    return (
        "AES + TVA + MPS",
        len(videos),
        flops,
        *compared(score_ours, lambda: score_theirs(videos), args.repeats),
    )


def videoscore_row(args: argparse.Namespace, scratch: Path) -> tuple:
    judge = score_models.write_videoscore(scratch / "videoscore", args.tiny)
    videos = smooth_videos(args.videoscore_videos, 4 if args.tiny else 16, 240, 320)
    prompts = ["a red star spins over the sea"] * len(videos)
    ours = VideoScore.from_pretrained(scratch / "videoscore")
    ours.use_local_devices()
    settings = ours.processor.settings
    images = Idefics2ImageProcessorPil(
        size={"shortest_edge": settings.shortest, "longest_edge": settings.longest},
        do_image_splitting=False,
        image_mean=settings.mean,
        image_std=settings.std,
    )
    score_theirs = score_models.torch_videoscore(judge, ours, images, prompts)
    height, width = settings.target(*videos.shape[2:4])
    patch = judge.config.vision_config.patch_size
    ids, _ = ours.processor.texts([ours.text(prompts[0], videos.shape[1])])
    flops = score_models.videoscore_flops(
        judge.config, (height // patch) * (width // patch), videos.shape[1], ids.shape[1]
    )
    return (
        "VideoScore",
        len(videos),
        flops,
        *compared(lambda: ours.score(videos, prompts), lambda: score_theirs(videos), args.repeats),
    )


def videoreward_row(args: argparse.Namespace, scratch: Path) -> tuple:
    judge = score_videoreward.write(scratch / "videoreward", args.tiny)
    size = (64, 80) if args.tiny else (240, 320)
    videos = smooth_videos(args.videoreward_videos, 16, *size)
    prompts = ["a red star spins over the sea"] * len(videos)
    frames = 2 if args.tiny else 8
    ours = VideoReward.from_pretrained(scratch / "videoreward", frames=frames, batch_size=2)
    ours.use_local_devices()
    score_theirs = score_videoreward.torch_scores(judge, ours, frames, prompts)
    factor = judge.config.vision_config.patch_size * judge.config.vision_config.spatial_merge_size
    limits = (ours.judge.min_pixels, ours.judge.max_pixels)
    height, width = target_size(*videos.shape[2:4], factor, *limits)
    vectors = frames // 2 * height * width // factor**2
    ((_, mask),) = ours.judge.processor.tokens(ours.texts(prompts[:1]), VIDEO, vectors, 1)
    flops = score_videoreward.flops(judge.config, (height, width), frames, int(mask.sum()))
    return (
        "VideoReward",
        len(videos),
        flops,
        *compared(lambda: ours.score(videos, prompts), lambda: score_theirs(videos), args.repeats),
    )


ROWS = {"clip": clip_row, "videoscore": videoscore_row, "videoreward": videoreward_row}


def compared(
    mine: Callable[[], dict], theirs: Callable[[], dict], repeats: int
) -> tuple[float, float, float]:
    """Seconds of both, and the largest difference of a score relative to its largest value."""
    ours = mine()
    peers = theirs()
    difference = max(
        float(np.abs(ours[name] - peers[name]).max() / np.abs(peers[name]).max()) for name in ours
    )
    return fastest(mine, repeats), fastest(theirs, repeats), difference


if __name__ == "__main__":
    main()
