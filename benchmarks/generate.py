"""Videos per second of the mini generator, ours and diffusers', from one run on one machine in the same float32.

    python benchmarks/generate.py                 # the shipped generator
    python benchmarks/generate.py --random        # random weights of the same sizes
    python benchmarks/generate.py --folder=...    # any CogVideoX folder

Three rows: one guided model evaluation for the batch (denoiser), the decoder, and everything from prompts to uint8
frames. FLOPs are counted by formula (a multiplication and an addition are two), the same for both, so the GFLOP/s are
those achieved on the work the model asks for. The best of `--repeats` runs after a warm-up is printed.
"""

import argparse
import os
import tempfile
from pathlib import Path

import diffusers
import jax
import numpy as np
import torch
from machine import cpu_model, fastest
from rich.console import Console
from rich.table import Table

from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE, CogVideoXVAEConfig
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.video import Generation, VideoModel, schedulers
from pav_jax.video.cogvideox import CogVideoX

PROMPT = "a red ball bounces on green grass under soft light, the camera stays still"


def transformer_flops(config: CogVideoXConfig, latent_shape: tuple[int, int, int, int]) -> float:
    """One evaluation for one video: matrix products and attention."""
    t, h, w = config.grid(latent_shape[:3])
    video, text, width = t * h * w, config.max_text_seq_length, config.width
    tokens, temb = video + text, config.time_embed_dim
    layer = 24 * tokens * width**2 + 4 * tokens**2 * width + 24 * temb * width  # qkvo 8, feed-forward 16; modulation
    patch = config.patch_size**2 * (config.patch_size_t or 1)
    ends = 2 * video * width * patch * (config.in_channels + config.out_channels)
    ends += 2 * text * config.text_embed_dim * width + 2 * temb * (width + temb) + 4 * temb * width
    return config.num_layers * layer + ends


def text_flops(config: T5Config, tokens: int) -> float:
    heads = config.heads * config.head_size
    layer = 2 * tokens * config.width * (4 * heads + (3 if config.gated else 2) * config.ff_width)
    return config.layers * (layer + 4 * tokens**2 * heads)


def decoder_flops(config: CogVideoXVAEConfig, latent_shape: tuple[int, int, int, int]) -> float:
    """Convolutions of decoding one video in one chunk; the norms' 1x1x1 convolutions at latent size, as they can be."""
    t, h, w, channels = latent_shape
    latent = t * h * w

    def conv(taps: int, fan_in: int, fan_out: int, places: int) -> float:
        return 2.0 * taps * fan_in * fan_out * places

    def resnet(fan_in: int, fan_out: int, places: int) -> float:
        total = conv(27, fan_in, fan_out, places) + conv(27, fan_out, fan_out, places)
        total += conv(1, channels, 2 * (fan_in + fan_out), latent)
        return total + (conv(1, fan_in, fan_out, places) if fan_in != fan_out else 0.0)

    widths = config.block_out_channels[::-1]
    total = conv(27, channels, widths[0], latent) + 2 * resnet(widths[0], widths[0], latent)
    before = widths[0]
    for i, width in enumerate(widths):
        for _ in range(config.layers_per_block + 1):
            total += resnet(before, width, t * h * w)
            before = width
        if i < len(widths) - 1:
            if i < config.temporal_levels and t > 1:
                t = 2 * t - t % 2
            h, w = 2 * h, 2 * w
            total += conv(9, width, width, t * h * w)
    total += conv(1, channels, 2 * widths[-1], latent)
    return total + conv(27, widths[-1], config.out_channels, t * h * w)


def random_folder(folder: Path) -> None:
    """A pipeline of the mini generator's sizes with random weights."""
    from pav_jax.mini import train_generator as mini
    from pav_jax.mini import train_vae
    from pav_jax.mini.tokenizers import t5_tokenizer

    rng = np.random.default_rng(0)
    text, vae = mini.t5_config(), train_vae.CONFIG
    family = CogVideoX(t5_tokenizer(), T5Encoder(text), CogVideoXTransformer(mini.DENOISER), CogVideoXVAE(vae),
                       schedulers.load(mini.SCHEDULER))
    shapes = {"text_encoder": t5_hf.param_shapes(text), "transformer": transformer_hf.param_shapes(mini.DENOISER),
              "vae": vae_hf.param_shapes(vae)}
    params = jax.tree.map(lambda s: 0.05 * rng.standard_normal(s.shape, dtype=np.float32), shapes)
    VideoModel(family, params, Generation.from_dict(mini.GENERATION)).save_pretrained(folder)


def measure(folder: Path, batch: int | None, repeats: int) -> list[tuple[str, float, float, float, int]]:
    """Per row: what, GFLOP of the batch, our seconds, their seconds, videos in the batch."""
    ours = VideoModel.from_pretrained(folder, dtype="float32", batch=batch)
    theirs = diffusers.CogVideoXPipeline.from_pretrained(folder).to(torch.float32)
    theirs.set_progress_bar_config(disable=True)
    family, defaults = ours.family, ours.defaults
    sizes = [a or b for a, b in zip((defaults.num_frames, defaults.height, defaults.width), family.default_size(),
                                    strict=True)]
    shape, _ = family.latent_shape(*sizes)
    n, config = defaults.batch, family.transformer.config
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((n, *shape), dtype=np.float32)
    doubled = np.concatenate([latents, latents])
    text = rng.standard_normal((2 * n, config.max_text_seq_length, config.text_embed_dim), dtype=np.float32)
    guided = 2 if defaults.guidance_scale > 1 else 1
    times = np.full(2 * n, 500)

    evaluate = jax.jit(lambda p, *a: family.transformer.apply({"params": p["transformer"]}, *a))
    decode = jax.jit(family.decode)
    their_order = lambda x: torch.tensor(np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3)))  # noqa: E731
    rotary = config.rotary(shape[:3])
    their_rotary = rotary and tuple(torch.tensor(np.repeat(np.asarray(table), 2, axis=-1)) for table in rotary)
    torch_doubled, torch_text, torch_times = their_order(doubled), torch.tensor(text), torch.tensor(times)
    torch_latents = their_order(latents)

    def their_evaluation():
        with torch.no_grad():
            return theirs.transformer(torch_doubled, torch_text, torch_times, image_rotary_emb=their_rotary)

    def their_decoding():
        with torch.no_grad():
            return theirs.decode_latents(torch_latents)

    def their_videos():
        return theirs([PROMPT] * n, num_frames=sizes[0], height=sizes[1], width=sizes[2],
                      num_inference_steps=defaults.steps, guidance_scale=defaults.guidance_scale,
                      use_dynamic_cfg=defaults.use_dynamic_cfg, max_sequence_length=config.max_text_seq_length,
                      output_type="np").frames

    one, decoding = transformer_flops(config, shape), decoder_flops(family.vae.config, shape)
    reading = text_flops(family.text_encoder.config, config.max_text_seq_length)
    whole = guided * (defaults.steps * one + reading) + decoding
    runs = [
        ("denoiser, one guided step", 2 * one, lambda: evaluate(ours.params, doubled, text, times).block_until_ready(),
         their_evaluation),
        ("VAE decoder", decoding, lambda: decode(ours.params, latents).block_until_ready(), their_decoding),
        (f"whole, {defaults.steps} steps", whole, lambda: ours.generate([PROMPT] * n, seed=list(range(n))),
         their_videos),
    ]
    rows = []
    for name, flops, mine, peers in runs:
        rows.append((name, n * flops / 1e9, fastest(mine, repeats), fastest(peers, repeats), n))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "pav_jax/mini/checkpoints/generator")
    parser.add_argument("--random", action="store_true", help="random weights of the mini sizes")
    parser.add_argument("--batch", type=int, help="videos at once; the folder's own batch where not given")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder
        if arguments.random or not (folder / "model_index.json").exists():
            folder = Path(scratch)
            random_folder(folder)
        rows = measure(folder, arguments.batch, arguments.repeats)

    console = Console(width=110)
    table = Table("float32", "GFLOP/video", "ours videos/s", "diffusers videos/s", "ours/diffusers", "ours GFLOP/s",
                  "diffusers GFLOP/s")
    for name, gflop, mine, peers, n in rows:
        table.add_row(name, f"{gflop / n:.3g}", f"{n / mine:.3g}", f"{n / peers:.3g}", f"{peers / mine:.2f}",
                      f"{gflop / mine:.0f}", f"{gflop / peers:.0f}")
    console.print(f"{cpu_model()}, {os.cpu_count()} cores; jax {jax.__version__} on {jax.devices()[0].platform}, torch"
                  f" {torch.__version__} with {torch.get_num_threads()} threads, diffusers {diffusers.__version__};"
                  f" batch {rows[0][-1]}, weights {'random' if folder != arguments.folder else 'trained'}")
    console.print(table)


if __name__ == "__main__":
    main()
