"""`pav check`: whether a configuration fits a TPU, and what it would cost, on a machine that has
none."""

import argparse
import contextlib
from typing import Any

PROGRAMS = ("sft", "dpo", "sample", "generator", "rewards")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        help="compile a configuration for a TPU that is not here",
        description="""\
Compiles the programs of a configuration for a TPU topology, on any machine, with libtpu's own compiler; no weights
are needed. Says of each program whether it compiles, its bytes per chip, operations, collectives and memory traffic,
and estimates from these the time of a step, the model's share of the peak (MFU), and the chip-hours of the whole run.
Exit status 1: a program does not compile. LIBTPU_INIT_ARGS counts as it does on a TPU.""",
        epilog="""\
examples:
  pav check --config=configs/llama3_8b_dpo_v5e16.py --topology=v5e:4x4
  pav check --config=configs/llama3_8b_sft_v5p8.py --topology=v5p:2x2x1 --usd-per-chip-hour=4.2 --json
  pav check --config=configs/llama3_8b_dpo_v5e256.py --topology=v5e:8x8 --slices=4 --config.dpo.batch_size=512
  pav check --config=configs/wan21_14b.py --quick""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--config", help="a configuration file; default: the embedded models")
    command.add_argument(
        "--topology",
        help=(
            "TPU generation and chips: v5e:4x4, v5p:2x2x1 (v5p-8), v6e:2x4 (v6e-8); "
            "default: the configuration's check.topology"
        ),
    )
    command.add_argument(
        "--slices", type=int, help="how many such slices, over which the mesh's data axis goes (1)"
    )
    command.add_argument(
        "--programs", help=f"which, of {','.join(PROGRAMS)}; default: check.programs, or all"
    )
    command.add_argument(
        "--examples", type=int, help="SFT pairs, preferences and prompts to assume (5000)"
    )
    command.add_argument(
        "--length", type=int, help="tokens of a training row; default: the longest there may be"
    )
    command.add_argument(
        "--prompt-length", type=int, help="tokens of a prompt in the chat template (128)"
    )
    command.add_argument(
        "--rewriter-config", help="a config.json to take the rewriter's sizes from"
    )
    command.add_argument("--usd-per-chip-hour", type=float, help="also print prices")
    command.add_argument(
        "--quick",
        action="store_true",
        help=(
            "compile with the compiler's least effort: seconds where it takes minutes (a video VAE"
            " takes many); memory and traffic are then not what a run has"
        ),
    )
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> int:
    import os

    os.environ["JAX_PLATFORMS"] = "cpu"  # traced here, compiled for elsewhere, run nowhere
    import jax

    jax.config.update("jax_platforms", "cpu")

    from pav_jax import config as configuration
    from pav_jax.errors import BadInput
    from pav_jax.parallel.mesh import make_mesh
    from pav_jax.preflight import compiler, report

    config = configuration.load(args.config, args.overrides)
    own = config.get("check", {})
    chosen, assumed = _choices(args, own)
    if not (name := args.topology or own.get("topology")):
        raise BadInput("--topology is missing; name a TPU, as in --topology=v5e:4x4")
    where = compiler.topology(name, args.slices or own.get("slices", 1))
    sizes = dict(config.mesh)
    if all(
        size == 1 for size in sizes.values()
    ):  # for one device; here that means: spread over all there are
        sizes |= {"data": where.slices, "fsdp": -1}
    mesh = make_mesh(**sizes, devices=where.devices)
    programs = _programs(config, mesh, chosen, assumed, args.rewriter_config)
    with compiler.least_effort() if args.quick else contextlib.nullcontext():
        findings = _examine(programs, where, assumed, args, mesh)
    usd = args.usd_per_chip_hour
    if args.json:
        import json

        print(
            json.dumps(
                report.as_json(findings, where, dict(mesh.shape), assumed, usd, args.quick),
                indent=2,
            )
        )
    else:
        print("\n" + report.total(findings, usd))
    return int(any(found.compiled.reason is not None for found in findings))


def _choices(args: argparse.Namespace, own: Any) -> tuple[tuple[str, ...], Any]:
    """(names of programs, what is assumed): the command line's, else the configuration's, else the
    usual."""
    import dataclasses

    from pav_jax.commands.numbers import at_least
    from pav_jax.errors import BadInput
    from pav_jax.preflight.program import Assumed

    for option in ("slices", "examples", "length", "prompt_length"):
        at_least(1, "--" + option.replace("_", "-"), getattr(args, option))
    chosen = (
        tuple(args.programs.split(",")) if args.programs else tuple(own.get("programs", PROGRAMS))
    )
    if unknown := sorted(set(chosen) - set(PROGRAMS)):
        raise BadInput(f"--programs: there is no {unknown[0]!r}; choose from {', '.join(PROGRAMS)}")
    values = {
        field.name: getattr(args, field.name) or own.get(field.name)
        for field in dataclasses.fields(Assumed)
    }
    return chosen, Assumed(**{name: value for name, value in values.items() if value})


def _programs(
    config: Any, mesh: Any, chosen: tuple[str, ...], assumed: Any, sizes: str | None
) -> list:
    from pav_jax.preflight import generator_programs, reward_programs, rewriter_programs

    found = []
    if set(chosen) - {"generator", "rewards"}:
        lm = rewriter_programs.model(config, mesh, sizes)
        found += [
            rewriter_programs.training(stage, config, lm, assumed)
            for stage in ("sft", "dpo")
            if stage in chosen
        ]
        found += [rewriter_programs.sample(config, lm, assumed)] if "sample" in chosen else []
    host = [device for device in mesh.devices.flat if device.process_index == 0]
    found += generator_programs.generator(config, host, assumed) if "generator" in chosen else []
    return found + (reward_programs.rewards(config, host, assumed) if "rewards" in chosen else [])


def _examine(programs: list, where: Any, assumed: Any, args: argparse.Namespace, mesh: Any) -> list:
    """Compiles one after the other; without --json prints each as it comes, for compiling takes
    minutes."""
    from pav_jax.components import progress_bars
    from pav_jax.preflight import report

    if not args.json:
        print(report.heading(where, dict(mesh.shape), assumed, args.quick), flush=True)
    findings = []
    with progress_bars() as bars:
        task = bars.add_task("compiling", total=len(programs))
        for program in programs:
            bars.update(task, description=f"compiling {program.name}")
            findings.append(report.examine(program, where))
            bars.advance(task)
            if not args.json:
                print("\n" + report.block(findings[-1], where, args.usd_per_chip_hour), flush=True)
    return findings
