"""CogVideoX transformer checkpoints: config.json and tensor names of diffusers'
`CogVideoXTransformer3DModel`.

`patch_embed.pos_embedding` is a table diffusers can rebuild: it is ignored where a checkpoint
carries it, except in models with learned positions, where it is a parameter.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.cogvideox.transformer import CogVideoXConfig, CogVideoXTransformer
from pav_jax.models.weights import Weight, linear

STEM = "diffusion_pytorch_model"
CLASS_NAME = "CogVideoXTransformer3DModel"
# fields of diffusers' configuration that this model has in one value only
FIXED = {"activation_fn": "gelu-approximate", "timestep_activation_fn": "silu"}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> CogVideoXConfig:
    """Reads a diffusers transformer config; fields it does not name take diffusers' defaults.

    Raises:
      BadInput: another class, or a choice this model does not have.
    """
    if hf.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise BadInput(
            f"{source}: _class_name is {hf['_class_name']!r}, {CLASS_NAME!r} was expected"
        )
    fields.check_fixed(hf, FIXED, source)
    config = CogVideoXConfig(**fields.select_fields(CogVideoXConfig, hf))
    if config.out_channels is None:
        config = dataclasses.replace(config, out_channels=config.in_channels)
    if config.attention_head_dim % 16 and config.use_rotary_positional_embeddings:
        raise BadInput(
            f"{source}: attention_head_dim is {config.attention_head_dim}; rotary positions need a"
            " multiple of 16"
        )
    if config.width % 16 and not config.use_rotary_positional_embeddings:
        raise BadInput(
            f"{source}: the width (heads x head size) is {config.width}; positions need a multiple"
            " of 16"
        )
    return config


def config_to_hf(config: CogVideoXConfig) -> dict[str, Any]:
    return {
        "_class_name": CLASS_NAME,
        "_diffusers_version": "0.35.0",
        **FIXED,
        "dropout": 0.0,
        **dataclasses.asdict(config),
    }


def weights(config: CogVideoXConfig) -> list[Weight]:
    return [*_ends(config), *_layers(config)]


@functools.lru_cache(maxsize=8)
def param_shapes(config: CogVideoXConfig) -> dict:
    """The parameter tree as ShapeDtypeStructs, without computing anything."""
    shape = (1, config.patch_size_t or 1, config.patch_size, config.patch_size, config.in_channels)
    arguments = (jnp.zeros(shape), jnp.zeros((1, 1, config.text_embed_dim)), jnp.zeros((1,)))
    return jax.eval_shape(CogVideoXTransformer(config).init, jax.random.key(0), *arguments)[
        "params"
    ]


def _norm(hf: str, path: str, axis: str | None = "embed", layers: int = 0) -> list[Weight]:
    axes = ("layers", axis) if layers else (axis,)
    return [
        Weight(f"{hf}.weight", f"{path}/scale", axes=axes, layers=layers),
        Weight(f"{hf}.bias", f"{path}/bias", axes=axes, layers=layers),
    ]


def _ends(config: CogVideoXConfig) -> list[Weight]:
    affine = config.norm_elementwise_affine
    if config.patch_size_t is None:
        patch = [
            Weight(
                "patch_embed.proj.weight",
                "patch_embed/kernel",
                "conv2d",
                (None, None, None, "embed"),
            )
        ]
    else:
        patch = [Weight("patch_embed.proj.weight", "patch_embed/kernel", "linear", (None, "embed"))]
    if config.patch_bias or config.patch_size_t is not None:
        patch.append(Weight("patch_embed.proj.bias", "patch_embed/bias", axes=("embed",)))
    if config.use_learned_positional_embeddings:
        patch.append(
            Weight(
                "patch_embed.pos_embedding", "patch_embed/pos_embedding", axes=(None, None, "embed")
            )
        )
    embeddings = ["time_embedding"] + ["ofs_embedding"] * bool(config.ofs_embed_dim)
    return [
        *patch,
        *linear("patch_embed.text_proj", "patch_embed/text_proj", (None, "embed")),
        *(
            row
            for name in embeddings
            for i in (1, 2)
            for row in linear(f"{name}.linear_{i}", f"{name}/linear_{i}", (None, None))
        ),
        *_norm("norm_final", "norm_final") * affine,
        *linear("norm_out.linear", "out_modulation", (None, "embed")),
        *_norm("norm_out.norm", "norm_out") * affine,
        *linear("proj_out", "proj_out", ("embed", None)),
    ]


def _layers(config: CogVideoXConfig) -> list[Weight]:
    n, block = config.num_layers, "transformer_blocks.{layer}"
    rows = []
    for norm in ("norm1", "norm2"):
        rows += linear(f"{block}.{norm}.linear", f"layers/{norm}/linear", (None, "embed"), layers=n)
        rows += (
            _norm(f"{block}.{norm}.norm", f"layers/{norm}/norm", layers=n)
            * config.norm_elementwise_affine
        )
    for ours in "qkv":
        kernel, bias = linear(
            f"{block}.attn1.to_{ours}", f"layers/attention/{ours}_proj", ("embed", "heads"), n
        )
        rows += [kernel, bias] if config.attention_bias else [kernel]
    for ours in "qk":
        rows += _norm(f"{block}.attn1.norm_{ours}", f"layers/attention/{ours}_norm", None, n)
    rows += linear(
        f"{block}.attn1.to_out.0", "layers/attention/o_proj", ("heads", "embed"), layers=n
    )
    rows += linear(f"{block}.ff.net.0.proj", "layers/ff_up", ("embed", "mlp"), layers=n)
    rows += linear(f"{block}.ff.net.2", "layers/ff_down", ("mlp", "embed"), layers=n)
    return rows
