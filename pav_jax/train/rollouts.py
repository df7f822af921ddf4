"""What a step of GRPO learns from: completions of the policy as it is, a scored video of each, and
their advantages.

P prompts of a step, G completions of each, B = P * G rows; the rows of a prompt are neighbours. T
tokens of a row.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float
from ml_collections import ConfigDict
from rich.progress import Progress

from pav_jax.candidates.constraints import minimum_scores
from pav_jax.candidates.prompt_text import plain_text
from pav_jax.candidates.reward_hacking import ScoredCandidate, score_candidates
from pav_jax.candidates.reward_hacking_rounds import StepWindows
from pav_jax.candidates.scoring import overall_scores, stage_weights
from pav_jax.candidates.store import Draft, Pool
from pav_jax.errors import BadInput
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.parallel import processes
from pav_jax.records import Candidate, stable_seed
from pav_jax.storage.records import read_segments
from pav_jax.train import batches, stage
from pav_jax.train.loop import Batch, TrainState

log = logging.getLogger(__name__)

FAITH = "FAITH"
TINY = 1e-4  # TRL's, added to the deviation


def prompt_batches(prompts: int, size: int, seed: int) -> grain.DatasetIterator:
    """An endless iterator of {"step": int from 0, "prompts": int [size], places in the file}.

    Every epoch has its own order, drawn from (seed, epoch); a step that an epoch fills partly takes
    the next one's first.
    """
    order = grain.MapDataset.range(prompts).seed(seed).shuffle().repeat(1 << 31).batch(size)
    numbered = order.map_with_index(lambda step, places: {"step": step, "prompts": places})
    return iter(numbered.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


class Rollouts:
    """Makes a step's batch, as `fit` asks for it. What is drawn depends on (seed, step) and the
    policy alone.

    A completion becomes what a user would get: one line, and the prompt itself where nothing is
    said. Its video is made with a seed of the step and the prompt, so that a group differs by its
    words only, and the Candidate is written to `<folder>/candidates/<step>` as soon as it is
    scored: a step that is run again makes what is missing. Many processes sample as one, share the
      videos of a step by its prompts, and pass on their own rows of its batch.

    Args:
      lm: the model that training started from, without adapter.
      mesh: where the training's state lies.
      generator, suite: see `evolve.pool.Pool`.
      folder: the stage's; kept videos go to `videos` beside it.

    Raises:
      BadInput: the rewards are not those of the suite, the prompts are too few, or processes do not
        divide the batch.
    """

    def __init__(
        self,
        config: ConfigDict,
        fields: ConfigDict,
        lm: LanguageModel,
        mesh: Mesh,
        prompts: Sequence[str],
        generator: Any,
        suite: Any,
        folder: Path,
        progress: Progress | None = None,
    ):
        self.fields, self.prompts, self.suite = fields, prompts, suite
        self.generator, self.rows, self.folder, self.seed = (
            generator,
            config.generator.batch,
            folder,
            config.seed,
        )
        self.lm = dataclasses.replace(
            lm, mesh=mesh, batch_size=fields.batch_size
        )  # one program samples a whole step
        self.sampling = Sampling(
            fields.max_completion_length, fields.temperature, fields.top_k, fields.top_p
        )
        check_rewards(fields, suite)
        if (size := fields.batch_size // fields.num_generations) > len(prompts):
            raise BadInput(
                f"grpo: a step takes batch_size / num_generations = {size} prompts,"
                f" {fields.prompts} has {len(prompts)}; lower batch_size or give more prompts"
            )
        if fields.batch_size % jax.process_count():
            raise BadInput(
                f"grpo.batch_size={fields.batch_size}: {jax.process_count()} processes do not"
                " divide it"
            )
        context = lm.config.max_position_embeddings
        # as generate_ids cuts, so that a row is trained on exactly what was sampled from
        room = context - min(fields.max_completion_length, context // 2)
        encoder = stage.make_encoder(lm, context, min(fields.max_prompt_length, room))
        found = [encoder.prompt(p) for p in prompts]
        self.prompt_ids, self.cut_prompts = [ids for ids, _ in found], sum(cut for _, cut in found)
        longest = max(map(len, self.prompt_ids)) + fields.max_completion_length
        (self.length,) = batches.buckets((), longest, context)
        self.padding = encoder.padding
        self._windows = StepWindows(self._read_step)
        self._videos = stage.reporter("grpo, videos", fields.batch_size, progress)

    def __call__(
        self, state: TrainState, chosen: Mapping[str, Any]
    ) -> tuple[Batch, dict[str, float]]:
        """-> ({"ids": int32 [B, T], "answer": bool [B, T], "advantage": float32 [B], "tokens":
        int}, metrics).

        "answer" marks the completions' tokens, none where there is no reward: such a completion is
        no part of the loss, and its advantage is 0.
        """
        fields, number = self.fields, int(chosen["step"]) + 1  # as metrics.jsonl counts
        places = np.repeat(chosen["prompts"], fields.num_generations)
        answers = self._sample(state, number, chosen["prompts"])
        candidates, rate = self._score(number, [self.prompts[i] for i in places], answers)
        reward_PxG, below_B = rewards(candidates, self.suite, fields)
        advantage_PxG = advantages(reward_PxG, fields.scale_rewards)
        truncated_B = np.array([tokens[-1] not in self.lm.eos for tokens in answers])
        counts_B = np.isfinite(reward_PxG.ravel())
        kept_B = counts_B & ~truncated_B if fields.mask_truncated_completions else counts_B

        ids_BxT = np.full((len(places), self.length), self.padding, np.int32)
        answer_BxT = np.zeros(ids_BxT.shape, bool)
        for row, (place, tokens) in enumerate(zip(places, answers, strict=True)):
            start, end = len(self.prompt_ids[place]), len(self.prompt_ids[place]) + len(tokens)
            ids_BxT[row, :end] = self.prompt_ids[place] + tokens
            answer_BxT[row, start:end] = kept_B[row]
        total = sum(
            len(self.prompt_ids[i]) + len(tokens) for i, tokens in zip(places, answers, strict=True)
        )
        mine = np.arange(len(places)).reshape(jax.process_count(), -1)[jax.process_index()]
        batch = {
            "ids": ids_BxT[mine],
            "answer": answer_BxT[mine],
            "advantage": advantage_PxG.ravel().astype(np.float32)[mine],
        }
        metrics = describe(candidates, self.suite, fields, reward_PxG, advantage_PxG, below_B) | {
            "completions/mean_length": float(np.mean([len(tokens) for tokens in answers])),
            "completions/clipped_ratio": float(truncated_B.mean()),
            "videos_per_second": rate,
        }
        if jax.process_index() == 0:
            self._windows.ending_at(number).log_warnings(log)
        known = {name: value for name, value in metrics.items() if np.isfinite(value)}
        return batch | {"tokens": total // jax.process_count()}, known

    def _sample(self, state: TrainState, number: int, prompts: Sequence[int]) -> list[list[int]]:
        """Token ids of the step's completions, drawn from the policy in `state`."""
        if self.fields.full_finetuning:
            policy = dataclasses.replace(self.lm, params=state.trained["params"])
        else:
            policy = dataclasses.replace(self.lm, params=state.frozen["params"]).with_lora(
                state.trained["lora"], stage.lora_config(self.fields)
            )
        seeds = [stable_seed(self.seed, "grpo", number, place) for place in range(len(prompts))]
        answers = policy.generate_ids(
            [self.prompt_ids[i] for i in prompts], self.sampling, self.fields.num_generations, seeds
        )
        return [tokens for group in answers for tokens in group]

    def _score(
        self, number: int, prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> tuple[list[Candidate], float]:
        """Each row's candidate (equal rows share one), and the videos made per second, NaN where
        none was missing."""
        decode = self.lm.tokenizer.decode
        texts = [
            plain_text(decode(tokens, skip_special_tokens=True)) or prompt
            for prompt, tokens in zip(prompts, answers, strict=True)
        ]
        pool = Pool(
            self.generator,
            self.suite,
            step_folder(self.folder, number),
            self.folder.parent,
            seed=stable_seed(self.seed, "grpo", number),
            batch=self.rows,
            weights=self.fields.weights,
            keep_videos=self.fields.keep_videos,
        )
        every = [
            Draft(prompt, text, number, row, (), "grpo")
            for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]
        asked = set(processes.shard_for_process(list(dict.fromkeys(prompts))))
        drafts, done = [draft for draft in every if draft.prompt in asked], 0
        for settled in pool.score(drafts, number):
            done += settled
            self._videos(done, f"step {number}")
        pool.gather(f"step {number}")
        self._videos(len(every), f"step {number}")
        found = {(c.prompt, c.refined): c for c in pool.candidates}
        rate = pool.made / pool.seconds if pool.made else np.nan
        return [found[prompt, text] for prompt, text in zip(prompts, texts, strict=True)], rate

    def _read_step(self, number: int) -> list[ScoredCandidate]:
        """Candidates of a finished step with their overall scores."""
        candidates = read_segments(step_folder(self.folder, number), Candidate)
        return score_candidates(
            candidates, overall_scores(candidates, weights(self.fields, self.suite))
        )


def step_folder(folder: Path, number: int) -> Path:
    """Where the candidates of a step lie in the stage's folder."""
    return folder / "candidates" / f"{number:06d}"


# ------------------------------------------------------------------------------ rewards, advantages


def check_rewards(fields: ConfigDict, suite: Any) -> None:
    """Raises BadInput where the fields ask for scores that the suite does not give: before any
    video is made."""
    for field, named in (
        ("weights", fields.weights or {}),
        ("constraints", minimum_scores(fields.constraints, suite.constraints)),
    ):
        if unknown := sorted(set(named) - set(suite.names)):
            raise BadInput(
                f"grpo.{field}.{unknown[0]}: no entry gives this score; there are"
                f" {', '.join(suite.names)}"
            )
    if fields.faith_weight and FAITH not in suite.names:
        raise BadInput(
            f"grpo.faith_weight={fields.faith_weight}: no entry gives {FAITH}; add faithfulness to"
            " rewards.entries, or set it to 0"
        )


def rewards(
    candidates: Sequence[Candidate], suite: Any, fields: ConfigDict
) -> tuple[Float[np.ndarray, "P G"], Bool[np.ndarray, "B"]]:
    """(rewards, NaN for a candidate that lacks a score; which ones are below a floor).

    reward = overall + faith_weight * FAITH, where overall is the suite's weighted sum of scores
    against the user's prompt. A candidate below a floor gets the least reward of its group, minus
    constraint_penalty * (1 + how far it is below
    its floors): it is worse than whatever keeps them, however well it scores, and the further below
      the worse, so that
    a group in which nothing keeps them still learns which way is up.
    """
    value_B = overall_scores(candidates, weights(fields, suite))
    if fields.faith_weight:
        value_B = value_B + fields.faith_weight * np.array(
            [c.scores.get(FAITH, np.nan) for c in candidates]
        )
    value_PxG = np.where(np.isfinite(value_B), value_B, np.nan).reshape(-1, fields.num_generations)
    short_B = np.zeros(len(candidates))
    for name, floor in minimum_scores(fields.constraints, suite.constraints).items():
        short_B += np.maximum(
            floor - np.array([c.scores.get(name, np.nan) for c in candidates]), 0.0
        )
    short_PxG = short_B.reshape(value_PxG.shape)
    below_PxG = np.isfinite(value_PxG) & (short_PxG > 0)
    least_Px1 = np.where(np.isfinite(value_PxG), value_PxG, np.inf).min(axis=1, keepdims=True)
    return (
        np.where(below_PxG, least_Px1 - fields.constraint_penalty * (1 + short_PxG), value_PxG),
        below_PxG.ravel(),
    )


def advantages(reward_PxG: Float[np.ndarray, "P G"], scale: str) -> Float[np.ndarray, "P G"]:
    """Rewards minus their group's mean (Shao et al. 2024, section 4.1.2), 0 where there is no
    reward.

    Args:
      scale: what they are divided by: the deviation (n - 1, as TRL) of the "group" or of the whole
        "batch", plus 1e-4; or "none" (Liu et al. 2025: dividing favours prompts whose rewards
        hardly differ).
    """
    known = np.isfinite(reward_PxG)
    centred = np.where(known, reward_PxG - _mean(reward_PxG), 0.0)
    if scale == "none":
        return centred
    return centred / (
        (_deviation(reward_PxG) if scale == "group" else _deviation(reward_PxG.reshape(1, -1)))
        + TINY
    )


def describe(
    candidates: Sequence[Candidate],
    suite: Any,
    fields: ConfigDict,
    reward_PxG: Float[np.ndarray, "P G"],
    advantage_PxG: Float[np.ndarray, "P G"],
    below_B: Bool[np.ndarray, "B"],
) -> dict[str, float]:
    """A step's figures over the completions that have a reward, in TRL's names where it has them;
    NaN of none."""
    known_B = np.isfinite(reward_PxG).ravel()

    def mean(values) -> float:
        values = np.asarray(values, np.float64)[known_B]
        return float(values.mean()) if values.size else np.nan

    advantage_B = advantage_PxG.ravel()
    deviation_Px1 = _deviation(reward_PxG)
    return {
        "reward": mean(reward_PxG.ravel()),
        "reward_std": float(_deviation(reward_PxG.reshape(1, -1)).item()),
        "frac_reward_zero_std": float((deviation_Px1 < 1e-8).mean()),
        "overall": mean(overall_scores(candidates, weights(fields, suite))),
        **{
            f"rewards/{name}/mean": mean([c.scores.get(name, np.nan) for c in candidates])
            for name in suite.names
        },
        "advantages/abs_mean": mean(np.abs(advantage_B)),
        "advantages/max": float(np.abs(advantage_B).max()),
        "completions/infeasible": mean(below_B),
        "completions/without_reward": float(1 - known_B.mean()),
    }


def weights(fields: ConfigDict, suite: Any) -> dict[str, float]:
    """Return the weights of `overall`: the stage's own, else the suite's."""
    return stage_weights({"grpo": {"weights": fields.weights}}, "grpo", suite)


def _mean(values_PxG: Float[np.ndarray, "P G"]) -> Float[np.ndarray, "P 1"]:
    known = np.isfinite(values_PxG)
    return np.where(known, values_PxG, 0.0).sum(1, keepdims=True) / np.maximum(
        known.sum(1, keepdims=True), 1
    )


def _deviation(values_PxG: Float[np.ndarray, "P G"]) -> Float[np.ndarray, "P 1"]:
    """Of the finite values of each row; 0 where there are fewer than two."""
    known = np.isfinite(values_PxG)
    squares = np.where(known, (values_PxG - _mean(values_PxG)) ** 2, 0.0).sum(1, keepdims=True)
    return np.sqrt(squares / np.maximum(known.sum(1, keepdims=True) - 1, 1))
