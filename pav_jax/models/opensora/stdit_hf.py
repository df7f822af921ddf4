"""STDiT3 checkpoints: config.json and tensor names of the published folder OpenSora-STDiT-v3."""

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

STEM = "model"
MODEL_TYPE = "STDiT3"


def config_from_hf(hf: Mapping[str, Any], source: str = "config.json") -> STDiT3Config:
    """Reads the fields that shape the model; those of training and of CUDA kernels are ignored.

    Raises:
      BadInput: another class, or sizes that do not fit each other.
    """
    if (name := hf.get("model_type", MODEL_TYPE)) != MODEL_TYPE:
        raise BadInput(
            f"{source}: model_type is {name!r}, {MODEL_TYPE!r} was expected; is this the"
            " transformer?"
        )
    if hf.get("skip_y_embedder"):
        raise BadInput(
            f"{source}: skip_y_embedder is true; captions that were embedded beforehand are not"
            " supported"
        )
    config = STDiT3Config(**fields.select_fields(STDiT3Config, hf))
    if config.hidden_size % config.num_heads or config.head_size % 2:
        raise BadInput(
            f"{source}: hidden_size is {config.hidden_size}, num_heads {config.num_heads}; heads"
            " must have one even size"
        )
    if config.hidden_size % 4:
        raise BadInput(
            f"{source}: hidden_size is {config.hidden_size}; positions need a multiple of 4"
        )
    return config


def config_to_hf(config: STDiT3Config) -> dict[str, Any]:
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
    arguments = (
        jnp.zeros((1, *config.patch_size, config.in_channels)),
        jnp.zeros((1,)),
        jnp.zeros((1, 1, config.caption_channels)),
        jnp.ones((1, 1), bool),
        jnp.zeros((1,)),
    )
    init = functools.partial(STDiT3(config).init, size=(8, 8))
    return jax.eval_shape(init, jax.random.key(0), *arguments)["params"]


def weights(config: STDiT3Config) -> list[Weight]:
    """The table. What is computed in float32 (times, modulation, rotary frequencies) is kept so."""
    return [*_ends(), *_blocks(config, "spatial"), *_blocks(config, "temporal")]


def _ends() -> list[Weight]:
    return [
        Weight("rope.freqs", "rotary_frequencies", axes=(None,), keep_float32=True),
        Weight(
            "x_embedder.proj.weight",
            "patch_embed/kernel",
            "conv3d",
            (None, None, None, None, "embed"),
        ),
        Weight("x_embedder.proj.bias", "patch_embed/bias", axes=("embed",)),
        *(
            row
            for theirs, ours in (
                ("t_embedder", "time_embedding"),
                ("fps_embedder", "fps_embedding"),
            )
            for i, name in ((0, "fc1"), (2, "fc2"))
            for row in linear(f"{theirs}.mlp.{i}", f"{ours}/{name}", (None, None), float32=True)
        ),
        *linear("t_block.1", "modulation", (None, "embed"), float32=True),
        Weight("y_embedder.y_embedding", "null_caption", axes=(None, None)),
        *linear("y_embedder.y_proj.fc1", "caption/fc1", (None, "embed")),
        *linear("y_embedder.y_proj.fc2", "caption/fc2", ("embed", None)),
        Weight(
            "final_layer.scale_shift_table", "out_table", axes=(None, "embed"), keep_float32=True
        ),
        *linear("final_layer.linear", "out", ("embed", None)),
    ]


def _blocks(config: STDiT3Config, kind: str) -> list[Weight]:
    n, block, ours = config.depth, f"{kind}_blocks.{{layer}}", f"layers/{kind}"
    norms = [
        Weight(
            f"{block}.attn.{name}.weight",
            f"{ours}/attention/{name}/scale",
            axes=("layers", None),
            layers=n,
        )
        for name in ("q_norm", "k_norm")
    ]
    return [
        Weight(
            f"{block}.scale_shift_table",
            f"{ours}/scale_shift_table",
            axes=("layers", None, "embed"),
            layers=n,
            keep_float32=True,
        ),
        *linear(f"{block}.attn.qkv", f"{ours}/attention/qkv", ("embed", "heads"), n),
        *(norms if config.qk_norm else []),
        *linear(f"{block}.attn.proj", f"{ours}/attention/proj", ("heads", "embed"), n),
        *linear(
            f"{block}.cross_attn.q_linear",
            f"{ours}/cross_attention/q_linear",
            ("embed", "heads"),
            n,
        ),
        *linear(
            f"{block}.cross_attn.kv_linear",
            f"{ours}/cross_attention/kv_linear",
            ("embed", "heads"),
            n,
        ),
        *linear(f"{block}.cross_attn.proj", f"{ours}/cross_attention/proj", ("heads", "embed"), n),
        *linear(f"{block}.mlp.fc1", f"{ours}/mlp/fc1", ("embed", "mlp"), n),
        *linear(f"{block}.mlp.fc2", f"{ours}/mlp/fc2", ("mlp", "embed"), n),
    ]
