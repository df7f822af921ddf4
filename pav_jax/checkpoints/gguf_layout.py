"""How GGUF files name the tensors and the configuration of each architecture, both ways.

Source: llama.cpp's converter (conversion/*.py), what llama.cpp computes of these fields
(src/models/*.cpp) and the PyPI package `gguf` (constants.py).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pav_jax.errors import BadInput
from pav_jax.models.decoder import DecoderConfig
from pav_jax.models.decoder.rotary import (
    LinearScaling,
    Llama3Scaling,
    Rope,
    YarnScaling,
    rotary_frequencies,
)

# GGUF tensor name -> Hugging Face name
TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
ROPE_FACTORS = "rope_freqs.weight"  # each rotary frequency is divided by its factor
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA3_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
LAYER_NAME_PARTS = 4  # "blk", layer, part, "weight" or "bias"
# what llama.cpp assumes of Gemma 3 where a file does not say it
GEMMA3_PERIOD = 6
GEMMA3_LOCAL_THETA = 10_000.0
GEMMA3_27B_LAYERS = 62
# Llama 3's; files hold only the factors that follow from them
LLAMA3_LOW = 1.0
LLAMA3_HIGH = 4.0
LLAMA3_CONTEXTS = tuple(2**i for i in range(4, 21))
# config.json's field -> metadata field after "<architecture>."
CONFIG_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
REQUIRED = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
Refuse = Callable[[str, str], BadInput]  # (field, problem) -> the error


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One value of `general.architecture`.

    Attributes:
      name: that value.
      model_type: config.json's name.
      layer_tensors: GGUF's name of a layer's part -> Hugging Face's.
      hidden_act: the activation that llama.cpp computes.
      biases: switches of `DecoderConfig` for biases that llama.cpp reads.
      is_permuted: whether the rows of q and k are stored in pairs.
      norm_offset: is added to the factors of norms.
    """

    name: str
    model_type: str
    layer_tensors: Mapping[str, str]
    hidden_act: str = "silu"
    biases: tuple[str, ...] = ()
    is_permuted: bool = False
    norm_offset: float = 0.0

    def hf_name(self, name: str) -> str | None:
        """Return the Hugging Face name of a tensor; None if the model has no such tensor."""
        if not name.startswith("blk."):
            return TENSORS.get(name)
        parts = name.split(".")
        if len(parts) != LAYER_NAME_PARTS or parts[2] not in self.layer_tensors:
            return None
        _, layer, part, kind = parts
        return f"model.layers.{layer}.{self.layer_tensors[part]}.{kind}"

    def gguf_name(self, hf_name: str) -> str | None:
        """Return GGUF's name of a tensor; None if the architecture has no such tensor."""
        names = {hf: name for name, hf in TENSORS.items()}
        if hf_name in names or not hf_name.startswith("model.layers."):
            return names.get(hf_name)
        modules = {hf: name for name, hf in self.layer_tensors.items()}
        _, _, layer, rest = hf_name.split(".", 3)
        module, _, kind = rest.rpartition(".")
        return f"blk.{layer}.{modules[module]}.{kind}" if module in modules else None

    def from_gguf(self, array: np.ndarray, hf_name: str, config: DecoderConfig) -> np.ndarray:
        """Change a stored tensor to the Hugging Face layout."""
        if (heads := self._permuted_heads(hf_name, config)) is not None:
            half = array.shape[0] // heads // 2
            pairs = array.reshape(heads, half, 2, *array.shape[1:])
            return pairs.swapaxes(1, 2).reshape(array.shape)
        return array - self.norm_offset if hf_name.endswith("norm.weight") else array

    def to_gguf(self, array: np.ndarray, hf_name: str, config: DecoderConfig) -> np.ndarray:
        """Change a tensor in the Hugging Face layout to the stored one.

        Rotary positions rotate pairs of rows; in a permuted architecture the two rows of a pair
        are side by side.
        """
        if (heads := self._permuted_heads(hf_name, config)) is not None:
            half = array.shape[0] // heads // 2
            halves = array.reshape(heads, 2, half, *array.shape[1:])
            return halves.swapaxes(1, 2).reshape(array.shape)
        return array + self.norm_offset if hf_name.endswith("norm.weight") else array

    def _permuted_heads(self, hf_name: str, config: DecoderConfig) -> int | None:
        if self.is_permuted and ".q_proj." in hf_name:
            return config.num_attention_heads
        if self.is_permuted and ".k_proj." in hf_name:
            return config.num_key_value_heads
        return None


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "llama",
            "llama",
            LAYER_TENSORS,
            biases=("qkv_bias", "out_bias", "mlp_bias"),
            is_permuted=True,
        ),
        Architecture("qwen2", "qwen2", LAYER_TENSORS, biases=("qkv_bias",)),
        Architecture("qwen3", "qwen3", {**LAYER_TENSORS, **HEAD_NORMS}),
        Architecture(
            "gemma3",
            "gemma3_text",
            {**LAYER_TENSORS, **HEAD_NORMS, **GEMMA3_NORMS},
            hidden_act="gelu_pytorch_tanh",
            norm_offset=1.0,
        ),
    )
}


def architecture_of(config: DecoderConfig, name: str) -> Architecture:
    """Return the architecture that a model is stored as.

    Raises:
      BadInput: there is none, or llama.cpp would compute something else of the file.
    """
    refuse = _refusal(name)
    for architecture in ARCHITECTURES.values():
        if architecture.model_type == config.model_type:
            _check_switches(config, architecture, refuse)
            return architecture
    supported = ", ".join(each.model_type for each in ARCHITECTURES.values())
    raise refuse("model_type", f"is {config.model_type!r}; GGUF export supports {supported}")


def _refusal(name: str) -> Refuse:
    def refuse(field: str, problem: str) -> BadInput:
        return BadInput(
            f"{name}: {field} {problem}; export --to=hf and convert with llama.cpp",
            source=name,
            field=field,
        )

    return refuse


def _check_switches(config: DecoderConfig, architecture: Architecture, refuse: Refuse) -> None:
    """Refuse what the architecture's metadata cannot say."""
    for switch in ("qkv_bias", "out_bias", "mlp_bias"):
        if getattr(config, switch) and switch not in architecture.biases:
            raise refuse(switch, f"is set, which GGUF's {architecture.name} does not have")
    if config.hidden_act != architecture.hidden_act:
        raise refuse(
            "hidden_act", f"is {config.hidden_act!r}; llama.cpp computes {architecture.hidden_act}"
        )
    scaling = config.rope.scaling
    if isinstance(scaling, YarnScaling) and scaling != YarnScaling(
        scaling.factor, scaling.original_max_position_embeddings
    ):
        raise refuse("rope_scaling", "changes YaRN's own constants, which is not supported in GGUF")
    if isinstance(scaling, Llama3Scaling) and architecture.name != "llama":
        raise refuse("rope_scaling", "of type llama3 is supported in GGUF for llama only")
    if architecture.name == "gemma3":
        _check_gemma3(config, refuse)
    elif any(kind.window is not None for kind in config.layer_kinds):
        raise refuse("sliding_window", f"is set, which GGUF's {architecture.name} does not have")


def _check_gemma3(config: DecoderConfig, refuse: Refuse) -> None:
    scale = gemma3_scalar(config.num_hidden_layers, config.hidden_size, config) ** -0.5
    if not math.isclose(config.attention_scale or 0.0, scale, rel_tol=1e-6):
        raise refuse(
            "query_pre_attn_scalar", "is not the one that llama.cpp computes from head_dim"
        )
    if period(config) is None:
        raise refuse("layer_types", "do not repeat with one full layer at each period's end")
    local = {kind.rope for kind in config.layer_kinds if kind.window is not None}
    if any(rope is None or rope.scaling is not None for rope in local):
        raise refuse("rope_scaling", "of sliding layers is not supported in GGUF")


def gemma3_scalar(num_layers: int, hidden_size: int, heads: Any) -> int:
    """Return what the attention scale of Gemma 3 is the inverse square root of, in llama.cpp."""
    if num_layers == GEMMA3_27B_LAYERS:
        return hidden_size // heads.num_attention_heads
    return heads.head_dim


def period(config: DecoderConfig) -> int | None:
    """Return after how many layers one without a window follows; 0: no layer has a window; None:
    layers do not repeat so."""
    is_sliding = [kind.window is not None for kind in config.layer_kinds]
    if not any(is_sliding):
        return 0
    length = is_sliding.index(False) + 1 if False in is_sliding else len(is_sliding) + 1
    expected = [(i + 1) % length != 0 for i in range(len(is_sliding))]
    return length if is_sliding == expected else None


# ---------------------------------------------------------------------------- rotary positions


def rope_factors(config: DecoderConfig) -> np.ndarray | None:
    """Return what `rope_freqs.weight` holds of a llama3 scaling, float32 [head_dim/2]; None
    without one."""
    if not isinstance(config.rope.scaling, Llama3Scaling):
        return None
    plain = rotary_frequencies(Rope(config.rope.theta), config.head_dim)
    return np.asarray(plain / rotary_frequencies(config.rope, config.head_dim), np.float32)


def llama3_scaling(factors: np.ndarray, theta: float) -> dict[str, Any] | None:
    """Return the fields of the llama3 scaling that these factors follow from; None if there is
    none with Llama 3's own borders."""
    factor = round(float(factors.max()), 3)
    for context in LLAMA3_CONTEXTS:
        scaling = Llama3Scaling(factor, LLAMA3_LOW, LLAMA3_HIGH, context)
        rope = Rope(theta, scaling)
        head_dim = 2 * len(factors)
        expected = rotary_frequencies(Rope(theta), head_dim) / rotary_frequencies(rope, head_dim)
        if np.allclose(factors, expected, rtol=1e-4):
            return {"rope_type": "llama3", **dataclasses.asdict(scaling)}
    return None


def write_rope(writer: Any, rope: Rope) -> None:
    """Add the metadata of rotary positions to a file."""
    from gguf import RopeScalingType

    writer.add_rope_freq_base(rope.theta)
    if isinstance(rope.scaling, LinearScaling):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.scaling.factor)
    elif isinstance(rope.scaling, YarnScaling):
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope.scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(rope.scaling.original_max_position_embeddings)
