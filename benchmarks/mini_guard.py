"""Evaluates the boosters of a finished run on the mini world again, with the intent guard on.

    pav run --config=configs/mini.py --workdir=runs/mini
    python benchmarks/mini_guard.py runs/mini

The run itself has the guard off, as its configuration says. The second evaluation, in RUN_guarded,
has the same prompts, seeds and boosters, and resumes if it was interrupted. Prints a Markdown table
per prompt set: what each system gains over the original prompt (mean paired difference and its 95 %
bootstrap interval), its FAITH, the units of the prompts that its rewrites miss, contradict and add,
and how many rewrites are the prompt itself because no sample was good enough.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from machine import write_result

BOOSTERS = {"sft": "sft", "dpo_1": "round_1", "dpo_2": "round_2"}  # system -> folder of the run
SYSTEMS = ("base", *BOOSTERS)
UNITS = ("missing", "contradicted", "added")


def evaluate(run: Path, folder: Path, config: str) -> None:
    """Evaluate the boosters of a run in `folder` with the guard on."""
    boosters = {name: os.fspath(run / place / "booster") for name, place in BOOSTERS.items()}
    command = ["pav", "evaluate", f"--config={config}", f"--workdir={folder}", "--no-controls"]
    command += [
        "--config.booster.guard.mode=on",
        "--config.evaluate.systems=('original', 'base')",
        f"--config.evaluate.rewrite_files={boosters}",
    ]
    subprocess.run(command, check=True)


def numbers(system: dict[str, Any], prompts: int) -> dict[str, Any]:
    """What the table shows of one system."""
    units = system["units"]
    return {
        "gain": system["delta"]["overall"],
        "FAITH": system["scores"]["FAITH"],
        "words": system["words"],
        "reverted": system["reverted"],
        "units": {kind: units[kind] for kind in UNITS},
        "prompts": prompts,
    }


def print_table(name: str, rows: dict[str, list[dict]]) -> None:
    """Print the table of one prompt set: guard off and on, side by side."""
    header = [name, "guard", "overall - original", "FAITH", *UNITS, "words", "reverted"]
    print(f"\n| {' | '.join(header)} |")
    print("|---" * len(header) + "|")
    for system, sides in rows.items():
        for mode, row in zip(("off", "on"), sides, strict=True):
            mean, low, high = row["gain"]
            cells = [
                system,
                mode,
                f"{mean:+.2f} ({low:+.2f}, {high:+.2f})",
                f"{row['FAITH']:.3f}",
                *(f"{row['units'][kind]:.3g}" for kind in UNITS),
                f"{row['words']:.0f}",
                f"{row['reverted']}",
            ]
            print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Evaluates, prints and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="work directory of a finished run")
    parser.add_argument("--config", default="configs/mini.py", help="the configuration of the run")
    parser.add_argument("--json", type=Path, help="write the result there, as --json=FILE")
    arguments = parser.parse_args()
    guarded = arguments.run.with_name(f"{arguments.run.name}_guarded")
    evaluate(arguments.run, guarded, arguments.config)
    texts = [
        (folder / "evaluation.json").read_text(encoding="utf-8")
        for folder in (arguments.run, guarded)
    ]
    off, on = (json.loads(text)["sets"] for text in texts)
    tables = {}
    for name in off:
        tables[name] = {
            system: [
                numbers(side[name]["systems"][system], side[name]["prompts"]) for side in (off, on)
            ]
            for system in SYSTEMS
        }
        print_table(f"{name}, {off[name]['prompts']} prompts", tables[name])
    write_result(arguments.json, {"run": arguments.run.name, "sets": tables})


if __name__ == "__main__":
    main()
