"""STDiT3 checkpoints: the published folder OpenSora-STDiT-v3, both ways."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.errors import BadInput
from pav_jax.models import fields
from pav_jax.models.opensora.stdit import STDiT3, STDiT3Config
from pav_jax.models.weights import Weight, linear
from pav_jax.typed_fields import read_fields

STEM = "model"
MODEL_TYPE = "STDiT3"


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> STDiT3Config:
    """Read the fields of the model's sizes; those of training and CUDA kernels are ignored.

    Raises:
      BadInput: another class, or inconsistent sizes.
    """
    fields.check_class(hf, "model_type", MODEL_TYPE, source, "; is this the transformer?")
    if hf.get("skip_y_embedder"):
        raise BadInput(
            f"{source}: skip_y_embedder is true; captions that were embedded beforehand are not"
            " supported",
            source=source,
            field="skip_y_embedder",
        )
    config = read_fields(STDiT3Config, hf, source)
    if config.hidden_size % config.num_heads or config.head_size % 2:
        raise BadInput(
            f"{source}: hidden_size is {config.hidden_size}, num_heads {config.num_heads}; heads"
            " must have one even size",
            source=source,
            field="hidden_size",
        )
    if config.hidden_size % 4:
        raise BadInput(
            f"{source}: hidden_size is {config.hidden_size}; positions need a multiple of 4",
            source=source,
            field="hidden_size",
        )
    return config


def config_to_hf(config: STDiT3Config) -> dict[str, Any]:
    """Return a config.json with the published field names."""
    return {
        "architectures": [MODEL_TYPE],
        "model_type": MODEL_TYPE,
        "torch_dtype": "float32",
        "input_size": [None, None, None],
        **dataclasses.asdict(config),
        "patch_size": list(config.patch_size),
    }


@functools.lru_cache(maxsize=8)
def param_shapes(config: STDiT3Config) -> dict:
    """Return the parameter tree as ShapeDtypeStructs, without computing anything."""
    patch = (1, *config.patch_size, config.in_channels)
    arguments = (
        jax.ShapeDtypeStruct(patch, jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, config.caption_channels), jnp.float32),
        jax.ShapeDtypeStruct((1, 1), bool),
        jax.ShapeDtypeStruct((1,), jnp.float32),
    )
    init = functools.partial(STDiT3(config).init, size=(8, 8))
    return jax.eval_shape(init, jax.random.key(0), *arguments)["params"]


def weights(config: STDiT3Config) -> list[Weight]:
    """Return the weight table; weights that are used in float32 are kept in float32."""
    return [*_outside_layers(), *_blocks(config, "spatial"), *_blocks(config, "temporal")]


def _outside_layers() -> list[Weight]:
    patch_axes = (None, None, None, None, "embed")
    rows = [
        Weight("rope.freqs", "rotary_frequencies", axes=(None,), keep_float32=True),
        Weight("x_embedder.proj.weight", "patch_embed/kernel", "conv3d", patch_axes),
        Weight("x_embedder.proj.bias", "patch_embed/bias", axes=("embed",)),
    ]
    for hf, path in (("t_embedder", "time_embedding"), ("fps_embedder", "fps_embedding")):
        for i, name in ((0, "fc1"), (2, "fc2")):
            rows += linear(f"{hf}.mlp.{i}", f"{path}/{name}", (None, None), keep_float32=True)
    table = "final_layer.scale_shift_table"
    return [
        *rows,
        *linear("t_block.1", "modulation", (None, "embed"), keep_float32=True),
        Weight("y_embedder.y_embedding", "null_caption", axes=(None, None)),
        *linear("y_embedder.y_proj.fc1", "caption/fc1", (None, "embed")),
        *linear("y_embedder.y_proj.fc2", "caption/fc2", ("embed", None)),
        Weight(table, "out_table", axes=(None, "embed"), keep_float32=True),
        *linear("final_layer.linear", "out", ("embed", None)),
    ]


def _blocks(config: STDiT3Config, kind: str) -> list[Weight]:
    layers = config.depth
    block = f"{kind}_blocks.{{layer}}"
    path = f"layers/{kind}"

    def stacked(name: str, ours: str, *axes: str | None, keep_float32: bool = False) -> Weight:
        axes = ("layers", *axes)
        return Weight(f"{block}.{name}", f"{path}/{ours}", "same", axes, layers, keep_float32)

    def dense(name: str, ours: str, inputs: str, outputs: str) -> list[Weight]:
        return linear(f"{block}.{name}", f"{path}/{ours}", (inputs, outputs), layers)

    table = "scale_shift_table"
    rows = [stacked(table, table, None, "embed", keep_float32=True)]
    rows += dense("attn.qkv", "attention/qkv", "embed", "heads")
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            rows.append(stacked(f"attn.{name}.weight", f"attention/{name}/scale", None))
    rows += dense("attn.proj", "attention/proj", "heads", "embed")
    for name, inputs, outputs in (
        ("q_linear", "embed", "heads"),
        ("kv_linear", "embed", "heads"),
        ("proj", "heads", "embed"),
    ):
        rows += dense(f"cross_attn.{name}", f"cross_attention/{name}", inputs, outputs)
    rows += dense("mlp.fc1", "mlp/fc1", "embed", "mlp")
    return rows + dense("mlp.fc2", "mlp/fc2", "mlp", "embed")
