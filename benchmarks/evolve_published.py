"""The published system's order of work with torch, diffusers and transformers, for
benchmarks/evolve.py, which starts this script as a process of its own.

Source: Prompt-A-Video (arXiv 2412.15156), booster/finetuning/gpt_boost.py. One prompt after the
other: the language model proposes rewrites, the generator makes their videos one at a time, the
judges score them one at a time, and the results of all prompts so far are written after each
prompt. The language model stands in for the remote one of the published system. Between these
steps the models that are not needed leave the device. On a machine with one memory `.to` would do
nothing, so weights are copied to other memory instead, once in and once out; these copies are timed
on their own.

All in float32, in inference mode, with one thread per core. The texts are those that pav_jax
proposed, and the initial noise is the same. Sampling cannot draw the same tokens, so the language
model decodes as many as the longest of pav_jax's answers to that prompt had.
"""

import argparse
import contextlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

import score_models
from pav_jax.checkpoints.safetensors import read_tensors
from pav_jax.models.mps import hf as mps_hf
from pav_jax.rewards.aesthetic import HEAD_FOLDER
from pav_jax.rewards.clip_tower import contact_sheet
from pav_jax.rewards.idefics2_processor import Idefics2Processor
from pav_jax.rewards.mps import condition_text
from pav_jax.rewards.preprocess import frame_indices, frames_at_most
from pav_jax.rewards.videoscore import FRAME, NAMES, SLOT

LOCAL = {"local_files_only": True}


class Stopwatch:
    """Seconds by activity."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def time(self, activity: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - start


def copy_weights(modules: Sequence[torch.nn.Module]) -> None:
    """Copy every parameter and buffer to other memory, as `.to` does between two devices."""
    for module in modules:
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            tensor.data = tensor.data.clone()


class Proposer:
    """A language model that rewrites a prompt."""

    def __init__(self, folder: Path, sampling: Mapping[str, Any]):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, **LOCAL
        )
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, **LOCAL
        ).eval()
        self.modules = [self.model]
        self.sampling = dict(sampling)

    def propose(self, prompt: str, count: int, num_tokens: int) -> list[str]:
        """Rewrites of exactly `num_tokens` tokens each."""
        inputs = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        answers = self.model.generate(
            **inputs,
            do_sample=True,
            num_return_sequences=count,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            **self.sampling,
        )
        start = inputs["input_ids"].shape[1]
        return self.tokenizer.batch_decode(answers[:, start:], skip_special_tokens=True)


class Generator:
    """CogVideoX by diffusers."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.pipeline = diffusers.CogVideoXPipeline.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **LOCAL
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.modules = [self.pipeline.text_encoder, self.pipeline.transformer, self.pipeline.vae]
        self.settings = dict(settings)

    def generate(self, text: str, latents: np.ndarray) -> np.ndarray:
        """Frames float32 [T, H, W, 3] in 0..1; latents [1, t, C, h, w]."""
        return self.pipeline(
            text, latents=torch.tensor(latents), output_type="np", **self.settings
        ).frames[0]


class VideoScore:
    """VQ, TC, DD, TVA and FC by Idefics2."""

    def __init__(self, folder: Path, frames: int):
        self.judge = score_models.TorchVideoScore.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, **LOCAL
        ).eval()
        self.modules = [self.judge]
        config = self.judge.config
        self.frames = frames
        self.query = (folder / "query.txt").read_text(encoding="utf-8")
        self.processor = Idefics2Processor.from_folder(
            folder, config.perceiver_config.resampler_n_latents, config.image_token_id
        )
        self.images = Idefics2ImageProcessorPil.from_pretrained(folder)

    def score(self, video: np.ndarray, prompt: str) -> dict[str, float]:
        frames = video[frames_at_most(len(video), self.frames)]
        text = self.query.replace(SLOT, prompt) + FRAME * len(frames)
        ids = torch.from_numpy(self.processor.texts([text])[0]).long()
        pixels = self.images([list(frames)], return_tensors="pt")
        scores = self.judge(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels)
        return dict(zip(NAMES, scores[0].tolist(), strict=True))


class Aesthetic:
    """AES by CLIP, of a sheet of frames."""

    def __init__(self, folder: Path, frames: int):
        self.clip = transformers.CLIPModel.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, **LOCAL
        ).eval()
        self.modules = [self.clip.vision_model, self.clip.visual_projection]
        self.frames = frames
        self.images = CLIPImageProcessorPil.from_pretrained(folder)
        head = read_tensors(folder / HEAD_FOLDER)
        self.weight, self.bias = (
            torch.from_numpy(head[name].astype(np.float32)) for name in ("weight", "bias")
        )

    def score(self, video: np.ndarray, prompt: str) -> dict[str, float]:
        frames = video[frame_indices(len(video), self.frames)]
        sheet = contact_sheet(frames[None])[0]
        pixels = self.images(list(sheet), return_tensors="pt")["pixel_values"]
        image = self.clip.visual_projection(self.clip.vision_model(pixels).pooler_output)
        image = torch.nn.functional.normalize(image, dim=-1)
        return {"AES": float((image @ self.weight.T + self.bias).mean())}


class MPS:
    """MPS, of evenly spaced frames."""

    def __init__(self, folder: Path, frames: int):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        raw = {name: config[name] for name in ("text_config", "vision_config", "projection_dim")}
        self.towers = transformers.CLIPModel(transformers.CLIPConfig(**raw)).eval()
        self.modules = [self.towers]
        self.cross = mps_hf.config_from_hf(config).cross
        file = read_tensors(folder)
        self.weights = {name: torch.from_numpy(file[name].astype(np.float32)) for name in file}
        state = {
            name.removeprefix("model."): tensor
            for name, tensor in self.weights.items()
            if name.startswith("model.")
        }
        missing, unexpected = self.towers.load_state_dict(state, strict=False)
        assert not unexpected and all("post_layernorm" in n or "position_ids" in n for n in missing)
        self.frames = frames
        self.images = CLIPImageProcessorPil.from_pretrained(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, config=transformers.CLIPConfig(), trust_remote_code=False, **LOCAL
        )
        with torch.inference_mode():
            ids = self.tokens(condition_text(folder / "condition.txt"))
            hidden = self.towers.text_model(ids).last_hidden_state
            self.condition = self.towers.text_projection(hidden)[0]

    def tokens(self, text: str) -> torch.Tensor:
        length = self.towers.config.text_config.max_position_embeddings
        return self.tokenizer(
            [text], truncation=True, max_length=length, padding="max_length", return_tensors="pt"
        )["input_ids"]

    def score(self, video: np.ndarray, prompt: str) -> dict[str, float]:
        frames = video[frame_indices(len(video), self.frames)]
        pixels = self.images(list(frames), return_tensors="pt")["pixel_values"]
        towers = self.towers
        text = towers.text_model(self.tokens(prompt))
        words = towers.text_projection(text.last_hidden_state)
        end = towers.text_projection(text.pooler_output)
        best = (words @ self.condition.T).max(-1).values
        mask = best / best.max(-1, keepdim=True).values > score_models.RELEVANT
        image = towers.visual_projection(towers.vision_model(pixels).last_hidden_state)
        words, end, mask = (x.expand(len(frames), *x.shape[1:]) for x in (words, end, mask))
        seen = score_models.read(image, words, mask, self.cross, self.weights)
        cosines = torch.cosine_similarity(end, seen[:, 0])
        return {"MPS": float((towers.logit_scale.exp() * cosines).mean())}


class Loop:
    """The published loop over the prompts of a work file."""

    def __init__(self, work: Mapping[str, Any]):
        folder = Path(work["checkpoints"])
        frames = work["frames"]
        self.proposer = Proposer(folder / "rewriter", work["sampling"])
        self.generator = Generator(folder / "generator", work["generation"])
        self.judges = [
            VideoScore(folder / "videoscore", frames["videoscore"]),
            Aesthetic(folder / "clip", frames["aesthetic"]),
            MPS(folder / "mps", frames["mps"]),
        ]
        self.judge_modules = [module for judge in self.judges for module in judge.modules]
        self.results: list[dict[str, Any]] = []
        self.videos: list[np.ndarray] = []

    @contextlib.contextmanager
    def on_device(self, modules: Sequence[torch.nn.Module], watch: Stopwatch) -> Iterator[None]:
        with watch.time("move"):
            copy_weights(modules)
        yield
        with watch.time("move"):
            copy_weights(modules)

    @torch.inference_mode()
    def run(self, item: Mapping[str, Any], latents: np.ndarray, watch: Stopwatch) -> None:
        """Rewrite, generate and score one prompt's candidates of all rounds."""
        prompt = item["prompt"]
        for number, work in enumerate(item["rounds"]):
            if number:
                with self.on_device(self.proposer.modules, watch), watch.time("propose"):
                    self.proposer.propose(prompt, len(work["texts"]), work["num_tokens"])
            videos = []
            with self.on_device(self.generator.modules, watch), watch.time("generate"):
                for text in work["texts"]:
                    videos.append(self.generator.generate(text, latents))
            with self.on_device(self.judge_modules, watch):
                for text, video in zip(work["texts"], videos, strict=True):
                    with watch.time("score"):
                        pixels = (video * 255).round().astype(np.uint8)
                        scores: dict[str, float] = {}
                        for judge in self.judges:
                            scores |= judge.score(pixels, prompt)
                    row = {"prompt": prompt, "text": text, "round": number, "scores": scores}
                    self.results.append(row)
            self.videos += videos


def main() -> None:
    """Runs the loop and writes results.json and videos.npy beside the work file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="with work.json and latents.npy")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = arguments.folder
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    latents = np.load(folder / "latents.npy")
    start = time.perf_counter()
    loop = Loop(work)
    load_seconds = time.perf_counter() - start
    loop.run(work["prompts"][0], latents[:1], Stopwatch())  # threads and memory are set up
    loop.results.clear()
    loop.videos.clear()
    watch = Stopwatch()
    start = time.perf_counter()
    for index, item in enumerate(work["prompts"]):
        loop.run(item, latents[index : index + 1], watch)
        (folder / "scores.json").write_text(json.dumps(loop.results, indent=4))
    total = time.perf_counter() - start
    np.save(folder / "videos.npy", np.stack(loop.videos))
    result = {
        "seconds": total,
        "load_seconds": load_seconds,
        "parts": dict(watch.seconds) | {"bookkeeping": total - watch.seconds.total()},
        "threads": arguments.threads,
        "rows": loop.results,
    }
    (folder / "results.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
