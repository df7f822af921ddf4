"""`pav export`: a model in another format."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    command = commands.add_parser(
        "export", help="write a booster as a Hugging Face folder", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Writes a language model (a folder, a .gguf file, or a base model with an adapter) as one folder\n"
                    "that transformers.AutoModelForCausalLM loads.",
        epilog="""\
examples:
  pav export --from=runs/mini/round_2/booster --to=hf --out=my-booster
  pav export --from=model.gguf --to=hf --out=model-hf
  pav export --from=meta-llama/Meta-Llama-3-8B-Instruct --adapter=adapter --to=hf --out=merged""")
    command.add_argument("--from", dest="source", required=True, help="the model: a folder, a hub id or a .gguf file")
    command.add_argument("--to", choices=("hf",), default="hf", help="hf: config.json, tokenizer and safetensors")
    command.add_argument("--out", required=True, help="the folder to write; must be new or empty")
    command.add_argument("--adapter", help="a LoRA adapter to merge into the model")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the written weights")
    command.add_argument("--max-shard-size", default="5GB", help="largest weight file (default 5GB)")
    command.set_defaults(handler=run, parser=command)


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from pav_jax.errors import BadInput

    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"--out={args.out}: already holds something; name a new folder")

    from pav_jax.language.language_model import LanguageModel

    model = LanguageModel.from_pretrained(args.source, dtype=args.dtype, adapter=args.adapter)
    model.save_pretrained(args.out, max_shard_size=args.max_shard_size)
    print(args.out)
