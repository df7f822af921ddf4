"""Wan 2.1 transformer checkpoints: config.json and tensor names of diffusers' `WanTransformer3DModel`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models.wan.transformer import WanConfig, WanTransformer
from pav_jax.models.weights import Weight

STEM = "diffusion_pytorch_model"
CLASS_NAME = "WanTransformer3DModel"
# fields of diffusers' configuration that this model has in one value only; the null ones are of image-to-video
FIXED = {"qk_norm": "rms_norm_across_heads", "image_dim": None, "added_kv_proj_dim": None, "pos_embed_seq_len": None}


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> WanConfig:
    """Reads a diffusers transformer config; fields it does not name take diffusers' defaults.

    Raises:
      BadInput: another class, or a choice this model does not have.
    """
    if hf.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise BadInput(f"{source}: _class_name is {hf['_class_name']!r}, {CLASS_NAME!r} was expected")
    for name, value in FIXED.items():
        if hf.get(name, value) != value:
            raise BadInput(f"{source}: {name} is {hf[name]!r}; only {value!r} is supported (text-to-video)")
    known = {field.name for field in dataclasses.fields(WanConfig)}
    config = WanConfig(**{name: value for name, value in hf.items() if name in known})
    config = dataclasses.replace(config, patch_size=tuple(config.patch_size),
                                 out_channels=config.out_channels or config.in_channels)
    if len(config.patch_size) != 3:
        raise BadInput(f"{source}: patch_size is {list(config.patch_size)}; [frames, height, width] was expected")
    if config.attention_head_dim % 2:
        raise BadInput(f"{source}: attention_head_dim is {config.attention_head_dim}; it must be even"
                       " for rotary positions")
    return config


def config_to_hf(config: WanConfig) -> dict[str, Any]:
    return {"_class_name": CLASS_NAME, "_diffusers_version": "0.35.0", **FIXED,
            **dataclasses.asdict(config) | {"patch_size": list(config.patch_size)}}


@functools.lru_cache(maxsize=8)
def param_shapes(config: WanConfig) -> dict:
    """The parameter tree as ShapeDtypeStructs, without computing anything."""
    arguments = (jnp.zeros((1, *config.patch_size, config.in_channels)), jnp.zeros((1, 1, config.text_dim)),
                 jnp.zeros((1,)))
    return jax.eval_shape(WanTransformer(config).init, jax.random.key(0), *arguments)["params"]


def weights(config: WanConfig) -> list[Weight]:
    """The table. What diffusers keeps in float32 whatever the type of the rest, is so here too."""
    n, block = config.num_layers, "blocks.{layer}"
    modulation = dict(transform="same", keep_float32=True)
    rows = [
        Weight("patch_embedding.weight", "patch_kernel", "conv3d", (None, None, None, None, "embed")),
        Weight("patch_embedding.bias", "patch_bias", axes=("embed",)),
        *_linear("condition_embedder.text_embedder.linear_1", "text_linear_1", (None, "embed")),
        *_linear("condition_embedder.text_embedder.linear_2", "text_linear_2", ("embed", None)),
        *_linear("condition_embedder.time_embedder.linear_1", "time_embedding/linear_1", (None, "embed"), float32=True),
        *_linear("condition_embedder.time_embedder.linear_2", "time_embedding/linear_2", ("embed", None), float32=True),
        *_linear("condition_embedder.time_proj", "time_embedding/modulation", ("embed", "mlp")),
        Weight("scale_shift_table", "scale_shift_table", axes=(None, None, "embed"), **modulation),
        *_linear("proj_out", "proj_out", ("embed", None)),
        Weight(f"{block}.scale_shift_table", "layers/scale_shift_table", axes=("layers", None, None, "embed"), layers=n,
               **modulation),
    ]
    for theirs, ours in (("attn1", "self_attention"), ("attn2", "cross_attention")):
        for name in "qkv":
            rows += _linear(f"{block}.{theirs}.to_{name}", f"layers/{ours}/{name}_proj", ("embed", "heads"), n)
        rows += _linear(f"{block}.{theirs}.to_out.0", f"layers/{ours}/o_proj", ("heads", "embed"), n)
        rows += [Weight(f"{block}.{theirs}.norm_{name}.weight", f"layers/{ours}/{name}_norm/scale",
                        axes=("layers", "heads"), layers=n) for name in "qk"]
    if config.cross_attn_norm:
        rows += [Weight(f"{block}.norm2.{theirs}", f"layers/norm2/{ours}", axes=("layers", "embed"), layers=n,
                        keep_float32=True) for theirs, ours in (("weight", "scale"), ("bias", "bias"))]
    rows += _linear(f"{block}.ffn.net.0.proj", "layers/ff_up", ("embed", "mlp"), n)
    rows += _linear(f"{block}.ffn.net.2", "layers/ff_down", ("mlp", "embed"), n)
    return rows


def _linear(hf: str, path: str, axes: tuple[str | None, str | None], layers: int = 0, float32: bool = False
            ) -> list[Weight]:
    lead = ("layers",) if layers else ()
    return [Weight(f"{hf}.weight", f"{path}/kernel", "linear", (*lead, *axes), layers, float32),
            Weight(f"{hf}.bias", f"{path}/bias", "same", (*lead, axes[1]), layers, float32)]
