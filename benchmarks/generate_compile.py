"""Times tracing and compilation of a generator's three programs in this process, and prints seconds
as JSON. Weights are not read.

    JAX_COMPILATION_CACHE_DIR=/tmp/cache python benchmarks/generate_compile.py \\
        --folder=... --num-inference-steps=2

With a filled persistent cache, a process still traces the programs but loads the compiled ones.
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
    """Yields each program's name, the program, the shapes of its arguments, and its static
    arguments."""
    family_class = families.family_class(folder)
    settings = families.saved_settings(family_class, folder)
    settings = settings.replace("command line", num_inference_steps=steps, batch_size=batch)
    family = family_class.outline(folder, video_model.DTYPES[dtype])
    num_frames, height, width = family.default_size()
    latent_shape, keep = family.latent_shape(
        settings.num_frames or num_frames, settings.height or height, settings.width or width
    )
    shapes = family.param_shapes()
    compiled = Programs(family)
    scales = sampling.guidance_scales(
        family.scheduler.timesteps(steps), settings.guidance_scale, settings.use_dynamic_cfg
    )
    encoder_inputs = (
        {"text_encoder": shapes["text_encoder"]},
        jax.ShapeDtypeStruct((settings.batch_size, family.sequence_length(None)), jnp.int32),
    )
    text = jax.eval_shape(family.encode_text, *encoder_inputs)
    keys = jax.eval_shape(lambda: sampling.video_keys((0,) * settings.batch_size))
    latents = jax.ShapeDtypeStruct((settings.batch_size, keep, *latent_shape[1:]), jnp.float32)
    yield "text encoder", compiled.encoder, encoder_inputs, {}
    yield (
        "denoiser",
        compiled.denoiser,
        ({"transformer": shapes["transformer"]}, text, text, None, keys, scales),
        dict(latent_shape=latent_shape, decoded_latent_frames=keep),
    )
    yield (
        "VAE decoder",
        compiled.decoder,
        ({"vae": shapes["vae"]}, latents),
        dict(tiled=settings.vae_tiling),
    )


def main() -> None:
    """Times the programs of the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--num-inference-steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # Starts the backend, which is not part of compilation.
    jax.jit(lambda x: x + 1)(0).block_until_ready()

    seconds = {}
    for name, program, shapes, static in programs(
        arguments.folder, arguments.dtype, arguments.num_inference_steps, arguments.batch_size
    ):
        start = time.perf_counter()
        lowered = program.lower(*shapes, **static)
        traced = time.perf_counter()
        lowered.compile()
        seconds[name] = {"trace": traced - start, "compile": time.perf_counter() - traced}
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
