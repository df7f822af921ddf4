"""Seconds that tracing and compiling a generator's three programs take in this process, as JSON;
weights are not read.

    JAX_COMPILATION_CACHE_DIR=/tmp/cache python benchmarks/generate_compile.py --folder=... --steps=2

A process that finds the programs in JAX's persistent cache traces them all the same, and loads what
the first compiled.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from pav_jax.video import families, sampling, video_model
from pav_jax.video.programs import Programs


def programs(
    folder: Path, dtype: str, steps: int, batch: int | None
) -> Iterator[tuple[str, jax.stages.Wrapped, tuple, dict]]:
    """Name, program, its arguments as shapes, and those that are static."""
    kind = families.family_class(folder)
    used = families.saved_settings(kind, folder).replace(
        "command line", num_inference_steps=steps, batch_size=batch
    )
    family = kind.outline(folder, video_model.DTYPES[dtype])
    size = tuple(
        a or b
        for a, b in zip(
            (used.num_frames, used.height, used.width), family.default_size(), strict=True
        )
    )
    latent_shape, keep = family.latent_shape(*size)
    shapes, made = family.param_shapes(), Programs(family)
    scales = sampling.guidance_scales(
        family.scheduler.timesteps(steps), used.guidance_scale, used.use_dynamic_cfg
    )
    read = (
        {"text_encoder": shapes["text_encoder"]},
        jax.ShapeDtypeStruct((used.batch_size, family.sequence_length(None)), jnp.int32),
    )
    text = jax.eval_shape(family.encode_text, *read)
    keys = jax.eval_shape(lambda: sampling.video_keys((0,) * used.batch_size))
    latents = jax.ShapeDtypeStruct((used.batch_size, keep, *latent_shape[1:]), jnp.float32)
    yield "text encoder", made.encoder, read, {}
    yield (
        "denoiser",
        made.denoiser,
        ({"transformer": shapes["transformer"]}, text, text, None, keys, scales),
        dict(latent_shape=latent_shape, keep=keep),
    )
    yield (
        "VAE decoder",
        made.decoder,
        ({"vae": shapes["vae"]}, latents),
        dict(tiled=used.vae_tiling),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int)
    arguments = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x + 1)(
        0
    ).block_until_ready()  # starts the back end, which is no part of compiling

    seconds = {}
    for name, program, shapes, static in programs(
        arguments.folder, arguments.dtype, arguments.steps, arguments.batch
    ):
        start = time.perf_counter()
        lowered = program.lower(*shapes, **static)
        traced = time.perf_counter()
        lowered.compile()
        seconds[name] = {"trace": traced - start, "compile": time.perf_counter() - traced}
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
