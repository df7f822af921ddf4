"""Times tracing and compilation of a generator's programs in this process, and prints seconds as
JSON: text encoder, denoiser and those of the VAE's decoder.
Weights are not read.

    JAX_COMPILATION_CACHE_DIR=/tmp/cache python benchmarks/generate_compile.py \\
        --folder=... --num-inference-steps=2

With a filled persistent cache, a process still traces the programs but loads the compiled ones.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.video import families, sampling, video_model
from pav_jax.video.generation_config import GenerationConfig
from pav_jax.video.generation_request import video_size
from pav_jax.video.programs import Programs


class Recorder:
    """Takes the place of a program, and notes the shapes of its calls.

    Attributes:
      calls: the distinct calls, as (program, arguments, static arguments).
    """

    def __init__(self, program: Any):
        self.program = program
        self.calls: dict[str, tuple[Any, tuple, dict[str, Any]]] = {}

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        shapes = jax.tree.map(_shape, arguments)
        kinds = jax.tree.map(lambda x: x if hasattr(x, "shape") else type(x), shapes)
        self.calls.setdefault(f"{kinds} {static}", (self.program, shapes, static))
        return self.program(*arguments, **static)


def _shape(argument: Any) -> Any:
    if isinstance(argument, jax.Array):
        return jax.ShapeDtypeStruct(argument.shape, argument.dtype)
    return argument  # a number


def programs(
    family: Any, settings: GenerationConfig
) -> Iterator[tuple[str, Any, tuple, dict[str, Any]]]:
    """The programs that `pav_jax.video.programs` runs to make one batch of videos.

    Yields:
      (name, program, arguments as shapes, static arguments).
    """
    compiled = Programs(family)
    recorders = {
        name: Recorder(getattr(compiled, name))
        for name, member in vars(Programs).items()
        if isinstance(member, functools.cached_property)
    }

    def decoder(function: Callable[..., Any]) -> Recorder:
        name = function.__name__
        return recorders.setdefault(name, Recorder(Programs.decoder(compiled, function)))

    vars(compiled).update(recorders, decoder=decoder)
    latent_shape, num_latent_frames = family.latent_shape(*video_size(family, settings))
    scales = family.guidance_scales(settings)

    def make_batch(params: dict, token_ids: jax.Array, keys_B: jax.Array) -> Any:
        text = compiled.encoder({"text_encoder": params["text_encoder"]}, token_ids)
        latents = compiled.denoise(
            params, text, text, None, keys_B, scales, latent_shape, num_latent_frames
        )
        return compiled.decode(params, latents, tiled=settings.vae_tiling)

    tokens = jax.ShapeDtypeStruct((settings.batch_size, family.sequence_length(None)), jnp.int32)
    keys = jax.eval_shape(lambda: sampling.video_keys((0,) * settings.batch_size))
    jax.eval_shape(make_batch, family.param_shapes(), tokens, keys)
    for name, recorder in recorders.items():
        for number, call in enumerate(recorder.calls.values(), 1):
            yield name if len(recorder.calls) == 1 else f"{name} {number}", *call


def time_in_processes(
    folder: Path, batch: int | None, steps: int, gpu: bool
) -> list[dict[str, dict[str, float]]]:
    """Seconds of every program in a process with an empty compilation cache, and in one with a
    filled cache."""
    command = [
        sys.executable,
        __file__,
        f"--folder={folder}",
        f"--num-inference-steps={steps}",
        f"--dtype={'bfloat16' if gpu else 'float32'}",
    ]
    if batch is not None:
        command.append(f"--batch-size={batch}")
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        return [
            json.loads(
                subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
            )
            for _ in range(2)
        ]


def main() -> None:
    """Times the programs of the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--num-inference-steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--vae-tiling", action="store_true", default=None)
    arguments = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Starts the backend, which is not part of compilation.
    jax.jit(lambda x: x + 1)(0).block_until_ready()

    family_class = families.family_class(arguments.folder)
    settings = families.saved_settings(family_class, arguments.folder).replace(
        "command line",
        num_inference_steps=arguments.num_inference_steps,
        batch_size=arguments.batch_size,
        vae_tiling=arguments.vae_tiling,
    )
    family = family_class.outline(arguments.folder, video_model.DTYPES[arguments.dtype])
    seconds = {}
    for name, program, shapes, static in programs(family, settings):
        start = time.perf_counter()
        lowered = program.lower(*shapes, **static)
        traced = time.perf_counter()
        lowered.compile()
        seconds[name] = {"trace": traced - start, "compile": time.perf_counter() - traced}
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
