"""Times video generation against diffusers in torch, on one machine with the same weights, noise
and dtype.

    python benchmarks/generate.py                     # the embedded CogVideoX, float32 on the CPU
    python benchmarks/generate.py --model=cogvideox   # random weights: width 512, 8 layers
    python benchmarks/generate.py --model=wan         # a Wan of these sizes
    python benchmarks/generate.py --model=wan22       # a Wan 2.2 TI2V, with its residual VAE
    python benchmarks/generate.py --model=wan --gpu   # Wan 2.1 1.3B's sizes, bfloat16, on a GPU
    python benchmarks/generate.py --folder=...        # any folder of either family

Prints four rows: the text encoder on one batch, one guided evaluation of the denoiser, decoding,
and everything from prompts to frames in `--num-inference-steps` steps. FLOPs are counted by
formula, the same for both sides, so that FLOP/s refer to the work that the model needs; "of peak"
is their share of what the device can reach. The two sides alternate, `--repeats` times after a
warm-up; the best time of each is printed, and the largest difference of their outputs. With
JAX_NUM_CPU_DEVICES=2 pav_jax splits over two devices what torch splits over two threads: videos, or
the two branches of guidance if there is one video.

Compilation is timed in separate processes, without import and loading, with an empty and with a
filled persistent compilation cache of JAX.
"""

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU both sides need memory
import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import generate_models
from generate_compile import time_in_processes
from machine import cpu_model, product_rate, write_result
from pav_jax.parallel.chips import peak_flops
from pav_jax.parallel.mesh import batch_mesh, make_mesh
from pav_jax.video import VideoModel
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.programs import shard_batch

PROMPT = "a red ball bounces on green grass under soft light, the camera stays still"
MINI = Path(__file__).parents[1] / "pav_jax/mini/checkpoints/generator"
PIPELINES = {"CogVideoX": diffusers.CogVideoXPipeline, "Wan": diffusers.WanPipeline}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      name: what is timed.
      flops: of the batch.
      ours: seconds of pav_jax.
      theirs: seconds of diffusers.
      difference: largest difference of the outputs relative to the largest value; for uint8 frames
        beyond the rounding error.
    """

    name: str
    flops: float
    ours: float
    theirs: float
    difference: float


class Ours:
    """The four timed calls of pav_jax. Each returns a numpy array in the axis order of
    diffusers."""

    def __init__(self, folder: Path, dtype: str, **defaults: Any):
        loaded = VideoModel.from_pretrained(folder, dtype=dtype, **defaults)
        n = loaded.settings.batch_size
        devices = jax.local_devices()
        if n == 1 and len(devices) > 1:
            mesh = make_mesh(data=2, devices=devices[:2])
            loaded = VideoModel(
                loaded.family,
                loaded.params,
                loaded.settings.replace("", cfg_parallel=True),
                mesh,
                auxiliary_mesh=make_mesh(devices=devices[:1]),
            )
        elif (mesh := batch_mesh(n, devices)) is not None:
            loaded = VideoModel(loaded.family, loaded.params, loaded.settings, mesh)
        self.model = loaded
        self.family = loaded.family
        self.params = loaded.params
        self.axes = ["videos", "frames", "height", "width", "channels"]
        self.order = [self.axes.index(axis) for axis in self.family.latent_axes]
        self._predict = jax.jit(
            lambda p, x, text, time: self.family.predict(p, x, text, text, time, 1.0)
        )

    def text(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(
            self.model.programs.encoder({"text_encoder": self.params["text_encoder"]}, ids),
            np.float32,
        )

    def evaluation(self, latents: np.ndarray, text: np.ndarray, time: float) -> np.ndarray:
        """The denoiser for both branches with the same text; at scale 1 guidance returns the
        positive branch."""
        out = self._predict(
            {"transformer": self.params["transformer"]}, latents, text, jnp.float32(time)
        )
        return np.asarray(out).transpose(self.order)

    def decoding(self, latents: np.ndarray) -> np.ndarray:
        programs = self.model.programs
        latents = shard_batch(latents, programs.mesh)  # as the denoiser returns them
        return np.asarray(programs.decode(self.params, latents, False)[0])

    def videos(self, prompts: list[str], latents: np.ndarray) -> np.ndarray:
        self.model.programs.clear_cache()  # otherwise only the first run would encode texts
        return self.model.generate(prompts, latents=latents.transpose(self.order))


class Theirs:
    """The same calls of a diffusers pipeline."""

    def __init__(self, folder: Path, ours: Ours, device: str, dtype: torch.dtype):
        self.ours = ours
        self.device = device
        self.dtype = dtype
        kind = type(ours.family).__name__
        self.pipeline = PIPELINES[kind].from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        self.pipeline.to(device)
        if kind == "Wan" and device != "cpu":
            self.pipeline.vae.to(torch.float32)  # as its authors do, and pav_jax
        self.pipeline.set_progress_bar_config(disable=True)

    def tensor(self, array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(array)).to(self.device, dtype or self.dtype)

    def text(self, ids: np.ndarray) -> np.ndarray:
        ids = self.tensor(ids, torch.int64)
        encoder = self.pipeline.text_encoder
        if isinstance(self.ours.family, CogVideoX):
            return encoder(ids)[0].float().cpu().numpy()
        mask = (ids != self.ours.family.text_encoder.config.pad_id).long()
        return (encoder(ids, mask).last_hidden_state * mask[..., None]).float().cpu().numpy()

    def evaluation(self, latents: np.ndarray, text: np.ndarray, time: float) -> np.ndarray:
        x = self.tensor(latents.transpose(self.ours.order))
        text = self.tensor(text)
        times = torch.full((2 * len(x),), time, device=self.device)
        x = torch.cat([x, x])
        text = torch.cat([text, text])
        rotary = {}
        if isinstance(self.ours.family, CogVideoX):
            tables = self.ours.family.transformer.config.rotary(latents.shape[1:4])
            rotary["image_rotary_emb"] = tables and tuple(
                self.tensor(np.repeat(np.asarray(table), 2, axis=-1), torch.float32)
                for table in tables
            )
        out = self.pipeline.transformer(
            hidden_states=x, encoder_hidden_states=text, timestep=times, return_dict=False, **rotary
        )[0]
        return out[len(latents) :].float().cpu().numpy()

    def decoding(self, latents: np.ndarray) -> np.ndarray:
        vae = self.pipeline.vae
        x = latents
        if isinstance(self.ours.family, CogVideoX):
            video = self.pipeline.decode_latents(self.tensor(x.transpose(self.ours.order)))
        else:
            x = np.asarray(self.ours.family.vae.config.unscale(x)).transpose(self.ours.order)
            video = vae.decode(self.tensor(x, vae.dtype), return_dict=False)[0]
        return self.pipeline.video_processor.postprocess_video(video, output_type="np")

    def videos(self, prompts: list[str], latents: np.ndarray) -> np.ndarray:
        used = self.ours.model.settings
        family = self.ours.family
        dynamic = {"use_dynamic_cfg": used.use_dynamic_cfg} if isinstance(family, CogVideoX) else {}
        frames, height, width = sizes(self.ours.model)
        latents = self.tensor(latents.transpose(self.ours.order))
        return self.pipeline(
            prompts,
            num_frames=frames,
            height=height,
            width=width,
            num_inference_steps=used.num_inference_steps,
            guidance_scale=used.guidance_scale,
            max_sequence_length=family.sequence_length(None),
            latents=latents,
            output_type="np",
            **dynamic,
        ).frames


def sizes(model: VideoModel) -> tuple[int, int, int]:
    """Frames, height and width of the videos."""
    settings = model.settings
    num_frames, height, width = model.family.default_size()
    return settings.num_frames or num_frames, settings.height or height, settings.width or width


def time_alternating(
    mine: Callable, peers: Callable, repeats: int
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Fastest seconds of each, and the outputs of each."""
    with torch.no_grad():
        ours = mine()
        theirs = peers()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            mine()
            middle = time.perf_counter()
            peers()
            seconds.append((middle - start, time.perf_counter() - middle))
    return *map(min, zip(*seconds, strict=True)), ours, theirs


def measure(
    folder: Path, batch: int | None, steps: int | None, repeats: int, gpu: bool
) -> tuple[list[Row], VideoModel]:
    dtype = "bfloat16" if gpu else "float32"
    ours = Ours(folder, dtype, batch_size=batch, num_inference_steps=steps)
    theirs = Theirs(folder, ours, "cuda" if gpu else "cpu", getattr(torch, dtype))
    model = ours.model
    family = ours.family
    shape, _ = family.latent_shape(*sizes(model))
    n = model.settings.batch_size
    used = model.settings
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((n, *shape), dtype=np.float32)
    ids, _ = family.tokenize([PROMPT] * n, family.sequence_length(None))
    text = ours.text(ids)
    flops_of = generate_models.Operations.of(family, shape)
    branches = 2 if used.guidance_scale > 1 else 1
    calls = [
        ("text encoder", flops_of.text, "text", (ids,)),
        ("denoiser, guided", 2 * flops_of.denoiser, "evaluation", (latents, text, 500.0)),
        ("VAE decoder", flops_of.decoder, "decoding", (latents,)),
        (
            f"whole, {used.num_inference_steps} steps",
            branches * (used.num_inference_steps * flops_of.denoiser + flops_of.text)
            + flops_of.decoder,
            "videos",
            ([PROMPT] * n, latents),
        ),
    ]
    rows = []
    for name, flops, method, args in calls:
        run = [
            lambda side=side, method=method, args=args: getattr(side, method)(*args)
            for side in (ours, theirs)
        ]
        mine, peers, a, b = time_alternating(*run, repeats)
        if a.dtype == np.uint8:
            difference = max(np.abs(a / 255.0 - b).max() - 0.5 / 255.0, 0.0)
        else:
            difference = np.abs(a - b).max() / np.abs(b).max()
        rows.append(Row(name, n * flops, mine, peers, float(difference)))
    return rows, model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=tuple(generate_models.BUILDERS), default="mini")
    parser.add_argument(
        "--folder", type=Path, help="a pipeline with weights, instead of random ones"
    )
    parser.add_argument(
        "--random", action="store_true", help="random weights also for the mini sizes"
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="published sizes in bfloat16, on a GPU that both sides see",
    )
    parser.add_argument("--batch-size", type=int, help="videos at once; default: the folder's")
    parser.add_argument(
        "--num-inference-steps",
        type=int,
        help="steps of the last row; default: 2, for mini its own",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result there, as --json=FILE")
    arguments = parser.parse_args()
    if arguments.gpu and (jax.default_backend() != "gpu" or not torch.cuda.is_available()):
        parser.error(
            "--gpu: jax and torch must both see a GPU; install 'jax[cuda12]' and a torch with CUDA"
        )
    if arguments.gpu and arguments.model == "mini":
        parser.error("--gpu: choose --model=cogvideox, --model=wan or --model=wan22")

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder
        model = arguments.model
        steps = arguments.num_inference_steps
        if folder is None and model == "mini" and not arguments.random:
            folder = MINI
        if folder is None:
            folder = Path(scratch) / model
            generate_models.write_folder(model, folder, arguments.gpu)
        if folder.parent == Path(scratch) and model != "mini":
            steps = steps or 2
        rows, made = measure(folder, arguments.batch_size, steps, arguments.repeats, arguments.gpu)
        compiled = time_in_processes(
            folder, arguments.batch_size, made.settings.num_inference_steps, arguments.gpu
        )
    # what a CPU reaches depends on the machine and on what else it does
    best = peak_flops(jax.devices()[0].device_kind) if arguments.gpu else product_rate()
    show(rows, made, compiled, arguments.gpu, best)
    result = {"rows": list(map(dataclasses.asdict, rows)), "compiled": compiled}
    result |= {"batch_size": made.settings.batch_size, "peak_flops_per_second": best}
    write_result(arguments.json, result)


def show(
    rows: list[Row], model: VideoModel, compiled: list[dict], gpu: bool, best: float | None
) -> None:
    """Print the tables.

    Args:
      best: FLOP/s that the device can reach; None: unknown.
    """
    console = Console(width=120)
    device = jax.devices()[0]
    frames, height, width = sizes(model)
    family = model.family
    vae = family.vae.config
    channels = getattr(vae, "block_out_channels", None) or [vae.base_dim * m for m in vae.dim_mult]
    console.print(
        f"{device.device_kind if gpu else cpu_model()}, {os.cpu_count()} cores, load"
        f" {os.getloadavg()[0]:.1f}; jax {jax.__version__} on {jax.local_device_count()}"
        f" {device.platform}, torch {torch.__version__} with {torch.get_num_threads()} threads,"
        f" diffusers {diffusers.__version__}\n{type(family).__name__}, width"
        f" {family.transformer.config.width}, {family.transformer.config.num_layers} layers; VAE of"
        f" {', '.join(map(str, channels))} channels;"
        f" {model.settings.batch_size} videos of {frames} x {height} x {width}"
    )
    table = Table(
        "bfloat16" if gpu else "float32",
        "GFLOP",
        "ours s",
        "diffusers s",
        "ours/diffusers",
        "ours GFLOP/s",
        "diffusers GFLOP/s",
        "difference",
        *(["ours of peak", "diffusers of peak"] if best else []),
    )
    for row in rows:
        rates = row.flops / row.ours, row.flops / row.theirs
        table.add_row(
            row.name,
            f"{row.flops / 1e9:.4g}",
            f"{row.ours:.3g}",
            f"{row.theirs:.3g}",
            f"{row.theirs / row.ours:.2f}",
            *(f"{rate / 1e9:.0f}" for rate in rates),
            f"{row.difference:.1e}",
            *(f"{rate / best:.0%}" for rate in rates if best),
        )
    console.print(table)
    if best:
        name = "the chip's peak" if gpu else "a large float32 matrix product by numpy"
        console.print(f"peak: {name}, {best / 1e9:.0f} GFLOP/s")
    table = Table("seconds to", *compiled[0], "all")
    for kind in ("trace", "compile"):
        for label, process in zip(("", ", cached"), compiled, strict=True):
            seconds = [program[kind] for program in process.values()]
            table.add_row(kind + label, *(f"{s:.2f}" for s in [*seconds, sum(seconds)]))
    console.print(table)
    cold, warm = (
        np.sum([[p["compile"], p["trace"]] for p in process.values()], axis=0)
        for process in compiled
    )
    console.print(
        f"the persistent cache makes compilation {cold[0] / warm[0]:.1f} times faster;"
        f" {cold.sum() / warm.sum():.1f} times including tracing, which it does not save"
    )


if __name__ == "__main__":
    main()
