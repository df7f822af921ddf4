"""The method, top to bottom: evolve, select, SFT, then prefer and DPO twice, evaluate, report.

Every stage reads and writes the work directory and skips what is finished, so that a run can be
stopped at any moment and continued by the same call. Source: Prompt-A-Video (arXiv 2412.15156),
sections 3 and 4.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import jax

from pav_jax import config as configuration
from pav_jax import workdir_config
from pav_jax.booster.booster import Booster
from pav_jax.booster.guard import Guard
from pav_jax.budget import Budget
from pav_jax.candidates.prompt_sets import read_prompt_set, read_sets
from pav_jax.candidates.reward_hacking_rounds import read_pair_statistics
from pav_jax.candidates.run_monitor import RunMonitor
from pav_jax.components import (
    Components,
    load_rewriter,
    read_prompts,
    require_output,
    resolve_booster,
    rewriter_sampling,
    round_prompts,
    stage_progress,
    starting_booster,
)
from pav_jax.errors import BadInput
from pav_jax.evaluate.benchmark import evaluate as run_evaluation
from pav_jax.evaluate.systems import check_systems, resolve_systems
from pav_jax.evolve.evolve import evolve as run_evolution
from pav_jax.evolve.select import select as run_selection
from pav_jax.parallel import processes
from pav_jax.plan import StagePlan, plan_line, plan_run
from pav_jax.prefer.pairs import make_pairs
from pav_jax.prefer.sampling import make_candidates
from pav_jax.progress import Progress
from pav_jax.records import Candidate
from pav_jax.report import write_report, write_votes, write_votes_page
from pav_jax.report.vote_table import print_votes
from pav_jax.report.votes_page import NUM_COMPARISONS
from pav_jax.rewards.suite import RewardSuite
from pav_jax.run_inputs import check_run_inputs
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.lock import workdir_lock
from pav_jax.storage.records import read_segments, write_jsonl
from pav_jax.train import dpo_trainer, grpo_trainer, sft_trainer
from pav_jax.train.import_pairs import import_pairs
from pav_jax.trust import calibrate as calibration
from pav_jax.trust import trust as reward_trust
from pav_jax.trust.table import print_table

log = logging.getLogger(__name__)
Stage = TypeVar("Stage", bound=Callable[..., AnyPath])


def _holding_lock(stage: Stage) -> Stage:
    """A stage that holds the lock of its work directory; process 0 holds it for all processes."""

    @functools.wraps(stage)
    def locked(self: "Recipe", workdir: str | os.PathLike, *args: Any, **options: Any) -> AnyPath:
        if jax.process_index():
            return stage(self, workdir, *args, **options)
        with workdir_lock(workdir):
            return stage(self, workdir, *args, **options)

    return cast(Stage, locked)


class Recipe:
    """The stages of one configuration on one set of models.

    Args:
      config: a ConfigDict, a file or the name of a shipped configuration; None: the defaults.
      generator: a `pav.Generator`, or a function (prompts, seeds) -> videos uint8 [B, T, H, W, 3],
        used instead of `config.generator`.
      rewards: a `pav.RewardSuite`, or a list of `pav.Reward` and functions (videos, prompts) ->
        scores [B], used instead of `config.rewards.entries`. Weights, thresholds and constraints of
        the configuration apply to scores of that name; other scores have the weight 1.
      proposers: `pav.Proposer`s used instead of `config.proposers`, in equal shares.

    Raises:
      BadInput: the configuration, or an object that is passed, cannot be used.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        generator: Any = None,
        rewards: RewardSuite | Sequence[Any] | None = None,
        proposers: Sequence[Any] | None = None,
    ):
        if config is None or isinstance(config, str | os.PathLike):
            config = configuration.load(config)
        self.components = Components(config, generator, rewards, proposers)
        self.config = self.components.config
        self._monitor: RunMonitor | None = None  # of all stages of `run`

    @_holding_lock
    def run(self, workdir: str | os.PathLike) -> AnyPath:
        """Run all stages in order.

        Returns:
          The path of the report.
        """
        with processes.first_process_first("configuration"):
            workdir_config.bind_config_to_workdir(self.config, workdir)
        check_run_inputs(self.config, self.components, workdir)
        plans = plan_run(self.config, self.components.makes_videos)
        log.info("%s", plan_line(plans))
        self._monitor = self._make_monitor(workdir, plans)
        try:
            return self._run_stages(workdir)
        finally:
            self._monitor = None

    def _run_stages(self, workdir: str | os.PathLike) -> AnyPath:
        self.evolve(workdir)
        self.select(workdir)
        self.sft(workdir)
        for round in range(1, self.config.rounds + 1):
            self.prefer(workdir, round)
            self.dpo(workdir, round)
        self.evaluate(workdir)
        return self.report(workdir)

    # ---------------------------------------------------------------------- stages of `run`

    @_holding_lock
    def evolve(self, workdir: str | os.PathLike) -> AnyPath:
        """Training prompts -> pool/: rewrites found by the scores of their videos."""
        config = self.config
        models = self.components
        prompts = read_prompt_set(config.evolve.prompts, "evolve.prompts")
        prompts.check_images(models.generator)
        with self._stage("evolve", workdir) as progress:
            run_evolution(
                config,
                prompts.prompts,
                models.proposers,
                models.generator,
                models.suite,
                workdir,
                progress,
                prompts.image_by_prompt,
            )
        return as_path(workdir) / "pool"

    @_holding_lock
    def select(self, workdir: str | os.PathLike) -> AnyPath:
        """pool/ -> sft_pairs.jsonl: the best feasible rewrite of each prompt."""
        pool = _read_pool(workdir)
        suite = self.components.suite
        with stage_progress(workdir) as progress, progress.single_task("select"):
            processes.run_on_first_process(
                "select", lambda: run_selection(self.config, pool, suite, workdir)
            )
        return as_path(workdir) / "sft_pairs.jsonl"

    @_holding_lock
    def sft(self, workdir: str | os.PathLike) -> AnyPath:
        """sft_pairs.jsonl, or the file `config.sft.pairs`, -> sft/booster."""
        folder = as_path(workdir) / "sft"
        if self.config.sft.pairs:
            with processes.first_process_first("pairs"):
                pairs = import_pairs(self.config.sft.pairs, folder / "pairs.jsonl")
        else:
            pairs = require_output(workdir, "sft_pairs.jsonl", "select")
        with self._stage("sft", workdir) as progress:
            return sft_trainer.run(self.config, load_rewriter(self.config), pairs, folder, progress)

    @_holding_lock
    def prefer(self, workdir: str | os.PathLike, round: int = 1) -> AnyPath:
        """The latest booster and new prompts -> round_N/candidates/ and preferences.jsonl."""
        config = self.config
        models = self.components
        folder = as_path(workdir) / f"round_{round}"
        prompt_set = read_prompt_set(config.prefer.prompts, "prefer.prompts")
        prompts = round_prompts(prompt_set.prompts, config.prefer.max_prompts, round, config.rounds)
        booster = load_rewriter(config, starting_booster(workdir, round), per_process=True)
        prompt_set.check_images(models.generator)
        with self._stage("prefer", workdir) as progress:
            candidates = make_candidates(
                config,
                prompts,
                booster,
                models.generator,
                models.suite,
                workdir,
                round,
                progress,
                prompt_set.image_by_prompt,
            )
        pairs = make_pairs(candidates, models.suite, config)
        output = folder / "preferences.jsonl"
        processes.run_on_first_process(f"preferences {round}", lambda: write_jsonl(output, pairs))
        return output

    @_holding_lock
    def dpo(self, workdir: str | os.PathLike, round: int = 1) -> AnyPath:
        """round_N/preferences.jsonl -> round_N/booster."""
        preferences = require_output(
            workdir, f"round_{round}/preferences.jsonl", f"prefer --round={round}"
        )
        start = load_rewriter(self.config, starting_booster(workdir, round))
        statistics = read_pair_statistics(workdir, self.config, round)
        if statistics is not None:
            statistics.log_warnings(log)
        folder = as_path(workdir) / f"round_{round}"
        with self._stage("dpo", workdir) as progress:
            return dpo_trainer.run(self.config, start, preferences, folder, progress)

    @_holding_lock
    def evaluate(self, workdir: str | os.PathLike, controls: bool | None = None) -> AnyPath:
        """Every system on the evaluation prompts -> evaluation.json.

        Args:
          controls: also measure the controls; None: as `config.evaluate.controls`.
        """
        config = self.config
        models = self.components
        options = self.config.evaluate
        base = Booster(models.rewriter, rewriter_sampling(config), Guard.from_config(config))
        systems = resolve_systems(
            options.systems, dict(options.rewrite_files), base, workdir, models.chat_proposers
        )
        check_systems(systems)
        sets = read_sets(options.prompts, options.max_prompts)
        training = read_prompt_set(config.evolve.prompts, "evolve.prompts")
        for prompt_set in (*sets.values(), training):
            prompt_set.check_images(models.generator)
        with self._stage("evaluate", workdir) as progress:
            run_evaluation(
                config,
                systems,
                sets,
                models.generator,
                models.suite,
                workdir,
                options.controls if controls is None else controls,
                training,
                progress,
            )
        return as_path(workdir) / "evaluation.json"

    def report(
        self, workdir: str | os.PathLike, votes: Sequence[str | os.PathLike] = ()
    ) -> AnyPath:
        """Whatever the work directory holds -> report/index.html.

        Args:
          votes: files that voters exported from the page of `votes_page` -> votes.json, a table.
        """
        options = self.config.report
        if votes:
            processes.run_on_first_process(
                "votes", lambda: print_votes(write_votes(workdir, votes))
            )
        with stage_progress(workdir) as progress, progress.single_task("report"):
            processes.run_on_first_process(
                "report",
                lambda: write_report(
                    workdir,
                    title=options.title,
                    num_examples=options.num_examples,
                    num_worst=options.num_worst,
                ),
            )
        return as_path(workdir) / "report" / "index.html"

    def votes_page(
        self,
        workdir: str | os.PathLike,
        systems: Sequence[str] = (),
        num_comparisons: int = NUM_COMPARISONS,
    ) -> AnyPath:
        """Videos of the evaluation -> report/votes.html, a page for blind human votes on them.

        Args:
          systems: to compare with each other; empty: original and the last booster.
          num_comparisons: at most.
        """
        processes.run_on_first_process(
            "votes page", lambda: write_votes_page(workdir, systems, num_comparisons)
        )
        return as_path(workdir) / "report" / "votes.html"

    def _make_monitor(
        self, workdir: str | os.PathLike, plans: Sequence[StagePlan] = ()
    ) -> RunMonitor:
        section = self.config.budget
        budget = Budget(section, workdir, jax.process_index() == 0)
        return RunMonitor(section, budget, {p.name: p.videos for p in plans if p.videos})

    @contextlib.contextmanager
    def _stage(self, name: str, workdir: str | os.PathLike) -> Iterator[Progress]:
        """The progress display of a stage, whose time and videos are counted."""
        monitor = self._monitor or self._make_monitor(workdir)
        monitor.budget.enter(name)
        try:
            with stage_progress(workdir, monitor) as progress:
                yield progress
        finally:
            monitor.budget.leave()

    # ------------------------------------------------------------------ stages outside `run`

    @_holding_lock
    def grpo(self, workdir: str | os.PathLike) -> AnyPath:
        """A booster and prompts -> grpo/booster, trained by the scores of its own rewrites."""
        config = self.config
        models = self.components
        start = load_rewriter(config, resolve_booster(config.grpo.start, workdir))
        folder = as_path(workdir) / "grpo"
        with self._stage("grpo", workdir) as progress:
            return grpo_trainer.run(
                config, start, config.grpo.prompts, models.generator, models.suite, folder, progress
            )

    @_holding_lock
    def trust(self, workdir: str | os.PathLike) -> AnyPath:
        """Prompts -> trust.json: how far each reward can be trusted."""
        models = self.components
        section = "trust" if self.config.trust.prompts else "evolve"
        prompts = read_prompts(self.config[section].prompts, f"{section}.prompts")
        log.info("%s", reward_trust.plan_line(self.config.trust, len(prompts)))
        if not models.makes_videos:
            raise BadInput(
                "rewards.entries: trust tests rewards on videos, and all of these read texts only;"
                " add one that reads videos",
                source="configuration",
                field="rewards.entries",
            )
        with self._stage("trust", workdir) as progress:
            result = reward_trust.trust(
                self.config, prompts, models.generator, models.suite, workdir, progress
            )
        processes.run_on_first_process("table", lambda: print_table(result))
        return as_path(workdir) / reward_trust.FILE

    def calibrate(self, workdir: str | os.PathLike) -> AnyPath:
        """pool/ -> calibration.json: thresholds and weights that fit its scores."""
        result = calibration.calibrate(self.config, _read_pool(workdir), workdir)
        lines = "\n".join(calibration.command_options(result))
        processes.run_on_first_process("overrides", lambda: print(lines))
        return as_path(workdir) / calibration.FILE


def _read_pool(workdir: str | os.PathLike) -> list[Candidate]:
    folder = as_path(workdir) / "pool"
    pool = read_segments(folder, Candidate)
    if not pool:
        raise BadInput(f"{folder}: no candidates yet; run `pav evolve` first", source=folder)
    return pool
