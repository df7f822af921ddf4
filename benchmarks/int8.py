"""Measures what rounding to 8 bits changes: the default booster with and without `int8`.

    python benchmarks/int8.py --data=vbench_prompts.jsonl

On the prompts that `benchmarks/styles.py` holds out: the loss per token of the generator's own
rewrites, what `pav refine` answers (FAITH, unchanged prompts, words, loops), and the seconds for
one prompt alone after the first, as the server answers them. Prints a table in Markdown.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import styles
import vbench
from machine import cpu_model
from pav_jax.booster.booster import Booster
from pav_jax.booster.guard import Request
from pav_jax.booster.likelihood import log_likelihoods

HELD_OUT_EVERY = 10  # as in configs/smollm2_style.py
ROWS = 32  # of a batch
NUM_ALONE = 8  # prompts that are rewritten one by one


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="as for benchmarks/styles.py")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    _, held = vbench.split(rows, HELD_OUT_EVERY)
    numbers = {name: measure(int8, held) for name, int8 in (("float32", False), ("int8", True))}
    print(f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores; {len(held)} held-out prompts")
    print("| |", " | ".join(numbers), "|")
    print("|---|---|---|")
    for key in numbers["int8"]:
        print(f"| {key} |", " | ".join(f"{row[key]:.3f}" for row in numbers.values()), "|")


def measure(int8: bool, held: list[dict]) -> dict[str, float]:
    """Return the column of one way to compute."""
    booster = Booster.from_pretrained(int8=int8, batch_size=ROWS)
    losses = [
        -value
        for row in held
        for value in log_likelihoods(
            booster.language_model,
            Request(row["prompt"], adapter=booster.default_adapter),
            [row["cogvideox"]],
        )
    ]
    numbers, _ = styles.measure_guarded(booster, held)
    alone = Booster.from_pretrained(int8=int8)
    seconds = [timed(lambda row=row: alone.refine(row["prompt"])) for row in held[:NUM_ALONE]]
    return {
        "loss per token, mean over prompts": float(np.mean(losses)),
        **numbers,
        "seconds for one prompt, median after the first": statistics.median(seconds[1:]),
    }


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
