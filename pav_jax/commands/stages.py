"""The stages of the recipe: each reads and writes the work directory and can be stopped and run
again."""

import argparse
import logging
import sys
import warnings
from typing import Any

# name -> (one line, description, does it take --round)
STAGES = {
    "run": (
        "the whole recipe, from prompts to report",
        (
            "Runs evolve, select, sft, then prefer and dpo for each round, evaluate and report."
            " What is finished in\nthe work directory is not done again: after a stop, run the same"
            " command to go on."
        ),
    ),
    "evolve": (
        "search for good rewrites of the training prompts",
        (
            "For each prompt: generate and score a video of the prompt itself, then let the"
            " proposers write better\nrewrites from the best so far, round after round. Writes"
            " pool/."
        ),
    ),
    "select": (
        "pick the rewrites to learn from",
        (
            "Takes from pool/ the best rewrite of each prompt that passes thresholds and floors."
            " Writes\nsft_pairs.jsonl."
        ),
    ),
    "sft": (
        "tune the rewriter on the selected rewrites",
        (
            "Supervised tuning with LoRA on sft_pairs.jsonl. Writes sft/booster, a Hugging Face"
            " folder."
        ),
    ),
    "prefer": (
        "sample, generate and score rewrites, and pair them",
        (
            "Samples rewrites of new prompts from the booster so far, generates and scores a video"
            " for each, and\npairs better with worse ones. Writes round_N/candidates/ and"
            " round_N/preferences.jsonl."
        ),
    ),
    "dpo": (
        "tune the booster on the preferences",
        (
            "Direct preference optimization with LoRA on round_N/preferences.jsonl. Writes"
            " round_N/booster."
        ),
    ),
    "grpo": (
        "tune a booster by the scores of its own rewrites",
        (
            "Group relative policy optimization with LoRA: instead of prefer and dpo or after them,"
            " not a part of\nrun. At each step the booster writes grpo.num_generations rewrites of"
            " each of a few prompts, a video is\nmade of every one and scored, and those above the"
            " mean of their prompt's group become more likely. The\nreward is overall +"
            " grpo.faith_weight * FAITH; a rewrite below a floor comes last in its group."
            " Starts\nfrom grpo.start: sft, dpo_1, ..., base or a folder. Writes grpo/candidates/"
            " (each step's rewrites with\ntheir scores), grpo/metrics.jsonl and grpo/booster; to"
            " measure it, name grpo in evaluate.systems.\n\nWhat metrics.jsonl tells: reward should"
            " rise. rewards/FAITH/mean falling, or kl above a few tenths,\nmeans that the scores"
            " are being gamed: raise grpo.beta or grpo.faith_weight. frac_reward_zero_std near\n1"
            " means that a group's rewrites are all alike: raise grpo.temperature."
            " completions/clipped_ratio near 1\nmeans that they do not end: raise"
            " grpo.max_completion_length. Stopped, the same command goes on, and\nvideos that were"
            " finished are not made again."
        ),
    ),
    "evaluate": (
        "measure every system on the evaluation prompts",
        (
            "Generates and scores videos for the user's prompts as they are (original), rewritten"
            " by the untuned\nrewriter (base), and by each booster, all with the same seeds; with"
            " --controls also for a fixed\nsuffix, other prompts' rewrites and, where known, the"
            " oracle caption. Writes evaluation.json."
        ),
    ),
    "trust": (
        "measure how far the rewards can be trusted",
        (
            "Generates videos of trust.max_prompts prompts with every seed of trust.seeds and"
            " tests each score:\nits drop with a permuted or an empty prompt, its standard"
            " deviation over seeds, its rank correlation\nwith the severity of video and caption"
            " corruptions, its correlation with other scores and with the\nlength of prompts (and"
            " of rewrites, if pool/ exists), its saturation. Writes trust.json with a verdict\nfor"
            " each score and prints it; the report shows it. Rerun the command to continue a"
            " stopped run."
        ),
    ),
    "calibrate": (
        "fit thresholds and weights to the scores of a pool",
        (
            "Sets each score's threshold to its quantile calibrate.quantile in pool/ and scales"
            " the weights so that\nthe weighted standard deviations keep the proportions of"
            " calibrate.weights (or else evolve.weights,\nrewards.weights). Writes"
            " calibration.json and prints the options that apply it; no stage reads it."
        ),
    ),
    "report": (
        "write the report as one page",
        (
            "Writes report/index.html from what the work directory contains: one file that needs"
            " no network."
        ),
    ),
}
EXAMPLES = {
    "run": (
        "pav run --config=configs/mini.py --workdir=runs/mini",
        (
            "pav run --config=configs/mini.py --workdir=runs/two --config.evolve.rounds=2"
            " --config.seed=1"
        ),
    ),
    "prefer": ("pav prefer --config=configs/mini.py --workdir=runs/mini --round=1",),
    "dpo": ("pav dpo --config=configs/mini.py --workdir=runs/mini --round=1",),
    "grpo": (
        "pav grpo --config=configs/mini.py --workdir=runs/mini",
        (
            "pav grpo --config=configs/mini.py --workdir=runs/g"
            " --config.grpo.start=runs/mini/round_2/booster --config.grpo.beta=0.04"
        ),
    ),
    "evaluate": ("pav evaluate --config=configs/mini.py --workdir=runs/mini --no-controls",),
    "trust": (
        "pav trust --config=configs/mini.py --workdir=runs/mini",
        "pav trust --config=configs/mini.py --workdir=runs/t --config.trust.prompts=my.txt",
    ),
    "calibrate": ("pav calibrate --workdir=runs/mini",),
    "report": ("pav report --workdir=runs/mini",),
}


def add(commands: Any) -> None:
    for name, (line, description) in STAGES.items():
        examples = EXAMPLES.get(name, (f"pav {name} --config=configs/mini.py --workdir=runs/mini",))
        command = commands.add_parser(
            name,
            help=line,
            description=description,
            epilog="\n  ".join(["examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--config", help="a configuration file; may be left out once the work directory has one"
        )
        command.add_argument("--workdir", help="the folder where everything is read and written")
        command.add_argument(
            "--config.SECTION.FIELD",
            dest="_shown",
            metavar="VALUE",
            help="changes any field of the configuration, as in --config.evolve.rounds=2",
        )
        if name in ("prefer", "dpo"):
            command.add_argument(
                "--round", type=int, default=1, help="which round, from 1 (default 1)"
            )
        if name == "evaluate":
            command.add_argument(
                "--controls",
                action=argparse.BooleanOptionalAction,
                default=None,
                help="also measure the controls; default: as evaluate.controls says",
            )
        command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    from pav_jax import config as configuration
    from pav_jax.errors import BadInput
    from pav_jax.parallel import processes

    if not args.workdir:
        raise BadInput(f"--workdir is missing; name a folder, as in --workdir=runs/{args.command}")
    with processes.first_process_first("configuration"):
        config = configuration.for_workdir(args.config, args.overrides, args.workdir)
    options = {}
    if args.command in ("prefer", "dpo"):
        if not 1 <= args.round <= config.rounds:
            raise BadInput(
                f"--round={args.round}: this configuration has rounds 1 to {config.rounds}"
            )
        options = {"round": args.round}
    if args.command == "evaluate":
        options = {"controls": config.evaluate.controls if args.controls is None else args.controls}

    from pav_jax import recipe

    show_log()
    written = getattr(recipe, args.command)(config, args.workdir, **options)
    if written is not None:
        print(written)


class _Lines(logging.Handler):
    """Writes to whatever standard error is at that moment: a progress bar replaces it to keep lines
    above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def show_log() -> None:
    """What the stages log (rounds, losses, videos per second) goes to standard error; libraries,
    and all but the first of many processes, stay at warnings."""
    import jax

    log = logging.getLogger("pav_jax")
    log.setLevel(logging.WARNING if jax.process_index() else logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
        # a library gives the root logger a handler of its own, which would say it all again
        log.propagate = False
    warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
