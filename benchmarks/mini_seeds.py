"""What the whole recipe gains on the mini world, seed by seed: the claims of README, from finished
runs.

    for s in 0 1 2; do pav run --config=configs/mini.py --workdir=runs/mini_$s --config.seed=$s;
    done python benchmarks/mini_seeds.py runs/mini_0 runs/mini_1 runs/mini_2

Prints a Markdown table per prompt set (mean paired difference and its 95 % bootstrap interval, from
each run's evaluation.json), then whether every claim holds in every run; exits with 1 where one
does not.
"""

import argparse
import json
import sys
from pathlib import Path

LAST = "dpo_2"
ROWS = [  # (what is shown, system, field of evaluation.json, metric)
    ("TVA, dpo_2 - original", LAST, "delta", "TVA"),
    ("MPS, dpo_2 - original", LAST, "delta", "MPS"),
    ("AES, dpo_2 - original", LAST, "delta", "AES"),
    ("CLIP's TVA, held out from all, dpo_2 - original", LAST, "delta", "held_out:TVA"),
    ("overall, dpo_2 - original", LAST, "delta", "overall"),
    ("overall, base - original", "base", "delta", "overall"),
    ("overall, sft - base", "sft", "delta_vs_base", "overall"),
    ("overall, dpo_1 - sft", "dpo_1", "delta_vs_sft", "overall"),
    ("overall, dpo_2 - sft", LAST, "delta_vs_sft", "overall"),
    ("overall, dpo_2 - suffix", LAST, "delta_vs_suffix", "overall"),
    ("overall, suffix - original", "suffix", "delta", "overall"),
    ("overall, shuffled - original", "shuffled", "delta", "overall"),
    ("overall, oracle - original", "oracle", "delta", "overall"),
    ("FAITH, dpo_2 - base", LAST, "delta_vs_base", "FAITH"),
]
# What is claimed of every run: the least lower bound of a row's interval, over the prompts of each
# set.
CLAIMS = {
    "TVA, dpo_2 - original": 0.0,
    "MPS, dpo_2 - original": 0.0,
    "AES, dpo_2 - original": 0.0,
    "CLIP's TVA, held out from all, dpo_2 - original": 0.0,
    "overall, dpo_2 - original": 0.0,
    "overall, sft - base": 0.0,
    "overall, dpo_2 - sft": 0.0,
    "overall, dpo_2 - suffix": 0.0,
    "FAITH, dpo_2 - base": -0.02,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="work directories of finished runs")
    runs = parser.parse_args().runs
    found = [
        json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["sets"] for run in runs
    ]
    missed = []
    for name in found[0]:
        print(
            f"\n| {name}, {found[0][name]['prompts']} prompts | "
            + " | ".join(run.name for run in runs)
            + " |"
        )
        print("|---" * (len(runs) + 1) + "|")
        for label, system, field, metric in ROWS:
            cells = [sets[name]["systems"][system][field][metric] for sets in found]
            print(
                f"| {label} | "
                + " | ".join(f"{m:+.2f} ({lo:+.2f}, {hi:+.2f})" for m, lo, hi in cells)
                + " |"
            )
            if label in CLAIMS:
                missed += [
                    f"{name}, {run.name}: {label} is {m:+.3f} ({lo:+.3f}, {hi:+.3f})"
                    for run, (m, lo, hi) in zip(runs, cells, strict=True)
                    if lo < CLAIMS[label]
                ]
    print("\nevery claim holds in every run" if not missed else "\nmissed:\n" + "\n".join(missed))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
