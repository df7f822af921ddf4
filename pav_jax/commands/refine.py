"""`pav refine`: rewrites prompts with a booster."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pav_jax.commands.arguments import (
    INT8_CHOICES,
    add_int8,
    add_prompts,
    require_at_least,
    require_at_most,
)
from pav_jax.commands.guard_options import add_guard, check_keep, guard_fields, terms_in
from pav_jax.commands.style_options import add_style, check_style

if TYPE_CHECKING:
    from pav_jax.booster.booster import Booster
    from pav_jax.records import Refinement

MAX_REWRITES = 100_000  # of one command

MAX_NAMED = 40  # characters of a prompt in a note on it
PROMPTS_PER_CALL = 64  # between two reports of progress; the rewrites do not depend on it


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "refine",
        help="rewrite prompts with a booster",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Rewrites short prompts into long, detailed ones, which give better videos. The"
            " result depends only on\nthe prompt and the seed, not on other prompts."
        ),
        epilog="""\
examples:
  pav refine "a girl is playing guitar"                    the default booster, for CogVideoX
  pav refine "a dog runs" --adapter=my-adapter             a LoRA adapter, on the model it names
  pav refine "a crimson star bouncing" --model=mini:booster    the booster of the toy world
  pav refine prompts.txt --model=runs/mini/round_2/booster --json > rewrites.jsonl
  pav refine 'OHWX dances, no people -ar 9:16' --keep=dances --max-words=60
  echo "a dog runs" | pav refine - --num-return-sequences=3 --seed=7""",
    )
    add_prompts(command)
    command.add_argument(
        "--model",
        help=(
            "a booster folder, a Hub id, a .gguf file, mini:booster, or smollm2; default: smollm2"
            " with the adapter of --for"
        ),
    )
    command.add_argument(
        "--image",
        metavar="FILE",
        help=(
            "image of the prompts; --json passes its path along for an image-to-video model, and"
            " the rewriter does not read it. A .jsonl file of prompts may have one in each line"
        ),
    )
    add_style(command)
    command.add_argument(
        "--adapter",
        metavar="PATH",
        help=(
            "a PEFT LoRA folder, a Hub id, or a shipped adapter (pav adapters list), on top of the"
            " model; without --model, on the base model that it names"
        ),
    )
    command.add_argument(
        "-n",
        "--num-return-sequences",
        type=int,
        default=1,
        help="rewrites per prompt (default 1)",
    )
    command.add_argument("--seed", type=int, default=0, help="same seed, same rewrites (default 0)")
    command.add_argument(
        "--template",
        help=(
            "chat template: a file; auto: the shipped instruction, in the model's prompt format;"
            " model: the model's own (default: model if its template has an instruction to rewrite,"
            " else auto)"
        ),
    )
    add_int8(command)
    add_guard(command)
    command.add_argument(
        "--json",
        action="store_true",
        help="one JSON object per line: prompt, refined, seed, model, what was kept and lost, ...",
    )
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    """Print the rewrites of every prompt."""
    from pav_jax.commands.prompts import read_prompts_and_images

    require_at_least(1, "--num-return-sequences", args.num_return_sequences)
    prompts, images = read_prompts_and_images(args.prompts, args.image)
    count = args.num_return_sequences
    require_at_most(max(1, MAX_REWRITES // len(prompts)), "--num-return-sequences", count)
    guard = guard_fields(args)
    check_keep(args.keep, prompts)
    check_style(args, {"--model": args.model, "--adapter": args.adapter})

    from pav_jax.progress import Progress
    from pav_jax.records import to_json

    paths = [image.path if image else None for image in images]
    if any(paths) and not args.json:
        print(
            "pav refine: the rewriter does not read the image; --json prints its path beside the"
            " rewrite",
            file=sys.stderr,
        )
    booster, adapter = _load(args)
    rewrites = []
    with Progress(is_brief=True) as progress:
        task = progress.add_task("refine", total=len(prompts), unit="prompts")
        for start in range(0, len(prompts), PROMPTS_PER_CALL):
            chunk = slice(start, start + PROMPTS_PER_CALL)
            rewrites += booster.refine(
                prompts[chunk],
                num_return_sequences=args.num_return_sequences,
                seed=args.seed,
                adapter_names=adapter,
                **(guard | terms_in(args.keep, prompts[chunk])),
                **({"image": paths[chunk]} if any(paths) else {}),
            )
            progress.update(task, completed=len(rewrites))
    for number, refinements in enumerate(rewrites, 1):
        for refinement in refinements:
            print(to_json(refinement) if args.json else " ".join(refinement.refined.split()))
        if not args.json:
            _print_notes(refinements, number if len(prompts) > 1 else None)


def _print_notes(refinements: "list[Refinement]", number: int | None) -> None:
    """Say why a prompt is unchanged, or its rewrite unchecked; each reason once.

    Args:
      number: of the prompt; None for a single one, which needs no name.
    """
    notes = (f"unchanged: {r.reason}" if r.reason else r.note for r in refinements)
    words = " ".join(refinements[0].original.split())
    start = words if len(words) <= MAX_NAMED else f"{words[:MAX_NAMED].rstrip()}..."
    place = "" if number is None else f"prompt {number}, {start!r}: "
    for note in dict.fromkeys(filter(None, notes)):
        print(f"pav refine: {place}{note}", file=sys.stderr)


def _load(args: argparse.Namespace) -> "tuple[Booster, str | None]":
    """The booster, and the name of the adapter that it rewrites with."""
    from pav_jax.booster.booster import Booster

    options = {"template": args.template, "int8": INT8_CHOICES[args.int8]}
    if args.model is not None and args.adapter is None:
        return Booster.from_pretrained(args.model, **options), None
    from pav_jax.booster.adapter_folders import DEFAULT, common_base, read_options, style_adapter

    if args.adapter is None:
        adapters = [style_adapter(args.style or DEFAULT)]
    else:
        adapters = read_options([args.adapter])
    base = args.model or common_base(adapters)
    paths = {adapter.name: adapter.path for adapter in adapters}
    booster = Booster.from_pretrained(base, adapters=paths, **options)
    return booster, adapters[0].name
