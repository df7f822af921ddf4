"""A tiny random CogVideoX pipeline, made in memory; shared by the tests of generation."""

import jax
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pav_jax.models.cogvideox import transformer_hf, vae_hf
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.cogvideox.vae import CogVideoXVAE, CogVideoXVAEConfig
from pav_jax.models.t5 import T5Config, T5Encoder
from pav_jax.models.t5 import hf as t5_hf
from pav_jax.video import VideoModel, schedulers
from pav_jax.video.cogvideox import CogVideoX
from pav_jax.video.generation_config import GenerationConfig


def tiny_tokenizer(tokens: int) -> PreTrainedTokenizerFast:
    words = [
        "<pad>",
        "</s>",
        "<unk>",
        "a",
        "red",
        "ball",
        "bounces",
        "on",
        "grass",
        "two",
        "cats",
        "dark",
        "blurred",
    ]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=tokens,
    )


def random_params(shapes, rng, scale):
    """Random weights; norms' scales near one, so that activations neither vanish nor explode."""

    def leaf(path, shape):
        values = scale * rng.standard_normal(shape.shape, dtype=np.float32)
        return values + 1 if path[-1].key == "scale" else values

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_model(seed: int, scheduler: dict, kind: str = "2b", **defaults) -> VideoModel:
    """kind: "2b" sinusoidal positions, "5b" rotary, "1.5" rotary with patches of two latent
    frames."""
    rng = np.random.default_rng(seed)
    vae = CogVideoXVAEConfig(
        block_out_channels=(8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
        scaling_factor=float(rng.choice([0.7, 1.15])),
        sample_height=8,
        sample_width=16,
    )
    text = T5Config(vocab_size=20, width=16, head_size=4, heads=2, layers=1, ff_width=24)
    denoiser = CogVideoXConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        time_embed_dim=8,
        text_embed_dim=16,
        sample_width=8,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=8,
        temporal_compression_ratio=2,
        use_rotary_positional_embeddings=kind != "2b",
        patch_size_t=2 if kind == "1.5" else None,
    )
    family = CogVideoX(
        tiny_tokenizer(8),
        T5Encoder(text),
        CogVideoXTransformer(denoiser),
        CogVideoXVAE(vae),
        schedulers.load(scheduler),
    )
    params = {
        "text_encoder": random_params(t5_hf.param_shapes(text), rng, 0.3),
        "transformer": random_params(transformer_hf.param_shapes(denoiser), rng, 0.15),
        "vae": random_params(vae_hf.param_shapes(vae), rng, 0.15),
    }
    return VideoModel(family, params, GenerationConfig(**defaults))
