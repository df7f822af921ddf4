"""Random tiny checkpoints of every family of decoders, made by transformers."""

from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

FAMILIES = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma3_text",
    "smollm3",
    "phi3",
    "qwen3_moe",
)
CONTEXT = 32  # of the model before its rotary positions are stretched
LENGTH = 40  # of the tests' rows: past every window and past the original context


def random_config(family: str, seed: int) -> Any:
    """A configuration of transformers with random sizes and switches."""
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    kv_heads = int(rng.integers(1, 3))
    heads = kv_heads * int(rng.integers(1, 4))
    head_dim = 8 * int(rng.integers(1, 3))  # torch multiplies experts' rows of whole 16 bytes
    num_layers = int(rng.integers(2, 4))
    sizes = dict(
        vocab_size=int(rng.integers(60, 110)),
        hidden_size=head_dim * heads,
        intermediate_size=int(rng.integers(20, 50)),
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=bool(rng.integers(2)),
        rms_norm_eps=float(rng.choice([1e-5, 1e-6])),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return AutoConfig.for_model(family, **sizes, **_own_fields(family, rng, num_layers))


def _own_fields(family: str, rng: np.random.Generator, num_layers: int) -> dict[str, Any]:
    """Fields that differ between families."""
    if family == "phi3":
        rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        return dict(rope_parameters=rope, sliding_window=_maybe_window(rng))
    if family == "gemma3_text":
        return _gemma3_fields(rng, num_layers)
    fields: dict[str, Any] = dict(rope_parameters=_random_rope(rng))
    if family not in ("qwen2", "smollm3"):
        fields["head_dim"] = 4 * int(rng.integers(1, 5))
    if family not in ("qwen2", "mistral"):
        fields["attention_bias"] = bool(rng.integers(2))
    if family in ("llama", "smollm3"):
        fields["mlp_bias"] = bool(rng.integers(2))
    if family == "smollm3":
        fields["no_rope_layers"] = [int(i) for i in rng.permutation([0, 1, 1])[:num_layers]]
    if family != "llama":
        fields |= _window_fields(family, rng, num_layers)
    if family == "qwen3_moe":
        fields |= dict(
            num_experts=int(rng.integers(3, 7)),
            num_experts_per_tok=int(rng.integers(1, 4)),
            moe_intermediate_size=8 * int(rng.integers(1, 4)),
            norm_topk_prob=bool(rng.integers(2)),
        )
    return fields


def _window_fields(family: str, rng: np.random.Generator, num_layers: int) -> dict[str, Any]:
    window = _maybe_window(rng)
    if family == "mistral" or window is None:
        return {"sliding_window": window}
    types = {} if family == "qwen3_moe" else {"layer_types": _layer_types(rng, num_layers)}
    return dict(use_sliding_window=True, sliding_window=window, **types)


def _gemma3_fields(rng: np.random.Generator, num_layers: int) -> dict[str, Any]:
    scaling = {"rope_type": "linear", "factor": 8.0} if rng.integers(2) else {}
    return dict(
        head_dim=4 * int(rng.integers(1, 5)),
        query_pre_attn_scalar=int(rng.integers(4, 30)),
        sliding_window=int(rng.integers(3, 20)),
        layer_types=_layer_types(rng, num_layers),
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e6, **scaling},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )


def _maybe_window(rng: np.random.Generator) -> int | None:
    return int(rng.integers(3, 20)) if rng.integers(2) else None


def _layer_types(rng: np.random.Generator, num_layers: int) -> list[str]:
    return [
        str(rng.choice(["full_attention", "sliding_attention"])) for _ in range(num_layers - 1)
    ] + ["sliding_attention"]


def _random_rope(rng: np.random.Generator) -> dict[str, Any]:
    theta = float(rng.choice([1e4, 5e5, 1e6]))
    length = {"original_max_position_embeddings": CONTEXT}
    factor = float(rng.choice([2.0, 4.0, 8.0]))
    types = (
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": factor},
        {"rope_type": "yarn", "factor": factor, **length},
        {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            **length,
        },
    )
    return {"rope_theta": theta, **types[rng.integers(len(types))]}


def torch_model(family: str, seed: int, **changes: Any) -> Any:
    """A model of transformers whose weights are all random: biases and norms start at constants
    that would hide mistakes. `changes` replace fields of its configuration."""
    torch.manual_seed(seed)
    config = random_config(family, seed)
    for name, value in changes.items():
        setattr(config, name, value)
    return _randomize(AutoModelForCausalLM.from_config(config))


def tiny_gemma3_vlm(seed: int) -> Any:
    """A random vision-language model with a decoder of gemma3_text."""
    torch.manual_seed(seed)
    text = random_config("gemma3_text", seed).to_dict()
    vision = dict(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=4,
        model_type="siglip_vision_model",
    )
    config = Gemma3Config(
        text_config={**text, "vocab_size": 80},
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=79,
        boi_token_index=78,
        eoi_token_index=77,
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return _randomize(Gemma3ForConditionalGeneration(config))


def _randomize(model: Any) -> Any:
    model = model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif parameter.abs().max() == 0:  # the router of a mixture of experts
                parameter.normal_(0.0, 0.5)
    return model
