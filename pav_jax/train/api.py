"""Training from Python: `pav_jax.train.sft`, `dpo` and `grpo`."""

import dataclasses
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import jax
from rich.progress import Progress

from pav_jax.candidates.prompt_sets import read_prompt_set
from pav_jax.candidates.prompt_text import usable_prompts
from pav_jax.checkpoints.hub import local_file
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.parallel.processes import first_process_first
from pav_jax.rewards.reward import Reward, as_reward
from pav_jax.rewards.suite import RewardSuite
from pav_jax.rewards.suite_config import CONSTRAINT_ONLY
from pav_jax.storage.addresses import AnyPath, as_path
from pav_jax.storage.files import write_atomic
from pav_jax.train import dpo_trainer, grpo_trainer, run, sft_trainer
from pav_jax.train.config import DPOConfig, GRPOConfig, SFTConfig, check_training
from pav_jax.train.datasets import Dataset, prompt_texts, write_pairs, write_preferences
from pav_jax.train.group_rewards import FAITH
from pav_jax.train.text_rewards import TextReward, TextRewardFunction
from pav_jax.video.generator import as_generator

log = logging.getLogger(__name__)


def sft(
    lm: LanguageModel,
    dataset: Dataset,
    config: SFTConfig | None = None,
    output_dir: str | os.PathLike | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LanguageModel:
    """Fine-tune a model on pairs of prompt and completion.

    Example:

        lm = pav.LanguageModel.from_pretrained("mini:rewriter", dtype="float32")
        pairs = [{"prompt": "a red star", "completion": "A bright red star, sharp focus."}]
        tuned = pav.train.sft(lm, pairs, pav.train.SFTConfig(max_steps=20))

    Args:
      lm: the model to start from; it is not changed. An adapter is merged first.
      dataset: a .jsonl or .json file, a list of `PromptPair`s or dicts, or a `datasets.Dataset`,
        with `prompt` and `completion` (or `refined`); see `datasets.write_pairs`.
      config: None: the defaults of `SFTConfig`.
      output_dir: receives checkpoints, metrics.jsonl, `adapter` (PEFT) and `booster` (a Hugging
        Face folder). A stopped run continues from it. None: a new temporary folder.
      seed: of data order, adapter initialization and dropout.
      progress: display for a progress bar.

    Returns:
      The tuned model. Its adapter is merged into the parameters.

    Raises:
      BadInput: the dataset, the configuration or the folder cannot be used.
    """
    config = config or SFTConfig()
    check_training(config, "sft")
    folder = _output_folder(output_dir, "sft")
    path = write_pairs(dataset, folder / "pairs.jsonl")
    booster = run.run(sft_trainer.OBJECTIVE, config, seed, lm, path, folder, progress)
    return _load_tuned(lm, booster)


def dpo(
    lm: LanguageModel,
    dataset: Dataset,
    config: DPOConfig | None = None,
    output_dir: str | os.PathLike | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LanguageModel:
    """Tune a model on preferences; the reference is the model itself.

    Args:
      dataset: a .jsonl file of `Preference`s, a list of `Preference`s or dicts, or a
        `datasets.Dataset`, with `prompt`, `chosen` and `rejected`.
      lm, config, output_dir, seed, progress: as for `sft`.

    Returns:
      The tuned model. Its adapter is merged into the parameters.

    Raises:
      BadInput: the dataset, the configuration or the folder cannot be used.
    """
    config = config or DPOConfig()
    check_training(config, "dpo")
    dpo_trainer.loss_config(config)
    folder = _output_folder(output_dir, "dpo")
    path = write_preferences(dataset, folder / "preferences.jsonl")
    booster = run.run(dpo_trainer.OBJECTIVE, config, seed, lm, path, folder, progress)
    return _load_tuned(lm, booster)


def grpo(
    lm: LanguageModel,
    prompts: str | os.PathLike | Iterable[Any],
    config: GRPOConfig | None = None,
    *,
    reward: RewardSuite | Callable | Sequence[Callable],
    generator: Any = None,
    output_dir: str | os.PathLike | None = None,
    seed: int = 0,
    video_batch_size: int = 16,
    progress: Progress | None = None,
) -> LanguageModel:
    """Tune a model by the rewards of its own completions.

    Example, with a reward that reads texts only:

        def brevity(prompts, completions):
            return [-len(text.split()) for text in completions]

        tuned = pav.train.grpo(lm, ["a red star", "two dogs"], reward=brevity)

    Args:
      prompts: texts, dicts with `prompt`, or a .txt or .jsonl file.
      reward: a `RewardSuite`; or one or several rewards or functions, which are added up. Without
        a generator, functions (prompts, completions) -> scores, and rewards that read texts only
        (`Reward.reads_video` is False); with one, functions (videos, prompts) -> scores.
      generator: makes a video from each completion: a `Generator`, or a function (prompts, seeds)
        -> videos. None: no videos are made.
      video_batch_size: videos per batch of the generator.
      lm, config, output_dir, seed, progress: as for `sft`. `start` and `prompts` of the
        configuration are not used, nor is `faith_weight` if no reward gives FAITH.

    Returns:
      The tuned model. Its adapter is merged into the parameters.

    Raises:
      BadInput: the prompts, the reward, the configuration or the folder cannot be used.
    """
    config = config or GRPOConfig()
    check_training(config, "grpo")
    suite = _reward_suite(reward, as_reward if generator is not None else _as_text_reward)
    if FAITH not in suite.names:
        config = dataclasses.replace(config, faith_weight=0.0)
    folder = _output_folder(output_dir, "grpo")
    texts, path = _write_prompts(prompts, folder)
    booster = grpo_trainer.train_on_prompts(
        config,
        seed,
        lm,
        usable_prompts(texts, config.max_prompts),
        path,
        None if generator is None else as_generator(generator),
        suite,
        folder,
        video_batch_size,
        progress,
    )
    return _load_tuned(lm, booster)


def _as_text_reward(reward: Any) -> Reward:
    if isinstance(reward, Reward) or not callable(reward):
        return as_reward(reward)
    return TextReward(cast(TextRewardFunction, reward))


def _reward_suite(reward: Any, adapt: Callable[[Any], Reward]) -> RewardSuite:
    if isinstance(reward, RewardSuite):
        return reward
    rewards = [adapt(item) for item in (reward if isinstance(reward, list | tuple) else [reward])]
    names = [name for item in rewards for name in item.names if name not in CONSTRAINT_ONLY]
    return RewardSuite(rewards, weights=dict.fromkeys(names, 1.0))


def _write_prompts(prompts: Any, folder: AnyPath) -> tuple[list[str], str]:
    """The prompts, and the file that holds them."""
    if isinstance(prompts, str | os.PathLike):
        path = local_file(prompts)
        return list(read_prompt_set(path).without_images("grpo")), path
    texts = prompt_texts(prompts)
    path = folder / "prompts.txt"
    with first_process_first("prompts"):
        write_atomic(path, "\n".join(" ".join(text.split()) for text in texts).encode())
    return texts, str(path)


def _output_folder(output_dir: str | os.PathLike | None, name: str) -> AnyPath:
    if output_dir is not None:
        return as_path(output_dir)
    if jax.process_count() > 1:
        raise BadInput(
            "output_dir: several processes need a folder that all of them see; pass one",
            source="output_dir",
        )
    # inside a folder of its own: kept videos go beside the stage's folder
    folder = Path(tempfile.mkdtemp(prefix="pav-")) / name
    log.info("training files are in %s", folder)
    return folder


def _load_tuned(lm: LanguageModel, booster: AnyPath) -> LanguageModel:
    dtype = jax.numpy.dtype(lm.model.dtype).name
    tuned = LanguageModel.from_pretrained(
        booster, dtype=dtype, mesh=lm.mesh, batch_size=lm.batch_size
    )
    # keeps the attention function, the tokenizer and the generation settings of `lm`
    return dataclasses.replace(
        lm.with_params(tuned.params), name=tuned.name, path=str(booster.absolute())
    )
