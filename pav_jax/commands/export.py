"""`pav export`: a model in another format."""

import argparse
from typing import Any

FORMATS = ("hf", "peft", "gguf", "pav")
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q4_0")  # as in checkpoints/gguf_writer.py


def add(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help=(
            "write a booster for transformers, PEFT or llama.cpp; a published reward model for pav"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Writes a language model (a folder, a .gguf file, or a base model with an adapter) in"
            " the format\nof other programs. hf: a folder that transformers.AutoModelForCausalLM"
            " loads, with a model card.\npeft: the adapter alone, to be put on the model that"
            " training started from; the adapters of\nearlier stages are joined to it. gguf: one"
            " file for llama.cpp.\npav: the other way round, a reward model as its authors publish"
            " it as a folder that pav loads:\nMPS_overall_checkpoint, LAION's aesthetic heads"
            " (.pth), CLIP in open_clip's layout, VideoScore."
        ),
        epilog="""\
examples:
  pav export --from=runs/mini/round_2/booster --to=hf --out=my-booster
  pav export --from=runs/mini/round_2/booster --to=peft --out=my-adapter
  pav export --from=smollm2 --to=gguf --quantization=q8_0 --out=model.gguf
  pav export --from=meta-llama/Meta-Llama-3-8B-Instruct --adapter=adapter --to=hf --out=merged
  pav export --from=sa_0_4_vit_l_14_linear.pth --to=pav --out=aesthetic_head
  pav export --from=MPS_overall_checkpoint.pth --to=pav --tokenizer=laion/CLIP-ViT-H-14-laion2B-s32B-b79K --out=mps""",
    )
    command.add_argument(
        "--from", dest="source", required=True, help="the model: a folder, a hub id or a .gguf file"
    )
    command.add_argument("--to", choices=FORMATS, default="hf", help="default hf")
    command.add_argument(
        "--out", required=True, help="the folder to write, new or empty; of gguf the new file"
    )
    command.add_argument("--adapter", help="a LoRA adapter to merge into the model")
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16",
        help="of the weights that hf writes (default bfloat16)",
    )
    command.add_argument(
        "--quantization", choices=QUANTIZATIONS, default="bf16", help="of gguf (default bf16)"
    )
    command.add_argument(
        "--tokenizer",
        help=(
            "of pav, for a CLIP or MPS: the folder or hub id with CLIP's tokenizer"
            " (default: beside the file)"
        ),
    )
    command.add_argument(
        "--activation",
        choices=("gelu", "quick_gelu"),
        help="of pav, for a CLIP: which its file was trained with, where nothing beside it says",
    )
    command.add_argument(
        "--max-shard-size", default="5GB", help="largest weight file (default 5GB)"
    )
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from pav_jax.errors import BadInput

    out = Path(args.out)
    if out.exists() and (args.to == "gguf" or not out.is_dir() or any(out.iterdir())):
        kind = "file" if args.to == "gguf" else "folder"
        raise BadInput(f"--out={args.out}: already holds something; name a new {kind}")
    if args.to == "peft" and args.adapter:
        raise BadInput(
            "--adapter is merged into a model; --to=peft writes the adapter of a booster, leave"
            " it out"
        )
    if args.to == "pav":
        if args.adapter:
            raise BadInput(
                "--adapter is merged into a language model; --to=pav converts reward models, leave"
                " it out"
            )
        return _convert(args)
    if args.tokenizer or args.activation:
        raise BadInput("--tokenizer and --activation are of --to=pav; leave them out")

    from pav_jax.language.language_model import LanguageModel

    if args.to == "peft":
        from pav_jax.language.adapters import joined_adapter, write_joined

        write_joined(out, joined_adapter(args.source))
    else:
        dtype = args.dtype if args.to == "hf" else "float32"
        model = LanguageModel.from_pretrained(args.source, dtype=dtype, adapter=args.adapter)
        if args.to == "gguf":
            model.save_gguf(out, args.quantization)
        else:
            from pav_jax.report.model_card import write_model_card

            model.save_pretrained(out, max_shard_size=args.max_shard_size)
            write_model_card(out, model.path)
    print(args.out)


def _convert(args: argparse.Namespace) -> None:
    import sys

    from pav_jax.checkpoints.converters import convert

    for remark in convert(
        args.source, args.out, args.tokenizer, args.activation, args.max_shard_size
    ):
        print(f"pav export: note: {remark}", file=sys.stderr)
    print(args.out)
