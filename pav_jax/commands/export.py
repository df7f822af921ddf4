"""`pav export`: a model in another format."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

FORMATS = ("hf", "peft", "gguf", "pav")
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q4_0")  # as in checkpoints/gguf_writer.py


def add(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "export",
        help="write a booster for transformers, PEFT or llama.cpp; convert a reward model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Writes a language model (a folder, a .gguf file, or a base model with an adapter) in another format.
  hf    a folder that transformers.AutoModelForCausalLM loads, with a model card
  peft  the adapter alone, for the model that training started from (--base-model), with tokenizer,
        chat template and a card; adapters of earlier stages are joined to it
  gguf  one file for llama.cpp
  pav   converts a published reward model to a folder that pav loads: MPS_overall_checkpoint,
        LAION's aesthetic heads (.pth), CLIP in the layout of open_clip, VideoScore, VideoReward,
        HPSv3""",
        epilog="""\
examples:
  pav export --from=runs/mini/round_2/booster --to=hf --out=my-booster
  pav export --from=runs/x/round_2/booster --to=peft --base-model=Qwen/Qwen3-4B --out=my-adapter
  pav export --from=smollm2 --to=gguf --quantization=q8_0 --out=model.gguf
  pav export --from=meta-llama/Meta-Llama-3-8B-Instruct --adapter=adapter --to=hf --out=merged
  pav export --from=sa_0_4_vit_l_14_linear.pth --to=pav --out=aesthetic_head
  pav export --from=MPS_overall_checkpoint.pth --to=pav --out=mps \\
    --tokenizer=laion/CLIP-ViT-H-14-laion2B-s32B-b79K
  pav export --from=KwaiVGI/VideoReward --to=pav --out=videoreward \\
    --tokenizer=Qwen/Qwen2-VL-2B-Instruct""",
    )
    command.add_argument(
        "--from", dest="source", required=True, help="the model: a folder, a Hub id or a .gguf file"
    )
    command.add_argument("--to", choices=FORMATS, default="hf", help="default hf")
    command.add_argument(
        "--out", required=True, help="the folder to write, new or empty; for gguf the new file"
    )
    command.add_argument("--adapter", help="a LoRA adapter to merge into the model")
    command.add_argument(
        "--base-model",
        help="peft: the public name of the model that training started from (owner/name)",
    )
    command.add_argument(
        "--generator",
        help=(
            "hf and peft: the video model that the card says it writes for (default: the run's, if"
            " it made videos)"
        ),
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="hf and peft: of the weights (default: bfloat16 for hf, float32 for peft)",
    )
    command.add_argument(
        "--quantization", choices=QUANTIZATIONS, default="bf16", help="gguf: default bf16"
    )
    command.add_argument(
        "--tokenizer",
        help=(
            "pav: for a CLIP or MPS, folder or Hub id of CLIP's tokenizer (default: beside it); for"
            " a VideoReward or HPSv3, of the Qwen2-VL that it was trained from"
        ),
    )
    command.add_argument(
        "--activation",
        choices=("gelu", "quick_gelu"),
        help="pav: of a CLIP, where its files do not say",
    )
    command.add_argument(
        "--max-shard-size", default="5GB", help="largest weight file (default 5GB)"
    )
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    """Write the model and print where."""
    from pav_jax.storage.folders import output_folder

    _check(args)
    if args.to == "gguf":
        _load(args, "float32").save_gguf(args.out, args.quantization)
    else:
        with output_folder(args.out) as out:
            _write_folder(args, out)
    print(args.out)


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not belong to the format, and an output that exists."""
    from pav_jax.errors import BadInput
    from pav_jax.storage.addresses import as_path
    from pav_jax.storage.files import check_writable

    check_writable(args.out, "--out")
    out = as_path(args.out)
    if out.exists() and (args.to == "gguf" or not out.is_dir() or any(out.iterdir())):
        kind = "file" if args.to == "gguf" else "folder"
        raise BadInput(f"--out={args.out}: already exists; name a new {kind}", source="--out")
    if args.adapter and args.to in ("peft", "pav"):
        raise BadInput(
            f"--adapter is merged into a language model; leave it out with --to={args.to}",
            source="--adapter",
        )
    if args.to != "peft" and args.base_model is not None:
        raise BadInput("--base-model belongs to --to=peft; leave it out", source="--base-model")
    if args.base_model == "":
        raise BadInput("--base-model: name a model (owner/name)", source="--base-model")
    if args.generator is not None and args.to not in ("hf", "peft"):
        raise BadInput(
            f"--generator: --to={args.to} has no card; leave it out", source="--generator"
        )
    if args.to != "pav" and (args.tokenizer or args.activation):
        raise BadInput(
            "--tokenizer and --activation belong to --to=pav; leave them out", source="--to"
        )


def _write_folder(args: argparse.Namespace, out: Path) -> None:
    if args.to == "pav":
        _convert(args, out)
    elif args.to == "peft":
        _write_adapter(args, out)
    else:
        from pav_jax.report.model_card import write_model_card

        model = _load(args, args.dtype or "bfloat16")
        model.save_pretrained(out, max_shard_size=args.max_shard_size)
        write_model_card(out, model.path, generator=args.generator)


def _write_adapter(args: argparse.Namespace, out: Path) -> None:
    from pav_jax.language.adapters import is_portable, joined_adapter, write_joined
    from pav_jax.report.model_card import write_model_card

    adapter = joined_adapter(args.source)
    if args.base_model is not None:
        adapter = dataclasses.replace(adapter, base=args.base_model)
    elif not is_portable(adapter.base):
        print(
            f"pav export: note: the adapter names its base model {adapter.base}, which PEFT"
            " does not find on another machine; for others, use --base-model=owner/name",
            file=sys.stderr,
        )
    write_joined(out, adapter, args.dtype or "float32")
    write_model_card(out, adapter.booster, adapter.base, args.generator)


def _load(args: argparse.Namespace, dtype: str) -> Any:
    from pav_jax.language.language_model import LanguageModel

    lm = LanguageModel.from_pretrained(args.source, dtype=dtype, adapter=args.adapter)
    return lm if args.adapter is None else _with_adapter_files(lm, args.adapter)


def _with_adapter_files(lm: Any, adapter: str) -> Any:
    """The model with the chat template and the sampling that are in an adapter's folder."""
    from pav_jax.language import chat, model_files

    tokenizer = lm.tokenizer
    if template := model_files.adapter_template(adapter, tokenizer):
        tokenizer = chat.with_template(tokenizer, template)
    generation = lm.generation | model_files.adapter_sampling(adapter)
    return dataclasses.replace(lm, tokenizer=tokenizer, generation=generation)


def _convert(args: argparse.Namespace, out: Path) -> None:
    from pav_jax.checkpoints.converters import convert

    remarks = convert(args.source, out, args.tokenizer, args.activation, args.max_shard_size)
    for remark in remarks:
        print(f"pav export: note: {remark}", file=sys.stderr)
