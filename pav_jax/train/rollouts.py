"""What a step of GRPO learns from: completions of the current policy, their videos and scores.

P prompts of a step, G completions of each, B = P * G rows; the rows of a prompt are neighbours. T
tokens of a row.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import Progress

from pav_jax.candidates.candidate_store import PendingCandidate
from pav_jax.candidates.pool import CandidatePool
from pav_jax.candidates.prompt_text import plain_text
from pav_jax.candidates.reward_hacking import ScoredCandidate, score_candidates
from pav_jax.candidates.reward_hacking_rounds import StepWindows
from pav_jax.candidates.scoring import overall_scores
from pav_jax.candidates.video_progress import VideoProgress
from pav_jax.errors import BadInput
from pav_jax.language.chat import decode_answers
from pav_jax.language.encoder import make_encoder
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from pav_jax.language.thoughts import without_thoughts
from pav_jax.parallel import processes
from pav_jax.records import Candidate, stable_seed
from pav_jax.storage.addresses import AnyPath
from pav_jax.storage.records import read_segments
from pav_jax.train import batches
from pav_jax.train.config import GRPOConfig
from pav_jax.train.group_rewards import (
    advantages,
    check_rewards,
    reward_metrics,
    rewards,
    weights,
)
from pav_jax.train.state import TrainState, lora_config
from pav_jax.train.step_report import StepReport
from pav_jax.video.no_videos import NoVideos

log = logging.getLogger(__name__)


def prompt_batches(num_prompts: int, size: int, seed: int) -> grain.DatasetIterator:
    """An endless iterator of {"step": int from 0, "prompts": int [size], indices of prompts}.

    Every epoch has its own order, drawn from (seed, epoch). A step that the rest of an epoch does
    not fill takes its other prompts from the next epoch.
    """
    order = grain.MapDataset.range(num_prompts).seed(seed).shuffle().repeat(1 << 31).batch(size)
    numbered = order.map_with_index(lambda step, indices: {"step": step, "prompts": indices})
    return iter(numbered.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


class Rollouts:
    """Makes each step's batch for `fit`.

    What is sampled depends on (seed, step) and the policy only.

    A completion is cleaned as for users: put on one line, or replaced by the prompt if empty.
    The seed of its video depends on the step and the prompt, so that a group differs only in its
    words. Candidates are written to `<folder>/candidates/<step>` as soon as they are scored: a step
    that is run again makes only what is missing. With several processes, all of them sample the
    same completions, share a step's videos by prompt, and return their own rows of the batch.

    Args:
      lm: the model that training started from, without adapter.
      mesh: of the training state.
      prompts: the training prompts.
      generator, suite: make and score the videos.
      video_batch_size: videos per compiled batch of the generator.
      folder: of the stage; kept videos go to `videos` beside it.

    Raises:
      BadInput: the suite lacks a score, there are too few prompts, or the number of processes does
        not divide the batch.
    """

    def __init__(
        self,
        fields: GRPOConfig,
        lm: LanguageModel,
        mesh: Mesh,
        prompts: Sequence[str],
        generator: Any,
        suite: Any,
        folder: AnyPath,
        seed: int,
        video_batch_size: int,
        progress: Progress | None = None,
    ):
        self.fields = fields
        self.prompts = prompts
        self.suite = suite
        self.generator = generator
        self.makes_videos = not isinstance(generator, NoVideos)
        self.video_batch_size = video_batch_size
        self.folder = folder
        self.seed = seed
        # one program samples a whole step
        self.lm = dataclasses.replace(lm, mesh=mesh, batch_size=fields.batch_size)
        self.sampling = Sampling(
            fields.max_completion_length, fields.temperature, fields.top_k, fields.top_p
        )
        check_rewards(fields, suite)
        check_batch_size(fields, len(prompts))
        context = lm.config.max_position_embeddings
        # cut as generate_ids cuts, so that training rows are exactly what was sampled from
        max_prompt_length = context - min(fields.max_completion_length, context // 2)
        encoder = make_encoder(lm, context, min(fields.max_prompt_length, max_prompt_length))
        encoded = [encoder.encode_prompt(prompt) for prompt in prompts]
        self.prompt_ids = [ids for ids, _ in encoded]
        self.num_truncated_prompts = sum(truncated for _, truncated in encoded)
        longest = max(map(len, self.prompt_ids)) + fields.max_completion_length
        (self.row_length,) = batches.padded_lengths((), longest, context)
        self.padding = encoder.padding
        self._monitor = getattr(progress, "monitor", None)
        self._windows = StepWindows(self._read_step)
        unit = "videos" if self.makes_videos else "rewrites"
        self._report_videos = StepReport(
            f"grpo, {unit}", fields.batch_size, progress, folder, unit=unit, is_detail=True
        )

    def __call__(
        self, state: TrainState, prompt_batch: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Sample and score a step's completions.

        Returns:
          ({"ids": int32 [B, T], "answer": bool [B, T], "advantage": float32 [B], "tokens": int},
          metrics). "answer" marks the completions' tokens, except where there is no reward: such a
          completion is excluded from the loss, and its advantage is 0.
        """
        fields = self.fields
        step = int(prompt_batch["step"]) + 1  # metrics.jsonl counts from 1
        indices_B = np.repeat(prompt_batch["prompts"], fields.num_generations)
        completions = self._sample(state, step, prompt_batch["prompts"])
        candidates, videos_per_second = self._score(step, indices_B, completions)
        reward_PxG, infeasible_B = rewards(candidates, self.suite, fields)
        advantage_PxG = advantages(reward_PxG, fields.scale_rewards)
        truncated_B = np.array([tokens[-1] not in self.lm.eos for tokens in completions])
        in_loss_B = np.isfinite(reward_PxG.ravel())
        if fields.mask_truncated_completions:
            in_loss_B = in_loss_B & ~truncated_B
        batch = self._make_batch(indices_B, completions, in_loss_B)
        batch["advantage"] = advantage_PxG.ravel().astype(np.float32)
        metrics = reward_metrics(
            candidates, self.suite, fields, reward_PxG, advantage_PxG, infeasible_B
        ) | {
            "completions/mean_length": float(np.mean([len(tokens) for tokens in completions])),
            "completions/clipped_ratio": float(truncated_B.mean()),
            "videos_per_second": videos_per_second,
        }
        if jax.process_index() == 0:
            self._windows.ending_at(step).log_warnings(log)
        finite_metrics = {name: value for name, value in metrics.items() if np.isfinite(value)}
        return self._rows_of_process(batch), finite_metrics

    def _make_batch(
        self,
        indices_B: np.ndarray,
        completions: Sequence[Sequence[int]],
        in_loss_B: np.ndarray,
    ) -> dict[str, Any]:
        ids_BxT = np.full((len(indices_B), self.row_length), self.padding, np.int32)
        answer_BxT = np.zeros(ids_BxT.shape, bool)
        num_tokens = 0
        for row, (index, tokens) in enumerate(zip(indices_B, completions, strict=True)):
            start = len(self.prompt_ids[index])
            end = start + len(tokens)
            ids_BxT[row, :end] = [*self.prompt_ids[index], *tokens]
            answer_BxT[row, start:end] = in_loss_B[row]
            num_tokens += end
        return {"ids": ids_BxT, "answer": answer_BxT, "tokens": num_tokens}

    def _rows_of_process(self, batch: dict[str, Any]) -> dict[str, Any]:
        num_rows = len(batch["ids"])
        rows = np.arange(num_rows).reshape(jax.process_count(), -1)[jax.process_index()]
        own = {name: batch[name][rows] for name in ("ids", "answer", "advantage")}
        return own | {"tokens": batch["tokens"] // jax.process_count()}

    def _sample(self, state: TrainState, step: int, prompts: Sequence[int]) -> list[list[int]]:
        """Token ids of a step's completions, sampled from the policy in `state`."""
        if self.fields.full_finetuning:
            policy = dataclasses.replace(self.lm, params=state.trained["params"])
        else:
            policy = dataclasses.replace(self.lm, params=state.frozen["params"]).with_lora(
                state.trained["lora"], lora_config(self.fields)
            )
        seeds = [stable_seed(self.seed, "grpo", step, place) for place in range(len(prompts))]
        groups = policy.generate_ids(
            [self.prompt_ids[i] for i in prompts], self.sampling, self.fields.num_generations, seeds
        )
        return [tokens for group in groups for tokens in group]

    def _score(
        self, step: int, indices_B: np.ndarray, completions: Sequence[Sequence[int]]
    ) -> tuple[list[Candidate], float]:
        """Each row's candidate, and videos made per second, NaN if all were cached.

        Equal rows share a candidate.
        """
        prompts = [self.prompts[int(i)] for i in indices_B]
        texts = []
        for i, prompt, tokens in zip(indices_B, prompts, completions, strict=True):
            (reply,) = decode_answers(self.lm.tokenizer, self.prompt_ids[int(i)], [tokens])
            texts.append(plain_text(without_thoughts(reply)) or prompt)
        pool = CandidatePool(
            self.generator,
            self.suite,
            step_folder(self.folder, step),
            self.folder.parent,
            seed=stable_seed(self.seed, "grpo", step),
            batch_size=self.video_batch_size,
            weights=self.fields.weights,
            keep_videos=self.fields.keep_videos,
        )
        pending = [
            PendingCandidate(prompt, text, step, row, (), "grpo")
            for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]
        own_prompts = set(processes.shard_for_process(list(dict.fromkeys(prompts))))
        own_pending = [candidate for candidate in pending if candidate.prompt in own_prompts]
        done = 0
        videos = VideoProgress(
            f"grpo, step {step}", len(pending), pool, scalars="grpo", monitor=self._monitor
        )
        for num_scored in pool.score_round(own_pending, step):
            videos.advance(num_scored)
            done += num_scored
            self._report_videos(done, f"step {step}")
        pool.wait_for_processes(f"step {step}")
        self._report_videos(len(pending), f"step {step}")
        scored = {(c.prompt, c.refined): c for c in pool.candidates}
        videos_per_second = pool.videos_made / pool.seconds if pool.videos_made else np.nan
        rows = [scored[prompt, text] for prompt, text in zip(prompts, texts, strict=True)]
        return rows, videos_per_second

    def _read_step(self, step: int) -> list[ScoredCandidate]:
        """Candidates of a finished step with their overall scores."""
        candidates = read_segments(step_folder(self.folder, step), Candidate)
        return score_candidates(
            candidates, overall_scores(candidates, weights(self.fields, self.suite))
        )


def check_batch_size(fields: GRPOConfig, num_prompts: int) -> None:
    """Raises BadInput if there are too few prompts, or processes do not divide the batch."""
    prompts_per_step = fields.batch_size // fields.num_generations
    if prompts_per_step > num_prompts:
        raise BadInput(
            f"config.grpo.batch_size={fields.batch_size}: a step takes batch_size / num_generations"
            f" = {prompts_per_step} prompts, but there are {num_prompts}; lower batch_size or give"
            " more prompts",
            source="configuration",
            field="grpo.batch_size",
        )
    if fields.batch_size % jax.process_count():
        raise BadInput(
            f"config.grpo.batch_size={fields.batch_size}: must be a multiple of the number of"
            f" processes, {jax.process_count()}",
            source="configuration",
            field="grpo.batch_size",
        )


def step_folder(folder: AnyPath, step: int) -> AnyPath:
    """Where the candidates of a step are in the stage's folder."""
    return folder / "candidates" / f"{step:06d}"
