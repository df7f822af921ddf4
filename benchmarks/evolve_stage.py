"""The stage `evolve` of pav_jax, for benchmarks/evolve.py, which starts this script as a process of
its own.

Runs the stage as `pav evolve` does: once with compilation, then `--repeats` times in new work
directories, then once more with a wait after each activity, which says where the time goes and
keeps the videos. All runs must find the same candidates.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from generate_models import Operations
from pav_jax.checkpoints.embedded import CHECKPOINTS
from pav_jax.config import load
from pav_jax.recipe import Recipe
from pav_jax.records import Candidate
from pav_jax.storage.records import read_segments
from pav_jax.video import sampling
from pav_jax.video.generation_request import video_size


def configuration(arguments: argparse.Namespace) -> Any:
    """The published loop's rewards and numbers on the embedded models; FAITH and held-out
    evaluators, which it lacks, are left out."""
    config = load("mini_full")
    with config.unlocked():
        del config.rewards.entries["faithfulness"]
    config.rewards.constraints = {}
    config.rewards.held_out = ()
    config.proposers.lexicon.share = 0.0
    config.evolve.max_prompts = arguments.prompts
    config.evolve.rounds = arguments.rounds
    config.evolve.num_rewrites = arguments.rewrites
    config.evolve.keep_videos = "none"
    config.generator.num_inference_steps = arguments.num_inference_steps
    if arguments.batch_size:
        config.generator.batch_size = arguments.batch_size
    return config


def time_stage(recipe: Recipe) -> tuple[float, list[Candidate]]:
    """Seconds of the stage in a new work directory, and its candidates by prompt and round."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        recipe.evolve(folder)
        seconds = time.perf_counter() - start
        pool = read_segments(Path(folder) / "pool", Candidate)
    return seconds, sorted(pool, key=lambda c: (c.prompt, c.round, c.index))


class Profile:
    """Times the activities of a stage one after the other, and keeps its videos.

    Attributes:
      seconds: by activity.
      videos: (text, seed) -> frames uint8 [T, H, W, 3].
    """

    def __init__(self, recipe: Recipe):
        models = recipe.components
        self.seconds: Counter[str] = Counter()
        self.videos: dict[tuple[str, int], np.ndarray] = {}
        start: Any = models.generator.start

        def finished(texts: list[str], seeds: list[int]) -> Callable[[], Any]:
            batch = start(texts, seeds)()
            self.videos |= dict(zip(zip(texts, seeds, strict=True), batch.videos, strict=True))
            return lambda: batch

        # on the objects, so that the stage itself is the one that was timed
        vars(models.generator)["start"] = self._timed("generate", finished)
        vars(models.suite)["score"] = self._timed("score", models.suite.score)
        vars(models.proposers)["propose"] = self._timed("propose", models.proposers.propose)

    def _timed(self, activity: str, call: Callable) -> Callable:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = call(*arguments, **options)
            self.seconds[activity] += time.perf_counter() - start
            return result

        return timed


def write_work(folder: Path, recipe: Recipe, pool: list[Candidate]) -> None:
    """Write what the other side needs: texts, settings and the initial noise of each prompt."""
    config = recipe.config
    models = recipe.components
    generator: Any = models.generator
    family = generator.family
    tokenizer = models.rewriter.tokenizer
    limit = config.proposers.local.max_new_tokens
    prompts = list(dict.fromkeys(c.prompt for c in pool))
    items = []
    seeds = []
    for prompt in prompts:
        own = [c for c in pool if c.prompt == prompt]
        seeds.append(own[0].seed)
        rounds = []
        for number in range(config.evolve.rounds + 1):
            texts = [c.refined for c in own if c.round == number]
            lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in texts]  # and the end token
            rounds.append({"texts": texts, "num_tokens": min(max(lengths, default=1), limit)})
        items.append({"prompt": prompt, "rounds": rounds})
    num_frames, height, width = video_size(family, generator.settings)
    shape, _ = family.latent_shape(num_frames, height, width)
    noise = np.asarray(sampling.noise(sampling.video_keys(seeds), 0, shape))
    axes = ["videos", "frames", "height", "width", "channels"]
    np.save(folder / "latents.npy", noise.transpose([axes.index(a) for a in family.latent_axes]))
    work = {
        "checkpoints": str(CHECKPOINTS),
        "frames": {name: config.rewards.entries[name].frames for name in config.rewards.entries},
        "sampling": {name: config.proposers.local[name] for name in ("temperature", "top_k")},
        "generation": {
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "num_inference_steps": generator.settings.num_inference_steps,
            "guidance_scale": generator.settings.guidance_scale,
            "use_dynamic_cfg": generator.settings.use_dynamic_cfg,
            "max_sequence_length": family.sequence_length(None),
        },
        "prompts": items,
    }
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")


def flops_per_video(generator: Any) -> float:
    """Of one guided video, by formula. The text of the other branch is encoded once for all."""
    used, family = generator.settings, generator.family
    shape, _ = family.latent_shape(*video_size(family, used))
    operations = Operations.of(family, shape)
    steps = 2 * used.num_inference_steps * operations.denoiser
    return operations.text + steps + operations.decoder


def main() -> None:
    """Runs the stage and writes stage.json; without --first-only also what the other side needs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--rewrites", type=int, required=True)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--first-only", action="store_true", help="only the run that compiles")
    arguments = parser.parse_args()
    recipe = Recipe(configuration(arguments))
    start = time.perf_counter()
    models = recipe.components
    _ = models.generator, models.suite, models.proposers  # loaded on first use
    load_seconds = time.perf_counter() - start
    first, pool = time_stage(recipe)
    result: dict[str, Any] = {
        "first_seconds": first,
        "load_seconds": load_seconds,
        "devices": jax.local_device_count(),
        "batch_size": recipe.config.generator.batch_size,
        "flops_per_video": flops_per_video(models.generator),
    }
    if not arguments.first_only:
        runs = [time_stage(recipe) for _ in range(arguments.repeats)] or [(first, pool)]
        write_work(arguments.folder, recipe, pool)
        # all rewrites of a round before its first video
        recipe.config.evolve.proposal_batch_size = arguments.prompts
        profile = Profile(recipe)
        seconds, last = time_stage(recipe)
        assert all(
            [c.key for c in again] == [c.key for c in pool] for _, again in (*runs, (0, last))
        )
        np.save(
            arguments.folder / "our_videos.npy",
            np.stack([profile.videos[c.refined, c.seed] for c in pool]),
        )
        result |= {
            "seconds": [seconds for seconds, _ in runs],
            "profile_seconds": seconds,
            "parts": dict(profile.seconds) | {"bookkeeping": seconds - profile.seconds.total()},
            "rows": [
                {"prompt": c.prompt, "text": c.refined, "round": c.round, "scores": c.scores}
                for c in pool
            ],
        }
    (arguments.folder / "stage.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
