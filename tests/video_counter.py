"""Run `pav` and note how many videos it starts to make.

    python -m tests.video_counter NOTES run --config=... --workdir=...

The file NOTES gets a line with the number of videos before each batch, in all runs that share it.
"""

import sys


def main(notes: str, *argv: str) -> int:
    from pav_jax.budget import Budget
    from pav_jax.main import main as pav

    add_videos = Budget.add_videos

    def count(budget: Budget, number: int) -> None:
        with open(notes, "a") as file:
            file.write(f"{number}\n")
        add_videos(budget, number)

    Budget.add_videos = count
    return pav(argv)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
