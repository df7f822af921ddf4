"""Run `pav` and note how many videos its generator finishes.

    python -m tests.video_counter NOTES run --config=... --workdir=...

The file NOTES gets a line with the number of videos of each batch as soon as they are finished, in
all runs that share it. A batch that the accelerator has started meanwhile is not counted.
"""

import sys
from collections.abc import Callable, Sequence


def main(notes: str, *argv: str) -> int:
    from pav_jax.main import main as pav
    from pav_jax.video import VideoModel
    from pav_jax.video.generator import VideoBatch

    start = VideoModel.start

    def counted(
        model: VideoModel, prompts: Sequence[str], seed: Sequence[int]
    ) -> Callable[[], VideoBatch]:
        wait_for_videos = start(model, prompts, seed)

        def wait() -> VideoBatch:
            videos = wait_for_videos()
            with open(notes, "a") as file:  # rows that fill up the batch are equal
                file.write(f"{len(set(zip(prompts, seed, strict=True)))}\n")
            return videos

        return wait

    VideoModel.start = counted
    return pav(argv)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
