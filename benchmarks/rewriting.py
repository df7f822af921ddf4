"""The workload of rewriting for benchmarks/sample.py: one instruction, many prompts, several
samples of each.

Both read the same GGUF file, with the shipped instruction as the chat template, and sample up to
`--max-new-tokens` tokens with temperature 1 and top-k 50. transformers gets each of
`--batch-sizes` and the best counts; prompts of about one length are in one batch, and each batch
asks for all samples of its prompts. Calls alternate, and the fastest of each is printed: compare
rows of one run only. Calls that compile are not counted. tokens/s counts the tokens of answers;
GFLOP/s counts the FLOPs of those tokens and of the instruction and the prompt of each sample, as
if nothing were shared, so that both systems are credited with the same work per token.
"""

import argparse
import collections
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from machine import cpu_model, write_result
from pav_jax.checkpoints import gguf
from pav_jax.language import decode, prefill
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.sampling import Sampling
from sampling_flops import FORMULA, flops_per_token

TEMPLATE = Path(prefill.__file__).parent / "templates" / "rewriter_chatml.jinja"
SUBJECTS = ("a girl", "two old dogs", "a red kite", "the quiet sea", "a man in a blue coat")
ACTIONS = ("playing guitar", "crossing a busy street", "in the rain", "seen from above")


@dataclasses.dataclass
class Run:
    """One way to run the workload: its seconds so far and the answers' lengths."""

    name: str
    call: Callable[[], list[tuple[int, int]]]
    seconds: list[float] = dataclasses.field(default_factory=list)
    lengths: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def time(self) -> None:
        """Run once; the lengths are (prompt, answer) of each sample."""
        start = time.perf_counter()
        self.lengths = self.call()
        self.seconds.append(time.perf_counter() - start)

    @property
    def tokens_per_second(self) -> float:
        """Of the fastest run."""
        return sum(answer for _, answer in self.lengths) / min(self.seconds)


def workload(num_prompts: int) -> list[str]:
    """Short prompts as users write them."""
    pairs = [f"{s} {a}" for a in ACTIONS for s in SUBJECTS]
    return [
        pairs[i % len(pairs)] + (f", take {i}" if i >= len(pairs) else "")
        for i in range(num_prompts)
    ]


def ours(lm: LanguageModel, prompts: list[list[int]], samples: int, settings: Sampling):
    """Return a function that runs the workload with pav_jax."""

    def call() -> list[tuple[int, int]]:
        fresh = dataclasses.replace(lm)  # without the instruction's cache of an earlier call
        answers = fresh.generate_ids(prompts, settings, num_return_sequences=samples)
        return [
            (len(ids), len(a)) for ids, rows in zip(prompts, answers, strict=True) for a in rows
        ]

    return call


def theirs(
    model: Any,
    eos: list[int],
    prompts: list[list[int]],
    samples: int,
    settings: Sampling,
    rows: int,
):
    """Return a function that runs the workload with transformers, `rows` rows in a batch."""
    per_batch = max(1, rows // samples)
    order = sorted(prompts, key=len)

    def call() -> list[tuple[int, int]]:
        lengths = []
        for start in range(0, len(order), per_batch):
            lengths += answers(order[start : start + per_batch])
        return lengths

    def answers(batch: list[list[int]]) -> list[tuple[int, int]]:
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=settings.max_new_tokens,
                do_sample=True,
                temperature=settings.temperature,
                top_k=settings.top_k,
                num_return_sequences=samples,
                eos_token_id=eos,
                pad_token_id=0,
            )
        return [
            (len(batch[i // samples]), answer_length(row, eos))
            for i, row in enumerate(out[:, longest:].tolist())
        ]

    return call


def answer_length(row: list[int], eos: list[int]) -> int:
    """Tokens up to and with the one that ends the answer."""
    ends = [i for i, token in enumerate(row) if token in eos]
    return ends[0] + 1 if ends else len(row)


def parts(call: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Return how often each program ran in one call, and its seconds."""
    spent: dict[str, list[float]] = collections.defaultdict(list)

    def timed(program: Callable, name: str) -> Callable:
        def run(*args):
            start = time.perf_counter()
            out = jax.block_until_ready(program(*args))
            spent[name].append(time.perf_counter() - start)
            return out

        return run

    programs = {
        "prefix": (prefill, "compute_prefix"),
        "prompts": (prefill, "compute_prompts"),
        "refill": (decode, "fill_rows"),
        "decode": (decode, "decode_rows"),
    }
    originals = {name: getattr(*place) for name, place in programs.items()}
    for name, (module, attribute) in programs.items():
        setattr(module, attribute, timed(originals[name], name))
    try:
        call()
    finally:
        for name, (module, attribute) in programs.items():
            setattr(module, attribute, originals[name])
    return {name: (len(seconds), sum(seconds)) for name, seconds in spent.items()}


def work_of(run: Run, lm: LanguageModel) -> float:
    """FLOPs of a run, as if nothing were shared."""
    return sum(
        prompt * flops_per_token(lm, prompt / 2) + new * flops_per_token(lm, prompt + new / 2)
        for prompt, new in run.lengths
    )


def add_row(table: Table, run: Run, lm: LanguageModel) -> None:
    """Add the rates of a run."""
    seconds = min(run.seconds)
    tokens = sum(new for _, new in run.lengths)
    table.add_row(
        run.name,
        f"{seconds:.1f}",
        str(tokens),
        f"{tokens / seconds:.1f}",
        f"{work_of(run, lm) / seconds / 1e9:.1f}",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the workload."""
    parser.add_argument("--model", type=Path, help="a .gguf file; default: SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=120)
    parser.add_argument("--rows", type=int, default=128, help="rows of a batch in pav_jax")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--repeats", type=int, default=2)


def run(args: argparse.Namespace) -> None:
    """Prints the tables."""
    file = args.model or gguf.smollm2()
    lm = LanguageModel.from_pretrained(file, "float32", batch_size=args.rows)
    lm = lm.with_template(TEMPLATE)
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
    )
    model.eval()
    prompts = [lm.prompt_ids(text) for text in workload(args.prompts)]
    settings = Sampling(args.max_new_tokens)
    own = Run("pav_jax", ours(lm, prompts, args.samples, settings))
    others = [
        Run(
            f"transformers, batch {rows}",
            theirs(model, list(lm.eos), prompts, args.samples, settings, rows),
        )
        for rows in args.batch_sizes
    ]
    own.call()  # compiles
    for _ in range(args.repeats):
        for system in (own, *others):
            system.time()
    table = Table("system", "seconds", "tokens", "tokens/s", "GFLOP/s")
    for system in (own, *others):
        add_row(table, system, lm)
    console = Console()
    console.print(
        f"CPU: {cpu_model()}, {len(os.sched_getaffinity(0))} cores; {file.name}, float32;"
        f" {args.prompts} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens,"
        f" {args.samples} samples each, up to {args.max_new_tokens} tokens"
    )
    console.print(f"{FORMULA}")
    console.print(table)
    best = max(system.tokens_per_second for system in others)
    console.print(f"pav_jax / best of transformers: {own.tokens_per_second / best:.2f}")
    for name, (count, seconds) in parts(own.call).items():
        console.print(f"{name}: {count} runs, {seconds:.2f} s")
    systems = {
        system.name: {
            "tokens_s": system.tokens_per_second,
            "flop_s": work_of(system, lm) / min(system.seconds),
        }
        for system in (own, *others)
    }
    sizes = {name: getattr(args, name) for name in ("prompts", "samples", "max_new_tokens")}
    write_result(args.json, {"file": file.name, "systems": systems} | sizes)
