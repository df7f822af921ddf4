"""What cheaper sampling costs on the mini world: fewer steps, guidance in an interval, cached
residuals, and previews.

    python benchmarks/faster_sampling.py                   # everything
    python benchmarks/faster_sampling.py --only=cache,24   # full sampling, and these modes
    python benchmarks/faster_sampling.py --prompts=16 --rank=8 --json=results.json

Every mode generates the same videos as the default sampling, from the same seeds; differences are
paired.

  evaluations   denoiser evaluations per video, both branches of guidance counted
  speed-up      of the denoiser, the fastest of --repeats runs of a batch, modes alternating
  PSNR, CLIP    distance from the videos of full sampling: dB, and 1 - cosine of CLIP embeddings
  TVA, AES      difference from full sampling with the 95 % interval, over user prompts and long
                captions
  rank          for choosing among --rewrites of a prompt: rank correlation of the overall reward
                with full sampling's, how often the same rewrite is best, and the share of the gain
                (best rewrite minus mean, by full sampling) that is lost when another is chosen

"another seed" is full sampling with other noise: it shows how much ranks vary by chance. A mode
that agrees less changes the ranking more than the choice of the seed does. Previews
(`evolve.preview`) only rank: for them "survives" is how often the best rewrite is in the half that
gets a full video, and "saved" the share of the denoiser's time that they save.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from machine import cpu_model
from pav_jax.booster.booster import Booster
from pav_jax.candidates.preview import ranking_quality
from pav_jax.candidates.statistics import paired_intervals
from pav_jax.checkpoints.embedded import ROOT
from pav_jax.components import Components
from pav_jax.config import load
from pav_jax.language.sampling import Sampling
from pav_jax.records import stable_seed
from pav_jax.video import VideoModel, residual_curve, step_schedule

FULL = "8 steps (default)"
OTHER_SEED = "8 steps, another seed"
KEEP = 0.5  # share of candidates that a preview lets pass
REWARDS = ("TVA", "AES")
DPM = "CogVideoXDPMScheduler"
MANY = 24  # steps of the finest sampling
# name -> generation settings, or a scheduler; "curve" takes a residual curve measured at that
# number of steps
MODES = {
    FULL: {},
    OTHER_SEED: {},
    "24 steps": dict(num_inference_steps=24),
    "6 steps": dict(num_inference_steps=6),
    "4 steps": dict(num_inference_steps=4),
    "4 steps, DPM-Solver++": dict(num_inference_steps=4, scheduler=DPM),
    "guidance in [0, .75)": dict(guidance_stop=0.75),
    "guidance in [0, .5)": dict(guidance_stop=0.5),
    "guidance in [.25, 1)": dict(guidance_start=0.25),
    "cache .2": dict(cache_threshold=0.2),
    "cache .5": dict(cache_threshold=0.5),
    "cache .5, guidance in [0, .75)": dict(cache_threshold=0.5, guidance_stop=0.75),
    "24 steps, cache .1": dict(num_inference_steps=24, cache_threshold=0.1, curve=True),
    "24 steps, cache .3": dict(num_inference_steps=24, cache_threshold=0.3, curve=True),
}
PREVIEWS = {
    "preview of 4 steps": dict(num_inference_steps=4),
    "preview of 2 steps": dict(num_inference_steps=2),
    "preview of 32 x 32": dict(height=32, width=32),
    "preview of 4 steps, 32 x 32": dict(num_inference_steps=4, height=32, width=32),
}


class Sampler:
    """One mode of the mini generator."""

    def __init__(
        self, name: str, base: VideoModel, curve: Callable[[], tuple[float, ...]], /, **fields: Any
    ):
        scheduler = fields.pop("scheduler", None)
        if fields.pop("curve", False):
            fields["cache_ratios"] = curve()
        if scheduler:
            base = VideoModel.from_pretrained(
                "mini:generator", dtype="float32", scheduler=scheduler
            )
        self.name = name
        self.model = base.with_settings(**fields)
        self.seed_offset = 10**6 if name == OTHER_SEED else 0

    def evaluations(self) -> int:
        schedule = step_schedule.make_step_schedule(self.model.settings)
        return (
            2 * self.model.settings.num_inference_steps
            if schedule is None
            else schedule.evaluations()
        )

    def videos(self, texts: list[str], seeds: list[int]) -> np.ndarray:
        return self.model.generate(texts, seed=[seed + self.seed_offset for seed in seeds])

    def denoise(self, text: str) -> None:
        """Denoises one batch. Its texts were encoded by the first run."""
        rows = list(range(self.model.settings.batch_size))
        request = self.model.make_request([text] * len(rows), seed=rows)
        self.model.denoise(request, rows).block_until_ready()


def seconds(samplers: list[Sampler], text: str, repeats: int, tick: Callable) -> dict[str, float]:
    """The fastest run of each. Samplers alternate, so that load on the machine affects all
    alike."""
    best = dict.fromkeys((s.name for s in samplers), np.inf)
    for _ in range(repeats + 1):  # the first round compiles
        for sampler in samplers:
            start = time.perf_counter()
            sampler.denoise(text)
            best[sampler.name] = min(best[sampler.name], time.perf_counter() - start)
            tick()
    return best


def rewrites(config: Any, prompts: list[str], count: int) -> list[list[str]]:
    """`count` rewrites per prompt, half by the untuned rewriter and half by the embedded booster,
    as varied as during training."""
    how = Sampling(
        temperature=1.0, top_k=50, top_p=1.0, max_new_tokens=config.rewriter.max_new_tokens
    )
    texts: list[list[str]] = [[] for _ in prompts]
    for path, n in (("mini:rewriter", count - count // 2), (None, count // 2)):
        booster = Booster.from_pretrained(path)
        booster = Booster(booster.language_model, how)
        made = [
            r.refined
            for rewrites in booster.refine(prompts, num_return_sequences=n)
            for r in rewrites
        ]
        for i, own in enumerate(texts):
            own += made[i * n : (i + 1) * n]
    return texts


def distances(videos: np.ndarray, full: np.ndarray, tower: Any) -> dict[str, float]:
    """PSNR in dB and CLIP distance of the frames, mean over videos."""
    error = np.square(videos.astype(np.float64) - full).mean(axis=(1, 2, 3, 4))
    embed = lambda x: tower.embed_frames(x, 4, "sheet")[:, 0]  # noqa: E731
    ours = embed(videos)
    theirs = embed(full)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return {
        "PSNR": float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3)))),
        "CLIP": float(np.mean(1 - cosine)),
    }


def measure(options: argparse.Namespace, bars: Progress) -> dict[str, dict[str, Any]]:
    config = load(Path(__file__).parents[1] / "configs" / "mini.py")
    parts = Components(config)
    suite = parts.suite
    base = parts.generator
    rows = [
        json.loads(line) for line in (ROOT / "prompts/in_domain.jsonl").read_text().splitlines()
    ]
    half = options.prompts // 2
    users = [r["prompt"] for r in rows[:half]] + [r["prompt"] for r in rows[half : 2 * half]]
    texts = [r["prompt"] for r in rows[:half]] + [r["oracle"] for r in rows[half : 2 * half]]
    rank_prompts = [r["prompt"] for r in rows[-options.rank :]]

    curves: list[tuple[float, ...]] = []

    def curve() -> tuple[float, ...]:
        if not curves:
            curves.append(
                tuple(
                    residual_curve.measure_ratios(
                        base.with_settings(num_inference_steps=MANY),
                        texts[: base.settings.batch_size],
                    )
                )
            )
        return curves[0]

    only = [word for word in options.only.split(",") if word]
    wanted = lambda name: name == FULL or not only or any(word in name for word in only)  # noqa: E731
    samplers = [
        Sampler(name, base, curve, **fields)
        for name, fields in (MODES | PREVIEWS).items()
        if wanted(name)
    ]
    written = rewrites(config, rank_prompts, options.rewrites)
    ranked = [text for own in written for text in own]
    of = [prompt for prompt, own in zip(rank_prompts, written, strict=True) for _ in own]
    rank_seeds = [stable_seed("rank", prompt) for prompt in of]
    task = bars.add_task("sampling", total=len(samplers) * (options.repeats + 3))
    tick = lambda: bars.advance(task)  # noqa: E731
    times = seconds(samplers, texts[-1], options.repeats, tick)

    results = {}
    scores = {}
    first = None
    order = {}
    for sampler in samplers:
        entry = results[sampler.name] = {
            "evaluations": sampler.evaluations(),
            "seconds": times[sampler.name],
            "speed-up": times[FULL] / times[sampler.name],
        }
        if sampler.name not in PREVIEWS:
            videos = sampler.videos(texts, list(range(len(texts))))
            first = videos if first is None else first
            entry |= distances(videos, first, suite.rewards[0].tower)
            scores[sampler.name] = suite.score(videos, users)
            for reward in REWARDS:
                gain = scores[sampler.name][reward] - scores[FULL][reward]
                entry[reward] = [
                    float(scores[sampler.name][reward].mean()),
                    *paired_intervals(gain[:, None])[0],
                ]
        tick()
        overall = suite.overall(suite.score(sampler.videos(ranked, rank_seeds), of))
        order[sampler.name] = overall.reshape(len(rank_prompts), -1)
        groups = [
            list(zip(cheap, full, strict=True))
            for cheap, full in zip(order[sampler.name], order[FULL], strict=True)
        ]
        best = ranking_quality(groups, 1e-9)  # one of each group is selected
        half_kept = ranking_quality(groups, KEEP)
        entry |= {
            "rank correlation": best["rank_correlation"],
            "same best": best["best_selected"],
            "loss": best["mean_loss"],
            "survives": half_kept["best_selected"],
            "loss of half": half_kept["mean_loss"],
        }
        tick()
    spread = order[FULL].max(axis=1) - order[FULL].mean(axis=1)
    for entry in results.values():
        entry["share of the gain lost"] = entry["loss"] / float(spread.mean())
    return results


def tables(results: dict[str, dict[str, Any]]) -> list[Table]:
    change = lambda c: f"{c[1]:+.2f} ({c[2]:+.2f}, {c[3]:+.2f})"  # noqa: E731
    modes = Table(
        "mode",
        "evaluations",
        "speed-up",
        "PSNR",
        "CLIP",
        "TVA",
        "AES",
        "rank",
        "same best",
        "gain lost",
    )
    previews = Table("previews, half kept", "speed-up", "rank", "survives", "loss", "saved")
    for name, e in results.items():
        rank = [f"{e['rank correlation']:.2f}"]
        if name in PREVIEWS:
            previews.add_row(
                name,
                f"{e['speed-up']:.2f}",
                *rank,
                f"{e['survives']:.0%}",
                f"{e['loss of half']:.3f}",
                f"{1 - KEEP - 1 / e['speed-up']:.0%}",
            )
        else:
            same = ("-", "-") if name == FULL else (f"{e['PSNR']:.1f}", f"{e['CLIP']:.3f}")
            gains = [f"{e[r][0]:.2f}" if name == FULL else change(e[r]) for r in REWARDS]
            modes.add_row(
                name,
                str(e["evaluations"]),
                f"{e['speed-up']:.2f}",
                *same,
                *gains,
                *rank,
                f"{e['same best']:.0%}",
                f"{e['share of the gain lost']:.0%}",
            )
    return [modes, previews] if previews.row_count else [modes]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompts", type=int, default=64, help="half user prompts, half long captions"
    )
    parser.add_argument("--rank", type=int, default=16, help="prompts whose rewrites are ranked")
    parser.add_argument("--rewrites", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", default="", help="modes whose names contain one of these words; and full sampling"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with Progress(console=Console(stderr=True)) as bars:
        results = measure(options, bars)
    console = Console(width=150)
    console.print(
        f"{cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}; jax"
        f" {jax.__version__} on {jax.devices()[0].platform}; {options.prompts} videos,"
        f" {options.rank} prompts x {options.rewrites} rewrites; TVA and AES minus full sampling's"
    )
    for table in tables(results):
        console.print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
