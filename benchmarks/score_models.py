"""What benchmarks/score.py measures: models with random weights, their torch originals, and their
FLOPs by formula."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing  # vocabulary: ignore
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics2 import modeling_idefics2 as idefics2
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from pav_jax.checkpoints.safetensors import write_tensors
from pav_jax.models.clip import hf as clip_hf
from pav_jax.models.mps import CrossConfig, MPSConfig
from pav_jax.models.mps import hf as mps_hf
from pav_jax.rewards import VideoScore
from pav_jax.rewards.aesthetic import HEAD_FOLDER, HeadConfig
from pav_jax.rewards.idefics2_processor import FENCE, IMAGE
from pav_jax.rewards.preprocess import frame_indices
from pav_jax.storage.json_files import write_json

FRAMES = 4  # of each video that AES, TVA and MPS see
VOCABULARY = "a red blue green ball star fish cat dog rises falls spins over the sea"
WORDS = VOCABULARY.split()
RELEVANT = 0.3  # see pav_jax.models.mps


# ------------------------------------------------------------------------------------------ folders


def write_tokenizer(folder: Path, extra: tuple[str, ...] = ()) -> None:
    words = ["<pad>", "<unk>", "<bos>", "<eos>", *WORDS]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
    fast.add_special_tokens({"additional_special_tokens": list(extra)})
    fast.save_pretrained(folder)


def write_clip(folder: Path, tiny: bool) -> transformers.CLIPModel:
    """A CLIP with a linear aesthetic head."""
    ids = dict(bos_token_id=2, eos_token_id=3, pad_token_id=0)
    small = (
        dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
        if tiny
        else {}
    )
    seen = dict(image_size=64) if tiny else {}
    config = transformers.CLIPConfig(
        text_config=small | ids, vision_config=small | seen, projection_dim=32 if tiny else 512
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    tensors = {
        "weight": torch.randn(1, config.projection_dim).numpy(),
        "bias": np.zeros(1, np.float32),
    }
    write_tensors(folder / HEAD_FOLDER, tensors, "model")
    head = HeadConfig("linear", config.projection_dim)
    write_json(
        folder / HEAD_FOLDER / "config.json", {"kind": head.kind, "input_dim": head.input_dim}
    )
    return model


def write_mps(
    folder: Path, tiny: bool
) -> tuple[transformers.CLIPModel, CrossConfig, dict[str, torch.Tensor]]:
    """Towers of the CLIP's sizes with their own weights, and cross layers of the published number
    and proportions."""
    clip = write_clip(folder, tiny)
    width = clip.config.projection_dim
    cross = CrossConfig(
        heads=width // 16 if tiny else width // 64, head_dim=16 if tiny else 64, ff_width=4 * width
    )
    config = MPSConfig(clip_hf.config_from_hf(clip.config.to_dict()), cross)
    inner = cross.heads * cross.head_dim
    head = cross.head_dim
    ff = cross.ff_width
    matrix = lambda out, into: torch.randn(out, into) / into**0.5  # noqa: E731
    tensors = {
        f"model.{name}": t for name, t in clip.state_dict().items() if "post_layernorm" not in name
    }
    for i in range(cross.layers):
        a = f"cross_model.layers.{i}.0.fn."
        b = f"cross_model.layers.{i}.1.fn."
        tensors |= {
            f"{a}to_q.weight": matrix(inner, width),
            f"{a}to_kv.weight": matrix(2 * head, width),
            f"{a}to_out.weight": matrix(width, inner),
            f"{a}ff.0.weight": matrix(2 * ff, width),
            f"{a}ff.2.weight": matrix(width, ff),
            f"{b}attn_out.weight": matrix(width, inner),
            f"{b}fused_attn_ff_proj.weight": matrix(inner + 2 * head + 2 * ff, width),
            f"{b}ff_out.1.weight": matrix(width, ff),
        }
        tensors |= {
            f"{x}norm.{part}": make(width)
            for x in (a, b)
            for part, make in (("weight", torch.ones), ("bias", torch.zeros))
        }
    write_tensors(
        folder, {name: t.detach().contiguous().numpy() for name, t in tensors.items()}, "model"
    )
    write_json(folder / "config.json", mps_hf.config_to_hf(config))
    return clip, cross, tensors


class TorchVideoScore(idefics2.Idefics2PreTrainedModel):
    """VideoScore's architecture: an Idefics2 and a linear head on the last token."""

    def __init__(self, config):
        super().__init__(config)
        self.model = idefics2.Idefics2Model(config)
        self.score = torch.nn.Linear(config.text_config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, **inputs):
        return self.score(self.model(**inputs, use_cache=False).last_hidden_state[:, -1])


def write_videoscore(folder: Path, tiny: bool) -> TorchVideoScore:
    write_tokenizer(folder, (FENCE, IMAGE))
    tokens = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    width, layers = (32, 2) if tiny else (512, 8)
    common = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=2 if tiny else 8)
    config = idefics2.Idefics2Config(
        text_config=common
        | dict(
            model_type="mistral",
            vocab_size=len(tokens),
            intermediate_size=2 * width,
            num_key_value_heads=2,
            pad_token_id=0,
        ),
        vision_config=common | dict(intermediate_size=4 * width, patch_size=14, image_size=980),
        perceiver_config=dict(
            hidden_size=width,
            resampler_n_latents=4 if tiny else 64,
            num_key_value_heads=2,
            resampler_n_heads=2 if tiny else 8,
            resampler_head_dim=16 if tiny else 64,
        ),
        image_token_id=tokens.convert_tokens_to_ids(IMAGE),
    )
    config.num_labels = 5
    judge = TorchVideoScore(config).eval()
    judge.save_pretrained(folder)
    if tiny:
        write_json(
            folder / "preprocessor_config.json", {"size": {"shortest_edge": 42, "longest_edge": 56}}
        )
    return judge


# ------------------------------------------------------------------------------ the torch originals


def torch_clip_scores(
    clip,
    towers,
    cross: CrossConfig,
    tensors,
    ids: torch.Tensor,
    condition: torch.Tensor,
    head: torch.Tensor,
    images: CLIPImageProcessorPil,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    def score(videos: np.ndarray) -> dict[str, np.ndarray]:
        b = len(videos)
        frames = videos[:, frame_indices(videos.shape[1], FRAMES)]
        pixels = images(list(frames.reshape(-1, *frames.shape[2:])), return_tensors="pt")[
            "pixel_values"
        ]
        unit = torch.nn.functional.normalize
        image = unit(clip.visual_projection(clip.vision_model(pixels).pooler_output), dim=-1)
        text = unit(clip.text_projection(clip.text_model(ids).pooler_output), dim=-1)
        cosines = (image.reshape(b, FRAMES, -1) * text[:, None]).sum(-1)
        scores = {
            "AES": (image @ head).reshape(b, -1).mean(1),
            "TVA": clip.logit_scale.exp() * cosines.mean(1),
        }
        said = towers.text_model(ids)
        words, end = (
            towers.text_projection(x) for x in (said.last_hidden_state, said.pooler_output)
        )
        listed = towers.text_projection(towers.text_model(condition).last_hidden_state)[0]
        best = (words @ listed.T).max(-1).values
        mask = best / best.max(-1, keepdim=True).values > RELEVANT
        words, end, mask = (x.repeat_interleave(FRAMES, 0) for x in (words, end, mask))
        x = read(
            towers.visual_projection(towers.vision_model(pixels).last_hidden_state),
            words,
            mask,
            cross,
            tensors,
        )
        scores["MPS"] = (
            (towers.logit_scale.exp() * torch.cosine_similarity(end, x[:, 0]))
            .reshape(b, -1)
            .mean(1)
        )
        return {name: value.numpy() for name, value in scores.items()}

    return torch.inference_mode()(score)


def read(
    x: torch.Tensor, words: torch.Tensor, mask: torch.Tensor, cross: CrossConfig, w: dict
) -> torch.Tensor:
    """MPS's cross layers: image tokens x [B, S, P] attend to the text's tokens [B, T, P] where
    `mask` [B, T] is set."""
    attend = torch.nn.functional.scaled_dot_product_attention
    linear = torch.nn.functional.linear
    inner = cross.heads * cross.head_dim
    size = cross.head_dim
    ff = cross.ff_width
    heads = lambda q: q.unflatten(-1, (-1, size)).transpose(1, 2)  # noqa: E731

    def gated(y: torch.Tensor) -> torch.Tensor:
        value, gate = y.chunk(2, -1)
        return value * torch.nn.functional.silu(gate)

    def rotate(q: torch.Tensor) -> torch.Tensor:
        """Applies rotary position embeddings to q [B, N, S, H]."""
        angle = torch.outer(
            torch.arange(q.shape[2]), cross.rope_theta ** (-torch.arange(0, size, 2) / size)
        )
        first, second = q.chunk(2, -1)
        return torch.cat(
            [
                first * angle.cos() - second * angle.sin(),
                first * angle.sin() + second * angle.cos(),
            ],
            -1,
        )

    for i in range(cross.layers):
        name = f"cross_model.layers.{i}.0.fn."
        h = torch.nn.functional.layer_norm(
            x, x.shape[-1:], w[f"{name}norm.weight"], w[f"{name}norm.bias"]
        )
        k, v = linear(words, w[f"{name}to_kv.weight"])[:, None].chunk(2, -1)
        q = heads(linear(h, w[f"{name}to_q.weight"]))
        seen = attend(q, k, v, attn_mask=mask[:, None, None]).transpose(1, 2).flatten(2)
        x = (
            x
            + linear(seen, w[f"{name}to_out.weight"])
            + linear(gated(linear(h, w[f"{name}ff.0.weight"])), w[f"{name}ff.2.weight"])
        )
        name = f"cross_model.layers.{i}.1.fn."
        h = torch.nn.functional.layer_norm(
            x, x.shape[-1:], w[f"{name}norm.weight"], w[f"{name}norm.bias"]
        )
        q, k, v, beside = linear(h, w[f"{name}fused_attn_ff_proj.weight"]).split(
            [inner, size, size, 2 * ff], -1
        )
        mixed = attend(rotate(heads(q)), rotate(k[:, None]), v[:, None]).transpose(1, 2).flatten(2)
        x = (
            x
            + linear(mixed, w[f"{name}attn_out.weight"])
            + linear(gated(beside), w[f"{name}ff_out.1.weight"])
        )
    return x


def torch_videoscore(
    judge: TorchVideoScore, ours: VideoScore, images: Idefics2ImageProcessorPil, prompts: list[str]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    def score(videos: np.ndarray) -> dict[str, np.ndarray]:
        rows = []
        for video, prompt in zip(videos, prompts, strict=True):
            ids, _ = ours.processor.texts([ours.text(prompt, len(video))])
            rows.append(
                judge(
                    input_ids=torch.from_numpy(ids).long(),
                    **images([list(video)], return_tensors="pt"),
                )
            )
        return dict(zip(ours.names, torch.cat(rows).numpy().T, strict=True))

    return torch.inference_mode()(score)


# -------------------------------------------------------------------------------------------- FLOPs


def tower_flops(tokens: int, width: int, ff: int, layers: int) -> float:
    """A transformer's matrix products and attention: queries, keys, values and output 8, a
    feed-forward of two 4."""
    return layers * (tokens * (8 * width**2 + 4 * width * ff) + 4 * tokens**2 * width)


def clip_flops(config: transformers.CLIPConfig) -> tuple[float, float]:
    """(an image, a text)"""
    v = config.vision_config
    t = config.text_config
    patches = (v.image_size // v.patch_size) ** 2
    image = tower_flops(patches + 1, v.hidden_size, v.intermediate_size, v.num_hidden_layers)
    text = tower_flops(
        t.max_position_embeddings, t.hidden_size, t.intermediate_size, t.num_hidden_layers
    )
    return image + 6 * patches * v.patch_size**2 * v.hidden_size, text


def cross_flops(config: transformers.CLIPConfig, cross: CrossConfig) -> float:
    """The cross layers for one frame."""
    s = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    t = 77
    p = config.projection_dim
    inner = cross.heads * cross.head_dim
    head = cross.head_dim
    ff = cross.ff_width
    dense = 2 * s * p * (4 * inner + 2 * head + 6 * ff) + 4 * t * p * head
    return cross.layers * (dense + 4 * s * (s + t) * inner)


def videoscore_flops(
    config: idefics2.Idefics2Config, patches: int, frames: int, tokens: int
) -> float:
    """One video. `tokens`: of its text, the frames' included, without padding."""
    v = config.vision_config
    t = config.text_config
    r = config.perceiver_config
    seen = tower_flops(patches, v.hidden_size, v.intermediate_size, v.num_hidden_layers)
    latents = r.resampler_n_latents
    width = t.hidden_size
    seen += (
        2
        * patches
        * (3 * v.patch_size**2 * v.hidden_size + t.intermediate_size * (2 * v.hidden_size + width))
    )
    both = patches + latents
    kv = r.num_key_value_heads * r.resampler_head_dim
    heads = r.resampler_n_heads * r.resampler_head_dim
    seen += r.resampler_depth * (
        4 * latents * width * heads
        + 4 * both * width * kv
        + 4 * latents * both * heads
        + 24 * latents * width**2
    )
    size = width // t.num_attention_heads
    layer = (
        4 * tokens * width * (width + t.num_key_value_heads * size)
        + 6 * tokens * width * t.intermediate_size
    )
    return frames * seen + t.num_hidden_layers * (layer + 4 * tokens**2 * width)
