"""Rewrite a prompt and give it to a diffusers pipeline.

pip install '.[torch]' diffusers  # in a copy of the repository
python examples/diffusers_pipeline.py 'a girl is playing guitar -neg "blur"'
"""

import argparse

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_gif

import pav_jax as pav


def main(prompt: str, pipeline: str, booster: str | None, out: str, **arguments) -> None:
    rewriter = pav.Booster.from_pretrained(booster)
    ((refinement,),) = rewriter.refine(prompt, seed=0)
    # `refined` is the text with the flags as they were typed; `settings` has their values
    print(refinement.text)

    pipe = DiffusionPipeline.from_pretrained(
        pipeline, dtype=torch.bfloat16, use_safetensors=True, trust_remote_code=False
    )
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    frames = pipe(
        refinement.text,
        negative_prompt=refinement.negative_prompt or None,
        output_type="pil",
        **arguments,
    )
    export_to_gif(frames.frames[0], out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--pipeline", default="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    parser.add_argument(
        "--booster", help="a folder, Hub id or .gguf file; default: the one for CogVideoX"
    )
    parser.add_argument("--out", default="video.gif")
    arguments = parser.parse_args()
    main(arguments.prompt, arguments.pipeline, arguments.booster, arguments.out)
