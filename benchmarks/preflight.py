"""Compiles all programs of the shipped configurations for their TPUs at full effort, as `pav check`
does, one at a time, and prints a table of docs/preflight.md. Needs libtpu, no TPU and no weights.

    python benchmarks/preflight.py --out=preflight.jsonl             # hours; run again to continue
    python benchmarks/preflight.py --out=preflight.jsonl --table     # the table of what is there

A program that several configurations share is compiled once for each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONFIGS = (
    "llama3_8b:sft,v5e-16",
    "llama3_8b:sft,v5p-8",
    "llama3_8b:sft,v6e-8",
    "llama3_8b:dpo,v5e-16",
    "llama3_8b:dpo,v5p-8",
    "llama3_8b:dpo,v6e-8",
    "llama3_8b:dpo,v5e-256",
    *(
        f"{rewriter}:{stage},{tpu}"
        for rewriter in ("qwen3_8b", "qwen3_4b", "gemma3_4b")
        for stage in ("sft", "dpo")
        for tpu in ("v5e-16", "v5p-8", "v6e-8")
    ),
    "cogvideox_2b",
    "cogvideox_5b",
    "wan21_1_3b",
    "wan21_14b",
    "wan22_ti2v_5b:v6e-8",
    "wan22_ti2v_5b:v5e-8",
    "wan22_a14b:v6e-8",
    "wan22_a14b:v5p-8",
    "opensora_12",
    "rewards_full",
    # batches that four chips can share
    "smollm2_vbench --config.check.topology=v5e:2x2"
    " --config.sft.batch_size=16 --config.sft.gradient_accumulation_steps=1"
    " --config.dpo.batch_size=16 --config.dpo.gradient_accumulation_steps=1",
    "mini --config.check.topology=v5e:2x2",
    "mini_wan --config.check.topology=v5e:2x2",
)


def main() -> None:
    """Compiles what the results lack, or prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON Lines")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--only", default="", help="only configurations that start with this")
    parser.add_argument("--programs", default="", help="only programs whose names contain this")
    parser.add_argument(
        "--config", help=argparse.SUPPRESS
    )  # compile one configuration in this process
    arguments = parser.parse_args()
    if arguments.table:
        print_table(read_rows(arguments.out))
    elif arguments.config:
        compile_programs(arguments.config, arguments.programs, arguments.out)
    else:
        for name in CONFIGS:
            if name.startswith(arguments.only):
                options = [f"--{key}={getattr(arguments, key)}" for key in ("out", "programs")]
                command = [sys.executable, __file__, *options, f"--config={name}"]
                subprocess.run(command, check=False)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Earlier results."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def compile_programs(name: str, programs: str, path: Path) -> None:
    """Compiles the programs of a configuration that `path` lacks, and appends a line for each."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from pav_jax import config as configuration
    from pav_jax.preflight import configured_programs
    from pav_jax.preflight.topology import describe_topology

    file, *overrides = name.split(" ")
    config: Any = configuration.load(file, overrides)
    topology = describe_topology(config.check.topology, config.check.num_slices)
    mesh = configured_programs.rewriter_mesh(config, topology)
    finished = {(row["config"], row["program"]) for row in read_rows(path)}
    for program in configured_programs.build(config, mesh):
        if programs in program.name and (name, program.name) not in finished:
            row = dict(config=name, topology=topology.name, **measure(program, topology))
            print(json.dumps(row), flush=True)
            with path.open("a") as lines:
                lines.write(json.dumps(row) + "\n")


def measure(program: Any, topology: Any) -> dict[str, Any]:
    """Seconds to compile, memory and roofline of a program."""
    from pav_jax.preflight.estimate import examine_program

    cpu, wall = time.process_time(), time.perf_counter()
    report = examine_program(program, topology)
    return dict(
        program=program.name,
        cpu_seconds=round(time.process_time() - cpu, 1),
        wall_seconds=round(time.perf_counter() - wall, 1),
        error=report.compiled.error,
        gib=round(report.compiled.memory.get("total", 0) / 2**30, 2),
        phases=[
            dict(
                name=estimate.phase.name,
                num_runs=estimate.phase.num_runs,
                seconds=estimate.seconds.overlapped,
                serial_seconds=estimate.seconds.serial,
                chip_hours=estimate.chip_hours,
                tflop=estimate.counted_flops / 1e12,
                hbm_gb=estimate.traffic.hbm_bytes / 1e9,
            )
            for estimate in report.estimates
        ],
    )


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints one row a program, in Markdown."""
    print("| configuration | program | CPU seconds | GiB per chip | roofline, seconds of a call |")
    print("|---|---|---|---|---|")
    for row in rows:
        seconds = ", ".join(f"{phase['seconds']:.3g}" for phase in row["phases"])
        cells = (row["config"].split(" ")[0], row["program"], round(row["cpu_seconds"]))
        print("|", " | ".join(map(str, (*cells, row["gib"], seconds))), "|")


if __name__ == "__main__":
    main()
