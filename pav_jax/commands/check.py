"""`pav check`: whether a configuration fits a TPU and what it would cost, without a TPU."""

import argparse
import contextlib
import math
import os
from typing import Any

from pav_jax.preflight import libtpu

# Options that set the field of the configuration's section `check` with the same name.
FIELDS = (
    "topology",
    "num_slices",
    "programs",
    "num_examples",
    "row_length",
    "prompt_length",
)


def add(commands: Any) -> None:
    """Adds the command to an argparse subparsers object."""
    command = commands.add_parser(
        "check",
        help="compile a configuration for a TPU that is not attached",
        description="""\
Compiles the programs of a configuration for a TPU topology, on any machine, with libtpu's compiler.
No weights are needed: of models in gs:// and s3:// too, only configuration files are read. Reports
for each program whether it compiles, its HBM per chip, FLOPs, collectives and HBM traffic, and
estimates from these the time of a step, the model FLOPs utilization (MFU) and the chip-hours of the
whole run. Exit status 1: a program does not compile. LIBTPU_INIT_ARGS has the same effect as on a
TPU.""",
        epilog="""\
examples:
  pav check --config=configs/llama3_8b.py:dpo,v5e-16
  pav check --config=configs/llama3_8b.py:sft,v5p-8 --usd-per-chip-hour=4.2 --json
  pav check --config=configs/llama3_8b.py:dpo,v5e-256 --topology=v5e:8x8 --num-slices=4
  pav check --config=configs/wan21_14b.py --quick""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--config", help="a configuration, also gs://... or s3://...; default: embedded models"
    )
    command.add_argument(
        "--topology",
        help=(
            "TPU generation and chips: v5e:4x4, v5p:2x2x1 (v5p-8), v6e:2x4 (v6e-8); default: the"
            " configuration's"
        ),
    )
    command.add_argument(
        "--num-slices", type=int, help="slices of this topology; the mesh axis data spans them"
    )
    command.add_argument(
        "--programs",
        type=_names,
        help="of sft,dpo,sample,generator,rewards; default: the configuration's",
    )
    command.add_argument(
        "--num-examples", type=int, help="SFT pairs, preference pairs and prompts to assume"
    )
    command.add_argument(
        "--row-length", type=int, help="tokens of a training row; default: the longest possible"
    )
    command.add_argument(
        "--prompt-length", type=int, help="tokens of a prompt in the chat template"
    )
    command.add_argument(
        "--rewriter-config", help="take the rewriter's sizes from this config.json"
    )
    command.add_argument(
        "--usd-per-chip-hour", type=float, help="price of a chip; prints costs too"
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="compile in seconds with minimal effort; memory and traffic differ from a run",
    )
    command.add_argument(
        "--jobs",
        type=int,
        help="programs that compile at the same time, each in up to 4 GB; default: one per core",
    )
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(handler=run, parser=command)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def run(args: argparse.Namespace) -> int:
    """Compiles the programs and prints the report. Returns the exit status."""
    libtpu.require_libtpu()  # before JAX and the models are imported
    os.environ["JAX_PLATFORMS"] = "cpu"  # programs are traced here and compiled for the TPU
    import jax

    jax.config.update("jax_platforms", "cpu")

    from pav_jax import config as configuration
    from pav_jax.errors import BadInput
    from pav_jax.preflight import compiler, configured_programs
    from pav_jax.preflight.topology import describe_topology

    config: Any = configuration.load(args.config, args.overrides)
    _apply_options(config.check, args)
    if not config.check.topology:
        raise BadInput(
            "--topology is missing; name a TPU, such as --topology=v5e:4x4",
            source="--topology",
            field="check.topology",
        )
    topology = describe_topology(config.check.topology, config.check.num_slices)
    mesh = configured_programs.rewriter_mesh(config, topology)
    programs = configured_programs.build(config, mesh, args.rewriter_config)
    with compiler.minimal_compile_effort() if args.quick else contextlib.nullcontext():
        reports = _examine(programs, config, topology, mesh, args)
    _print_end(reports, config, topology, mesh, args)
    return int(any(report.compiled.error is not None for report in reports))


def _apply_options(check: Any, args: argparse.Namespace) -> None:
    """Sets the fields of the section `check` that are given as options."""
    from pav_jax.commands.arguments import require_at_least, require_at_most
    from pav_jax.defaults import CheckConfig
    from pav_jax.errors import BadInput
    from pav_jax.preflight.program import PROGRAMS

    require_at_least(1, "--jobs", args.jobs)
    for field in FIELDS:
        option = "--" + field.replace("_", "-")
        value = getattr(args, field)
        if isinstance(value, int):
            limits = CheckConfig.__dataclass_fields__[field].metadata
            require_at_least(limits["minimum"], option, value)
            require_at_most(limits["maximum"] or math.inf, option, value)
        if value is not None:
            check[field] = value
    for name in check.programs:
        if name not in PROGRAMS:
            raise BadInput(
                f"--programs: there is no {name!r}; choose from {', '.join(PROGRAMS)}",
                source="--programs",
                field="check.programs",
            )


def _examine(
    programs: list, config: Any, topology: Any, mesh: Any, args: argparse.Namespace
) -> list:
    """Compiles the programs, several at a time. Prints each result as soon as it and those before
    it are known, as compilation takes minutes, unless JSON is requested."""
    from pav_jax.preflight import report
    from pav_jax.preflight.estimate import examine_programs
    from pav_jax.progress import Progress

    if not args.json:
        print(report.heading(topology, mesh.shape, config.check, args.quick), flush=True)
    reports = []
    jobs = args.jobs or os.cpu_count() or 1
    with Progress(is_brief=True) as bars:
        task = bars.add_task(f"compiling {len(programs)} programs", total=len(programs))
        for examined in examine_programs(programs, topology, jobs):
            reports.append(examined)
            bars.advance(task)
            if not args.json:
                text = report.program_text(examined, topology, args.usd_per_chip_hour)
                print("\n" + text, flush=True)
    return reports


def _print_end(
    reports: list, config: Any, topology: Any, mesh: Any, args: argparse.Namespace
) -> None:
    import json

    from pav_jax.preflight import report

    usd = args.usd_per_chip_hour
    if args.json:
        result = report.as_json(reports, topology, mesh.shape, config.check, usd, args.quick)
        print(json.dumps(result, indent=2))
    else:
        print("\n" + report.total_text(reports, usd))
