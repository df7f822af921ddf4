"""Checks README's claims about the recipe on the mini world, for each seed, from finished runs.

    for s in 0 1 2; do
        pav run --config=configs/mini_full.py --workdir=runs/mini_$s --config.seed=$s
    done
    python benchmarks/mini_seeds.py runs/mini_0 runs/mini_1 runs/mini_2

Prints a Markdown table per prompt set (mean paired difference and its 95 % bootstrap interval, from
each run's evaluation.json), then whether every claim holds in every run. Exit status 1: a claim
does not hold. `--quick` is for runs of configs/mini.py, which make no claim about FAITH: their
boosters learn from too few pairs to keep all words.
"""

import argparse
import json
import sys
from pathlib import Path

from machine import write_result

LAST = "dpo_2"
ROWS = [  # (label, system, field of evaluation.json, metric)
    ("TVA, dpo_2 - original", LAST, "delta", "TVA"),
    ("MPS, dpo_2 - original", LAST, "delta", "MPS"),
    ("AES, dpo_2 - original", LAST, "delta", "AES"),
    ("CLIP's TVA, held-out evaluator, dpo_2 - original", LAST, "delta", "held_out:TVA"),
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
# Claims for every run: the minimum of the interval's lower bound, over the prompts of each set.
CLAIMS = {
    "TVA, dpo_2 - original": 0.0,
    "MPS, dpo_2 - original": 0.0,
    "AES, dpo_2 - original": 0.0,
    "CLIP's TVA, held-out evaluator, dpo_2 - original": 0.0,
    "overall, dpo_2 - original": 0.0,
    "overall, sft - base": 0.0,
    "overall, dpo_2 - sft": 0.0,
    "overall, dpo_2 - suffix": 0.0,
    "FAITH, dpo_2 - base": -0.02,
}


def main() -> None:
    """Prints the tables and checks the claims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="work directories of finished runs")
    parser.add_argument("--quick", action="store_true", help="runs of configs/mini.py")
    parser.add_argument("--json", type=Path, help="write the result there, as --json=FILE")
    args = parser.parse_args()
    runs = args.runs
    checked = {k: v for k, v in CLAIMS.items() if not (args.quick and k.startswith("FAITH"))}
    texts = [(run / "evaluation.json").read_text(encoding="utf-8") for run in runs]
    evaluations = [json.loads(text)["sets"] for text in texts]
    failures = []
    tables: dict[str, dict] = {}
    for name in evaluations[0]:
        tables[name] = {}
        header = [f"{name}, {evaluations[0][name]['prompts']} prompts", *(run.name for run in runs)]
        print(f"\n| {' | '.join(header)} |")
        print("|---" * len(header) + "|")
        for label, system, field, metric in ROWS:
            cells = [sets[name]["systems"][system][field][metric] for sets in evaluations]
            tables[name][label] = cells
            texts = [f"{mean:+.2f} ({low:+.2f}, {high:+.2f})" for mean, low, high in cells]
            print(f"| {label} | {' | '.join(texts)} |")
            for run, (mean, low, high) in zip(runs, cells, strict=True):
                if label in checked and low < checked[label]:
                    interval = f"{mean:+.3f} ({low:+.3f}, {high:+.3f})"
                    failures.append(f"{name}, {run.name}: {label} is {interval}")
    if failures:
        print("\nclaims that do not hold:\n" + "\n".join(failures))
    else:
        print("\nevery claim holds in every run")
    result = {
        "runs": [run.name for run in runs],
        "prompts": {name: sets["prompts"] for name, sets in evaluations[0].items()},
        "sets": tables,
        "failures": failures,
    }
    write_result(args.json, result)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
