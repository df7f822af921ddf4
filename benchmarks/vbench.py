"""Trains SmolLM2 on published rewrites: SFT on the prompt style of one video model, then DPO that
prefers it to the style of another.

    python benchmarks/vbench.py --workdir=runs/vbench --config.data=vbench_prompts.jsonl \\
        --tests a.txt b.txt

Prompts are split 90/10. Prints for the base model, SFT and DPO the loss of held-out rewrites and
the FAITH of the rewrites that the model generates for held-out prompts. DPO's chosen rewrite is
that of the target generator and the rejected one that of the other, with similar lengths; the share
of held-out pairs that it ranks correctly is printed beside "pick the longer" and "pick the
shorter". Twenty rewrites to read are written to rewrites.md. An interrupted run resumes when it is
started again.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import components
from pav_jax import config as configuration
from pav_jax.booster.booster import Booster
from pav_jax.booster.replies import LOOP_REPEATS, num_repeats
from pav_jax.candidates.statistics import finite_mean
from pav_jax.config_overrides import split_overrides
from pav_jax.language.encoder import make_encoder
from pav_jax.language.log_probs import log_probs
from pav_jax.prefer.pairs import length_difference
from pav_jax.recipe import Recipe
from pav_jax.records import Preference, PromptPair, Refinement, stable_seed
from pav_jax.rewards.faithfulness import faithfulness
from pav_jax.storage.json_files import write_json
from pav_jax.storage.records import write_jsonl

BATCH_SIZE = 8


def main() -> None:
    """Trains and measures the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/smollm2_vbench.py")
    parser.add_argument("--workdir", type=Path, default=Path("runs/vbench"))
    parser.add_argument(
        "--tests", nargs="*", default=[], help="files of prompts to rewrite for reading"
    )
    words, overrides = split_overrides(sys.argv[1:])
    args = parser.parse_args(words)
    config = configuration.load(args.config, overrides)
    if config.target == config.other:
        config.other = "cogvideox" if config.target == "wan" else "wan"
    rows = [json.loads(line) for line in Path(config.data).read_text(encoding="utf-8").splitlines()]
    seen, held = split(rows, config.held_out_every)
    print(f"{len(seen)} training prompts, {len(held)} held out")

    write_jsonl(
        args.workdir / "sft_pairs.jsonl", [PromptPair(r["prompt"], r[config.target]) for r in seen]
    )
    write_jsonl(args.workdir / "round_1" / "preferences.jsonl", preferences(seen, config))
    recipe = Recipe(config)
    models = {
        "base": None,
        "sft": recipe.sft(args.workdir),
        "dpo": recipe.dpo(args.workdir, 1),
    }
    report = {name: measure(config, folder, held) for name, folder in models.items()}
    pairs = preferences(held, config)
    report["preferences"] = accuracies(config, models, pairs)
    write_json(args.workdir / "vbench.json", report)
    print(json.dumps(report, indent=2))
    if args.tests:
        read = [
            p for file in args.tests for p in Path(file).read_text().split("\n")[:10] if p.strip()
        ]
        write_examples(
            args.workdir / "rewrites.md", {n: booster(config, f) for n, f in models.items()}, read
        )


def split(rows: list[dict], held_out_every: int) -> tuple[list[dict], list[dict]]:
    """The rows to train on, and those held out, chosen by a hash of their prompts."""
    held = [r for r in rows if stable_seed("held out", r["prompt"]) % held_out_every == 0]
    return [r for r in rows if r not in held], held


def preferences(rows: list[dict], config) -> list[Preference]:
    """Prefers the target's rewrite to the other generator's, for pairs of similar length."""
    pairs = [(r["prompt"], r[config.target], r[config.other]) for r in rows]
    return [
        Preference(*pair, 1.0)
        for pair in pairs
        if length_difference(*pair[1:]) <= config.length_match
    ]


def booster(config, folder: Path | None) -> Booster:
    """The booster in `folder`, or the untuned rewriter."""
    return Booster(components.load_rewriter(config, folder), components.rewriter_sampling(config))


def measure(config, folder: Path | None, held: list[dict]) -> dict[str, float]:
    """Loss per token of the target's held-out rewrites, and FAITH and number of words of the
    model's rewrites."""
    model = booster(config, folder)
    return {"loss": loss(config, model, held), **measure_rewrites(model, held)}


def loss(config, model: Booster, held: list[dict]) -> float:
    """The mean over tokens of the negative log-probability of the target's held-out rewrites."""
    pairs = [(r["prompt"], r[config.target]) for r in held]
    logps, counts = answer_log_probs(config, model.language_model, pairs)
    return float(-logps.sum() / counts.sum())


def measure_rewrites(model: Booster, held: list[dict]) -> dict[str, float]:
    """FAITH, words and loops of the model's rewrites of held-out prompts."""
    generated = rewrite(model, held)
    faith = [faithfulness(w.prompt, w.refined) for w in generated]  # NaN: another language
    return {
        "FAITH": finite_mean(faith),
        "unreadable": float(np.isnan(faith).mean()),
        "words": float(np.mean([len(w.refined.split()) for w in generated])),
        "loops": float(np.mean([has_loop(w.refined) for w in generated])),
    }


def rewrite(model: Booster, rows: list[dict]) -> list[Refinement]:
    """One rewrite of each prompt."""
    return [rewrites[0] for rewrites in model.refine([r["prompt"] for r in rows])]


def has_loop(text: str) -> bool:
    """Whether the same words occur in a row as often as in what the guard calls a loop."""
    return num_repeats(text.lower().split()) >= LOOP_REPEATS


def answer_log_probs(config, lm, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """(sum of log-probabilities, number of tokens) of each answer."""
    encoder = make_encoder(lm, config.sft.max_length, config.sft.max_prompt_length)

    @jax.jit
    def answer_sums(params, ids, answer):
        return (log_probs(lm.model, {"params": params}, ids, 128) * answer).sum(-1)

    sums = []
    counts = []
    for start in range(0, len(pairs), BATCH_SIZE):
        ids = np.full((BATCH_SIZE, config.sft.max_length), encoder.padding, np.int32)
        answer = np.zeros(ids.shape, bool)
        chunk = pairs[start : start + BATCH_SIZE]
        for i, (prompt, text) in enumerate(chunk):
            encoded = encoder.encode(prompt, [text])
            (row,) = encoded.rows
            ids[i, : len(row)] = row
            answer[i, encoded.num_prompt_tokens : len(row)] = True
        batch_sums = answer_sums(lm.params, jnp.asarray(ids), jnp.asarray(answer))
        sums.append(np.asarray(batch_sums)[: len(chunk)])
        counts.append(answer.sum(-1)[: len(chunk)])
    return np.concatenate(sums), np.concatenate(counts)


def accuracies(config, models: dict[str, Path | None], pairs: list[Preference]) -> dict[str, float]:
    """Share of pairs whose chosen rewrite a rule prefers. The DPO reward is the gain in
    log-probability over the model that it started from."""
    sums = {}
    for name, folder in models.items():
        lm = components.load_rewriter(config, folder)
        sums[name] = {
            side: answer_log_probs(config, lm, [(p.prompt, getattr(p, side)) for p in pairs])[0]
            for side in ("chosen", "rejected")
        }
    gain = {side: sums["dpo"][side] - sums["sft"][side] for side in ("chosen", "rejected")}
    words = np.array([[len(p.chosen.split()), len(p.rejected.split())] for p in pairs])
    likelier = {
        f"likelier under {n}": float((s["chosen"] > s["rejected"]).mean()) for n, s in sums.items()
    }
    return {
        "pairs": len(pairs),
        "dpo reward": float((gain["chosen"] > gain["rejected"]).mean()),
        **likelier,
        "pick the longer": float((words[:, 0] > words[:, 1]).mean()),
        "pick the shorter": float((words[:, 0] < words[:, 1]).mean()),
    }


def write_examples(path: Path, boosters: dict[str, Booster], prompts: list[str]) -> None:
    """Writes the rewrites of every booster as Markdown."""
    answers = {name: model.refine(prompts) for name, model in boosters.items()}
    lines = []
    for i, prompt in enumerate(prompts):
        lines += (
            [f"## {prompt}", ""]
            + [f"- **{name}** {rewrites[i][0].refined}" for name, rewrites in answers.items()]
            + [""]
        )
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
