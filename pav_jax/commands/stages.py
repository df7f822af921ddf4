"""The stages of the recipe: each reads and writes the work directory and can be run again."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from pav_jax.commands import vote_options
from pav_jax.redaction import redact

NOT_LOCKING = ("report", "calibrate")  # which may read while a run is at work

# name -> (one line, description)
STAGES = {
    "run": (
        "run the whole recipe, from prompts to report",
        """\
Runs evolve, select and sft, then prefer and dpo for each round, evaluate and report. Finished
work in the work directory is not repeated: after a stop, run the same command to continue.""",
    ),
    "evolve": (
        "search for good rewrites of the training prompts",
        """\
For each prompt: generate and score a video of the prompt itself, then let the proposers write
better rewrites from the best so far, in every round. Writes pool/.""",
    ),
    "select": (
        "select the rewrites for supervised fine-tuning",
        """\
Takes from pool/ the best feasible rewrite of each prompt above all selection thresholds. Writes
sft_pairs.jsonl.""",
    ),
    "sft": (
        "fine-tune the rewriter on the selected rewrites",
        """\
Supervised fine-tuning with LoRA on sft_pairs.jsonl. Writes sft/booster, a Hugging Face folder.""",
    ),
    "prefer": (
        "sample, generate and score rewrites, and pair them",
        """\
Samples rewrites of new prompts from the latest booster, generates and scores a video for each,
and pairs better with worse ones. Writes round_N/candidates/ and round_N/preferences.jsonl.""",
    ),
    "dpo": (
        "fine-tune the booster on the preferences",
        """\
Direct preference optimization with LoRA on round_N/preferences.jsonl. Writes round_N/booster.""",
    ),
    "grpo": (
        "train a booster on the scores of its own rewrites",
        """\
Group relative policy optimization with LoRA, instead of prefer and dpo or after them; not part
of run. At each step the booster writes grpo.num_generations rewrites of a few prompts. Every
rewrite gets a video (none if every reward reads text) and a score, and rewrites above the mean
of their prompt's group become more likely. The reward is overall + grpo.faith_weight * FAITH;
an infeasible rewrite comes last in its group. Starts from grpo.start: sft, dpo_1, ..., base or
a folder. Writes grpo/candidates/ (each step's rewrites and scores), grpo/metrics.jsonl and
grpo/booster. To evaluate it, add grpo to evaluate.systems.

How to read metrics.jsonl: `reward` should rise. A falling rewards/FAITH/mean, or a kl above a
few tenths, indicates reward hacking: raise grpo.beta or grpo.faith_weight. frac_reward_zero_std
near 1 means that the rewrites of a group are alike: raise grpo.temperature.
completions/clipped_ratio near 1 means that rewrites do not end: raise
grpo.max_completion_length. After a stop, the same command continues; finished videos are not
made again.""",
    ),
    "evaluate": (
        "measure every system on the evaluation prompts",
        """\
Generates and scores videos for the user's prompts as they are (original), rewritten by the
untuned rewriter (base), and by each booster, all with the same seeds; with --controls also for a
fixed suffix, other prompts' rewrites and, where known, the oracle caption. Writes
evaluation.json.""",
    ),
    "trust": (
        "measure how far the rewards can be trusted",
        """\
Makes videos of trust.max_prompts prompts with every seed of trust.seeds and tests each score:
does it drop for another prompt or an empty one, how much does it vary over seeds, does it
respond to corruption of increasing severity, which scores correlate, does it favor long prompts
(or, where pool/ exists, long rewrites), does it saturate. Writes trust.json with a verdict for
each score and prints it; the report shows it. After a stop, the same command continues.""",
    ),
    "calibrate": (
        "fit thresholds and weights to the scores of a pool",
        """\
The threshold of each score is its quantile calibrate.quantile in pool/. Weights are scaled so
that each score's weighted deviation keeps the proportions of calibrate.weights, else
evolve.weights, else rewards.weights. Writes calibration.json and prints the options that use it;
no stage reads it.""",
    ),
    "report": (
        "write the report",
        """\
Writes report/index.html from the content of the work directory: one file that opens offline.
With --votes-page it writes report/votes.html instead: a page that shows the evaluation's videos of
two systems side by side, without their names, and collects votes for the better one. With --votes
it reads the votes that were exported from that page, prints win rates, writes votes.json and shows
them in the report.""",
    ),
}
EXAMPLES = {
    "run": (
        "pav run --config=mini --workdir=runs/mini",
        "pav run --config=mini --workdir=runs/two --config.evolve.rounds=2 --config.seed=1",
    ),
    "prefer": ("pav prefer --config=mini --workdir=runs/mini --round=1",),
    "dpo": ("pav dpo --config=mini --workdir=runs/mini --round=1",),
    "grpo": (
        "pav grpo --config=mini --workdir=runs/mini",
        (
            "pav grpo --config=mini --workdir=runs/g"
            " --config.grpo.start=runs/mini/round_2/booster --config.grpo.beta=0.04"
        ),
    ),
    "evaluate": ("pav evaluate --config=mini --workdir=runs/mini --no-controls",),
    "trust": (
        "pav trust --config=mini --workdir=runs/mini",
        "pav trust --config=mini --workdir=runs/t --config.trust.prompts=my.txt",
    ),
    "calibrate": ("pav calibrate --workdir=runs/mini",),
    "report": (
        "pav report --workdir=runs/mini",
        "pav report --workdir=runs/mini --votes-page --systems=base,dpo_2 --comparisons=20",
        "pav report --workdir=runs/mini --votes votes/*.jsonl",
    ),
}


def add(commands: Any) -> None:
    """Add one subcommand for each stage."""
    for name, (line, description) in STAGES.items():
        examples = EXAMPLES.get(name, (f"pav {name} --config=mini --workdir=runs/mini",))
        command = commands.add_parser(
            name,
            help=line,
            description=description,
            epilog="\n  ".join(["examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--config",
            help=(
                "a configuration file (Python, which is run), also gs://... or s3://..., or the"
                " name of a shipped one such as mini; optional once the work directory has one"
            ),
        )
        command.add_argument(
            "--workdir",
            help=(
                "the folder of all results, which stages read and write, also gs://... or s3://...;"
                " local copies of the latter are in $PAV_SCRATCH (default: the system's temporary"
                " folder), at most $PAV_SCRATCH_GB gigabytes (default: half of the free space), and"
                " are removed at the end"
            ),
        )
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
                help="also measure the controls; default: evaluate.controls",
            )
        if name == "report":
            vote_options.add(command)
        command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    """Run the stage `args.command` and print the path that it wrote."""
    from pav_jax import workdir_config
    from pav_jax.errors import BadInput
    from pav_jax.parallel import processes

    if not args.workdir:
        raise BadInput(
            f"--workdir is missing; name a folder, as in --workdir=runs/{args.command}",
            source="--workdir",
        )
    with processes.first_process_first("configuration"):
        config = workdir_config.config_for_workdir(args.config, args.overrides, args.workdir)
    options = {}
    method = args.command
    if args.command == "report":
        method, options = vote_options.read(args)
    if args.command in ("prefer", "dpo"):
        if not 1 <= args.round <= config.rounds:
            raise BadInput(
                f"--round={args.round}: this configuration has rounds 1 to {config.rounds}",
                source="--round",
            )
        options["round"] = args.round
    if args.command == "evaluate":
        options["controls"] = args.controls

    from pav_jax.recipe import Recipe

    show_log()
    stage = getattr(Recipe(config), method)
    with _bound(config, args):
        output = stage(args.workdir, **options)
    print(output)


@contextlib.contextmanager
def _bound(config: Any, args: argparse.Namespace) -> Iterator[None]:
    """Hold the work directory, with this configuration: while it was without results and not yet
    held, another command may have written a different one."""
    import jax

    from pav_jax.storage.lock import workdir_lock
    from pav_jax.workdir_config import bind_config_to_workdir

    if args.command in NOT_LOCKING or jax.process_index():
        yield
        return
    with workdir_lock(args.workdir):
        bind_config_to_workdir(config, args.workdir)
        yield


class _StandardError(logging.Handler):
    """Writes to the current standard error, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(redact(self.format(record)), file=sys.stderr)


def show_log() -> None:
    """Send the log of the stages to standard error.

    Libraries, and all processes but the first, log warnings only.
    """
    import jax

    log = logging.getLogger("pav_jax")
    log.setLevel(logging.WARNING if jax.process_index() else logging.INFO)
    if not any(isinstance(handler, _StandardError) for handler in log.handlers):
        log.addHandler(_StandardError())
        log.propagate = False  # a library adds a handler to the root logger, which would repeat it
