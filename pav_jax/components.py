"""Load what a configuration names: generator, reward suite, proposers and rewriter."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import jax

from pav_jax.booster.guard import Guard
from pav_jax.candidates.prompt_sets import read_prompt_set
from pav_jax.defaults import GENERATION_FIELDS
from pav_jax.errors import BadInput
from pav_jax.evolve.mixture import Mixture
from pav_jax.evolve.registry import build_chat_proposers, build_mixture
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.parallel.collectives import connect_devices
from pav_jax.parallel.mesh import batch_shards, generator_meshes, make_mesh, sizes_of_process
from pav_jax.progress import Progress
from pav_jax.rewards.faithfulness import Faithfulness, faithfulness
from pav_jax.rewards.reward import as_reward
from pav_jax.rewards.suite import RewardSuite
from pav_jax.rewards.suite_config import CONSTRAINT_ONLY, config_reads_video
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.folders import is_whole
from pav_jax.video.backend import HTTP
from pav_jax.video.generator import Generator, as_generator
from pav_jax.video.loading import load_generator
from pav_jax.video.no_videos import NoVideos


class Components:
    """The models of a configuration, each loaded on first use and shared by all stages.

    With several processes each process loads its own copy on its own devices.

    Args:
      config: a whole configuration.
      generator, rewards, proposers: objects used instead of what the configuration names; see
        `recipe.Recipe`.
    """

    def __init__(
        self,
        config: Any,
        generator: Any = None,
        rewards: RewardSuite | Sequence[Any] | None = None,
        proposers: Sequence[Any] | None = None,
    ):
        self._suite = None if rewards is None else suite_of(rewards, config.rewards)
        self.config = config if self._suite is None else adapt_to_suite(config, self._suite)
        self._generator = None if generator is None else as_generator(generator)
        self._proposers = None
        if proposers is not None:
            self._proposers = Mixture.from_proposers(
                *proposers,
                max_attempts=config.evolve.max_proposal_attempts,
                max_words=config.evolve.max_words,
                guard=Guard.from_config(config),
            )

    @functools.cached_property
    def generator(self) -> Generator:
        """The video generator; it makes no videos if no reward reads them."""
        if self._generator is not None:
            return self._generator
        return load_configured_generator(self.config.generator) if self.makes_videos else NoVideos()

    @functools.cached_property
    def makes_videos(self) -> bool:
        """Whether stages make videos: a reward reads them, or a generator was passed."""
        if self._generator is not None:
            return True
        if self._suite is not None:
            return self._suite.reads_video
        return config_reads_video(self.config.rewards)

    @functools.cached_property
    def suite(self) -> RewardSuite:
        """The reward suite, checked against the number of frames of the videos."""
        suite = self._suite or RewardSuite.from_config(self.config.rewards)
        frames = self.config.generator.num_frames
        if frames is not None:
            suite.check_frames(frames)  # before a video is made in vain
        return suite

    @functools.cached_property
    def rewriter(self) -> LanguageModel:
        """The untuned rewriter."""
        return load_rewriter(self.config, per_process=True)

    @functools.cached_property
    def proposers(self) -> Mixture:
        """Who proposes rewrites during evolution."""
        if self._proposers is not None:
            return self._proposers
        return build_mixture(self.config, lambda: self.rewriter, faithfulness)

    @functools.cached_property
    def chat_proposers(self) -> dict[str, Any]:
        """The chat models that `evaluate.systems` names."""
        return build_chat_proposers(self.config, self.config.evaluate.systems)


def load_configured_generator(section: Any) -> Generator:
    """The generator of a configuration's `generator` section, on this host's devices."""
    settings = {name: section[name] for name in GENERATION_FIELDS if section[name] is not None}
    settings["batch_size"] = section.batch_size
    if section.scheduler:
        settings["scheduler"] = section.scheduler
    if section.flow_shift is not None:
        settings["flow_shift"] = section.flow_shift
    if section.swap_experts:
        settings["swap_experts"] = True
    if section.options:
        settings["options"] = section.options.to_dict()
    if section.path.startswith(HTTP):
        settings["endpoint"] = section.endpoint.to_dict()
    mesh, auxiliary_mesh = generator_meshes(
        section.batch_size, section.mesh, section.encoder_vae_devices
    )
    return load_generator(
        section.path,
        dtype=section.dtype,
        mesh=mesh,
        auxiliary_mesh=auxiliary_mesh,
        sequence_attention=section.sequence_attention,
        **settings,
    )


def suite_of(rewards: RewardSuite | Sequence[Any], section: Any) -> RewardSuite:
    """A suite of Python objects with the weights and bounds of the `rewards` section.

    FAITH is added where the section constrains it and no reward gives it. A score without a
    configured weight has the weight 1.
    """
    if isinstance(rewards, RewardSuite):
        return rewards
    adapted = [as_reward(reward) for reward in rewards]
    names = [name for reward in adapted for name in reward.names]
    if "FAITH" in section.constraints and "FAITH" not in names:
        adapted.append(Faithfulness())
        names.append("FAITH")
    weights = {
        name: section.weights.get(name, 1.0) for name in names if name not in CONSTRAINT_ONLY
    }

    def bounds(field: str) -> dict[str, float]:
        return {name: value for name, value in section[field].items() if name in names}

    return RewardSuite(
        adapted, weights, thresholds=bounds("thresholds"), constraints=bounds("constraints")
    )


def adapt_to_suite(config: Any, suite: RewardSuite) -> Any:
    """A copy of the configuration whose stages use the weights and bounds of a Python suite.

    Weights, thresholds and constraints of a stage that name other scores belong to other rewards.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for stage in ("evolve", "select", "prefer", "grpo"):
            for field in ("weights", "thresholds", "constraints"):
                values = config[stage].get(field)
                if values and not set(values) <= set(suite.names):
                    config[stage][field] = None
        for field in ("weights", "thresholds", "constraints"):
            config.rewards[field] = dict(getattr(suite, field))
    return config


def load_rewriter(
    config: Any, folder: str | os.PathLike | None = None, per_process: bool = False
) -> LanguageModel:
    """The language model in `folder`, or the untuned rewriter, on the mesh of the configuration.

    A booster trained from it records `config.rewriter`'s sampling in its generation_config.json.

    Args:
      folder: a booster; None: `config.rewriter.path`.
      per_process: with several processes, give each its own copy on its own devices, sharded over
        them where `config.mesh` shards parameters at all.

    Raises:
      BadInput: with several processes the mesh leaves out some devices.
    """
    rewriter = config.rewriter
    mesh = _process_mesh(config.mesh) if _many_processes(per_process) else _global_mesh(config.mesh)
    shards = batch_shards(mesh) if mesh is not None else 1
    model = LanguageModel.from_pretrained(
        str(folder or rewriter.path),
        dtype=rewriter.dtype,
        mesh=mesh,
        batch_size=-(-rewriter.batch_size // shards) * shards,
        attention=rewriter.attention,
    )
    sampling = dataclasses.asdict(rewriter_sampling(config))
    sampling["do_sample"] = rewriter.temperature > 0
    model = dataclasses.replace(model, generation=model.generation | sampling)
    return model if folder else model.with_instruction(rewriter.template)


def _many_processes(per_process: bool) -> bool:
    return per_process and jax.process_count() > 1


def _process_mesh(sizes: Any) -> Any:
    devices = jax.local_devices()
    return make_mesh(**sizes_of_process(sizes, jax.device_count(), len(devices)), devices=devices)


def _global_mesh(sizes: Any) -> Any:
    many = jax.process_count() > 1
    if not many and all(size == 1 for size in sizes.values()):
        return None
    mesh = make_mesh(**sizes)
    if many and mesh.size < jax.device_count():
        raise BadInput(
            f"config.mesh takes {mesh.size} of the {jax.device_count()} devices of"
            f" {jax.process_count()} processes; it must take all, as with --config.mesh.fsdp=-1",
            source="configuration",
            field="mesh",
        )
    connect_devices(mesh)
    return mesh


def rewriter_sampling(config: Any) -> Sampling:
    """How the untuned rewriter and its boosters are sampled in evaluation."""
    rewriter = config.rewriter
    return Sampling(
        temperature=rewriter.temperature,
        top_k=rewriter.top_k,
        top_p=rewriter.top_p,
        max_new_tokens=rewriter.max_new_tokens,
    )


def starting_booster(workdir: str | os.PathLike, round: int) -> AnyPath:
    """The booster that round N of preference training starts from.

    Raises:
      BadInput: it does not exist yet.
    """
    if round == 1:
        return require_output(workdir, "sft/booster", "sft")
    return require_output(workdir, f"round_{round - 1}/booster", f"dpo --round={round - 1}")


def resolve_booster(name: str, workdir: str | os.PathLike) -> str | AnyPath | None:
    """The folder of "sft", "dpo_1", ...; None for "base"; any other name is a path or Hub id."""
    stem, _, number = name.rpartition("_")
    if name == "sft":
        return starting_booster(workdir, 1)
    if stem == "dpo" and number.isdigit():
        return starting_booster(workdir, int(number) + 1)
    return None if name == "base" else name


def read_prompts(path: str, field: str | None = None) -> list[str]:
    """The prompts of a file, one a line; `field` of the configuration names it."""
    return list(read_prompt_set(path, field).without_images(field or path))


def round_prompts(
    prompts: Sequence[str], max_prompts: int | None, round: int, rounds: int
) -> list[str]:
    """New prompts of one round: its even share, at most `max_prompts` of them.

    Raises:
      BadInput: there are fewer prompts than rounds.
    """
    share = len(prompts) // rounds
    if not share:
        raise BadInput(
            f"prefer.prompts: {rounds} rounds need {rounds} prompts or more, and there are"
            f" {len(prompts)}; add some, or lower --config.rounds",
            source="configuration",
            field="prefer.prompts",
        )
    size = share if max_prompts is None else min(max_prompts, share)
    return list(prompts[(round - 1) * size : round * size])


def require_output(workdir: str | os.PathLike, name: str, command: str) -> AnyPath:
    """The path of an earlier stage's output.

    Raises:
      BadInput: it does not exist; names the command that writes it.
    """
    path = as_path(workdir) / name
    if not (is_whole(path) if path.name == "booster" else path.exists()):
        raise BadInput(f"{path}: not there yet; run `pav {command}` first", source=path)
    return path


def stage_progress(workdir: str | os.PathLike, monitor: Any = None) -> Progress:
    """The progress display of a stage, in the first process; scalars go to `logs/`."""
    return Progress(
        is_shown=jax.process_index() == 0, logs=f"{os.fspath(workdir)}/logs", monitor=monitor
    )
